"""The dual gate by hand-worked figures: who replaces the incumbent, and why not."""

from dataclasses import replace
from typing import Any

import pytest

from fer_assets.stages.job import Job
from fer_assets.stages.student_selection import (
    Figures,
    build_selection,
    dual_gate,
    gate_selection,
    rule_text,
    select,
    weakest_f1,
)
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profiles import CANDIDATES, Profile, Selection, sample
from fer_ml.storage.gates import gates_of
from fer_ml.storage.store import Artifact, Store

CE, KD, DKD = CANDIDATES
LIMITS = Selection()
OLD = Figures(
    val_macro_f1=0.80, val_weakest_f1=0.60, demo_macro_f1=0.50, demo_flips_per_minute=20.0
)
#: Just inside every limit: loses 0.01 and 0.02, is better, and flips 10 % more.
EDGE = Figures(
    val_macro_f1=0.79, val_weakest_f1=0.58, demo_macro_f1=0.51, demo_flips_per_minute=22.0
)
UNSEEN = {"demo_macro_f1": None, "demo_flips_per_minute": None}


def failed(new: Figures, old: Figures = OLD, limits: Selection = LIMITS) -> list[str]:
    return [check.rule for check in dual_gate(new, old, limits) if check.passed is False]


def test_the_weakest_three_are_each_students_own() -> None:
    f1 = dict(zip(CLASSES, (0.9, 0.1, 0.8, 0.3, 0.7, 0.2, 0.6), strict=True))
    assert weakest_f1(f1) == pytest.approx(0.2)


def test_exactly_at_the_limits_passes() -> None:
    assert failed(EDGE) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"val_macro_f1": 0.789}, "val_macro_f1"),
        ({"val_weakest_f1": 0.579}, "val_weakest_f1"),
        ({"demo_macro_f1": 0.50}, "demo_macro_f1"),
        ({"demo_flips_per_minute": 22.1}, "demo_flips_per_minute"),
    ],
)
def test_each_limit_is_a_gate_of_its_own(change: dict[str, float], rule: str) -> None:
    new = replace(EDGE, **change)
    assert failed(new) == [rule]
    assert select({CE: OLD, KD: new, DKD: new}, LIMITS)[0] == CE


def test_the_limits_are_those_of_the_profile() -> None:
    strict = Selection(macro_f1_loss=0, weakest_f1_loss=0, flips_gain=0)
    assert failed(EDGE, limits=strict) == [
        "val_macro_f1",
        "val_weakest_f1",
        "demo_flips_per_minute",
    ]
    text = rule_text(Selection(macro_f1_loss=0.03, weakest_f1_loss=0.05, flips_gain=0.25))
    for part in ("macro-F1 falls by at most 0.03 ", "classes by at most 0.05;", "25% more flips"):
        assert part in text


def test_nobody_is_calmer_than_no_flip_at_all() -> None:
    still = replace(OLD, demo_flips_per_minute=0.0)
    assert failed(replace(EDGE, demo_flips_per_minute=0.0), still) == []
    assert failed(replace(EDGE, demo_flips_per_minute=0.1), still) == ["demo_flips_per_minute"]


def test_a_student_that_shows_more_may_lose_a_little_on_val() -> None:
    chosen, checks = select({CE: OLD, KD: EDGE, DKD: replace(EDGE, demo_macro_f1=0.4)}, LIMITS)
    assert chosen == KD
    assert list(checks) == [KD, DKD], "the incumbent has nothing to be checked against"


def test_of_those_that_pass_the_best_on_val_wins_and_a_tie_goes_to_the_earlier() -> None:
    better = replace(EDGE, val_macro_f1=0.82)
    assert select({CE: OLD, KD: EDGE, DKD: better}, LIMITS)[0] == DKD
    assert select({CE: OLD, KD: better, DKD: better}, LIMITS)[0] == KD
    assert select({CE: OLD, KD: better, DKD: replace(better, demo_macro_f1=0.9)}, LIMITS)[0] == KD
    flickers = replace(EDGE, val_macro_f1=0.95, demo_flips_per_minute=40.0)
    assert select({CE: OLD, KD: EDGE, DKD: flickers}, LIMITS)[0] == KD


def test_a_session_without_truth_is_undecided_and_leaves_the_choice_to_val() -> None:
    old, worse = replace(OLD, demo_macro_f1=None), replace(EDGE, demo_macro_f1=None)
    better = replace(worse, val_macro_f1=0.81)
    chosen, checks = select({CE: old, KD: worse, DKD: better}, LIMITS)
    assert chosen == DKD
    assert [check.passed for check in checks[KD]] == [True, True, None, True]
    assert "undecided" in checks[KD][2].reason
    # Nothing says that it is better, so a loss within the limit is still a loss.
    assert select({CE: old, KD: worse, DKD: worse}, LIMITS)[0] == CE
    assert select({CE: old, KD: replace(worse, val_macro_f1=0.80), DKD: worse}, LIMITS)[0] == CE
    # What the session can tell still counts.
    flickers = replace(better, demo_flips_per_minute=40.0)
    assert select({CE: old, KD: worse, DKD: flickers}, LIMITS)[0] == CE


def test_a_session_without_faces_decides_nothing() -> None:
    old, new = replace(OLD, **UNSEEN), replace(EDGE, val_macro_f1=0.81, **UNSEEN)
    chosen, checks = select({CE: old, KD: new, DKD: new}, LIMITS)
    assert chosen == KD
    assert [check.passed for check in checks[KD]] == [True, True, None, None]


def entry(student: str, macro_f1: float, **changes: Any) -> dict[str, Any]:
    return {
        "model_sha256": f"{student}-bytes",
        "manifest_sha256": "m" * 64,
        "split": "val",
        "rows": "official",
        "n": 100,
        "preprocess_sha256": "p" * 64,
        "views": "centre",
        "selection_split": True,
        "raw": {"macro_f1": macro_f1, "per_class_f1": dict.fromkeys(CLASSES, macro_f1)},
        **changes,
    }


def played(student: str, macro_f1: float | None, flips: float | None) -> dict[str, Any]:
    return {
        "student_sha256": f"{student}-bytes",
        "macro_f1_stabilised": macro_f1,
        "flips_per_minute_stabilised": flips,
    }


def make(store: Store, asset: str, name: str, value: Any) -> Artifact:
    with store.begin(asset) as run:
        run.write_json(name, value)
    made = store.current(asset)
    assert made is not None
    return made


def selection(
    store: Store,
    val: dict[str, dict[str, Any]],
    sessions: dict[str, dict[str, Any]],
    kind: str = "clip",
) -> Artifact:
    # The test cells are better the other way round, and must not matter.
    entries = {
        name: {"hq_train_val": held, "test_all_sources": entry(name, 1 - held["raw"]["macro_f1"])}
        for name, held in val.items()
    }
    inputs = {
        "benchmark": make(store, "benchmark", "benchmark.json", {"entries": entries}),
        "candidate_sessions": make(
            store,
            "candidate_sessions",
            "candidate_sessions.json",
            {"session": kind, "candidates": sessions},
        ),
    }
    job = Job("student_selection", None, sample(), store, {}, inputs, {})
    with store.begin("student_selection") as run:
        build_selection(run, job)
    made = store.current("student_selection")
    assert made is not None
    return made


VAL = {CE: entry(CE, 0.80), KD: entry(KD, 0.83), DKD: entry(DKD, 0.85)}
PLAYED = {CE: played(CE, 0.5, 20.0), KD: played(KD, 0.6, 21.0), DKD: played(DKD, 0.6, 30.0)}


def verdicts(artifact: Artifact, store: Store, profile: Profile) -> dict[str, bool]:
    outcomes = gate_selection(artifact, store, profile)
    rules = [outcome.rule for outcome in outcomes]
    assert rules == [gate.rule for gate in gates_of("student_selection")]
    return {outcome.rule: outcome.passed for outcome in outcomes}


def test_the_file_holds_every_figure_limit_and_verdict(store: Store) -> None:
    made = selection(store, VAL, PLAYED)
    held = made.read_json("selection.json")
    assert (held["selected"], held["sha256"]) == (KD, f"{KD}-bytes")
    assert held["limits"] == {"macro_f1_loss": 0.01, "weakest_f1_loss": 0.02, "flips_gain": 0.1}
    assert (held["split"], held["n"], held["session"]) == ("val", 100, "clip")
    assert {name: c["verdict"] for name, c in held["candidates"].items()} == {
        CE: "incumbent",
        KD: "passes",
        DKD: "fails demo_flips_per_minute",
    }
    assert held["candidates"][DKD]["checks"][3] == {
        "rule": "demo_flips_per_minute",
        "value": 30.0,
        "limit": pytest.approx(22.0),
        "passed": False,
        "reason": "30.0 a minute against 20.0; may rise by 10%",
    }
    assert made.record.splits == {"student": "val"}
    assert all(verdicts(made, store, sample()).values())


def test_a_session_that_cannot_be_replayed_is_no_obstacle(store: Store) -> None:
    made = selection(store, VAL, {}, kind="imported")
    held = made.read_json("selection.json")
    assert held["selected"] == DKD
    assert held["candidates"][KD]["verdict"] == (
        "passes; undecided: demo_macro_f1, demo_flips_per_minute"
    )
    assert all(verdicts(made, store, sample()).values())


def test_figures_that_speak_of_different_things_are_refused(store: Store) -> None:
    with pytest.raises(FerError, match=r"student_kd cannot be compared: n: 100 and 99"):
        selection(store, {**VAL, KD: entry(KD, 0.83, n=99)}, PLAYED)
    other = {**PLAYED, DKD: {**PLAYED[DKD], "student_sha256": "another one"}}
    with pytest.raises(FerError, match="speaks of student_dkd student_dkd"):
        selection(store, VAL, other)


def test_the_gates_see_a_choice_on_test_and_one_against_the_rule(store: Store) -> None:
    held = selection(store, VAL, PLAYED).read_json("selection.json")
    wrong = make(store, "student_selection", "selection.json", {**held, "selected": DKD})
    assert verdicts(wrong, store, sample()) == {"chosen_on_val": True, "selected_by_rule": False}
    wrong = make(store, "student_selection", "selection.json", {**held, "split": "test"})
    assert verdicts(wrong, store, sample()) == {"chosen_on_val": False, "selected_by_rule": True}
