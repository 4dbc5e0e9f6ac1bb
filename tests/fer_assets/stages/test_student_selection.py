"""The selection as a file: what stands in it, and what it refuses."""

from typing import Any

import pytest

from fer_assets.stage import Limits
from fer_assets.stages import student_selection
from fer_assets.stages.student_selection import GATES, SelectionRecipe
from fer_ml.base.labels import CLASSES
from fer_ml.evaluation.selection import FIGURES
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import CANDIDATES, Profile, Selection
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store
from tests.refusals import refused

CE, KD, DKD = CANDIDATES
SAMPLE = sample()


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
        "seconds": 90.0,
        "expressions": 12,
        "flips": 30,
        "macro_f1_stabilised": macro_f1,
        "flips_per_minute_stabilised": flips,
    }


def make(store: Store, asset: str, name: str, value: Any) -> Artifact:
    with store.begin(asset) as run:
        run.write_json(name, value)
    made = store.current(asset)
    assert made is not None
    return made


def student(store: Store, name: str) -> Artifact:
    with store.begin(name) as run:
        for picture in FIGURES:
            run.path(picture).write_bytes(f"{picture} of {name}".encode())
    made = store.current(name)
    assert made is not None
    return made


def selection(
    store: Store,
    val: dict[str, dict[str, Any]],
    sessions: dict[str, dict[str, Any]],
    kind: str = "clip",
    profile: Profile = SAMPLE,
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
    inputs |= {name: student(store, name) for name in CANDIDATES}
    recipe = SelectionRecipe.of(profile, None)
    job = Job("student_selection", None, store, recipe, inputs, {})
    with store.begin("student_selection") as run:
        student_selection.build(run, job)
    made = store.current("student_selection")
    assert made is not None
    return made


VAL = {CE: entry(CE, 0.80), KD: entry(KD, 0.83), DKD: entry(DKD, 0.85)}
PLAYED = {CE: played(CE, 0.5, 20.0), KD: played(KD, 0.6, 21.0), DKD: played(DKD, 0.6, 30.0)}


def verdicts(artifact: Artifact, store: Store) -> dict[str, bool]:
    outcomes = student_selection.judge(artifact, store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return {outcome.rule: outcome.passed for outcome in outcomes}


def test_a_session_that_is_too_short_is_undecided_and_says_what_it_lacks(store: Store) -> None:
    short = {name: {**own, "seconds": 1.04, "flips": 1} for name, own in PLAYED.items()}
    made = selection(store, VAL, short)
    held = made.read_json("selection.json")
    assert held["outcome"] == "undecided" and held["selected"] == DKD, "val alone decides"
    assert any("1.0 s" in reason and "60 s" in reason for reason in held["lacking"])
    assert any("2 flips" in reason and "10" in reason for reason in held["lacking"])
    assert all(reason in held["session_says"] for reason in held["lacking"])
    assert held["candidates"][DKD]["checks"][3]["passed"] is None


def test_the_file_holds_every_figure_limit_and_verdict(store: Store) -> None:
    made = selection(store, VAL, PLAYED)
    held = made.read_json("selection.json")
    assert (held["selected"], held["sha256"]) == (KD, f"{KD}-bytes")
    assert held["limits"] == Selection().model_dump()
    assert (held["outcome"], held["lacking"]) == ("decided", [])
    assert made.file("confusion.png").read_text() == f"confusion.png of {KD}"
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
    assert all(verdicts(made, store).values())


def test_the_limits_are_those_of_the_profile(store: Store) -> None:
    limits = {
        "macro_f1_loss": 0.03,
        "weakest_f1_loss": 0.05,
        "flips_gain": 0.5,
        "least_seconds": 30.0,
        "least_events": 4,
    }
    profile = SAMPLE.model_copy(update={"selection": Selection(**limits)})
    assert SelectionRecipe.of(profile, None).recorded() == limits
    held = selection(store, VAL, PLAYED, profile=profile).read_json("selection.json")
    assert held["limits"] == limits
    assert held["selected"] == DKD


def test_a_session_that_cannot_be_replayed_is_no_obstacle(store: Store) -> None:
    made = selection(store, VAL, {}, kind="imported")
    held = made.read_json("selection.json")
    assert held["selected"] == DKD
    assert held["candidates"][KD]["verdict"] == (
        "passes; undecided: demo_macro_f1, demo_flips_per_minute"
    )
    assert all(verdicts(made, store).values())


def test_figures_that_speak_of_different_things_are_refused(store: Store) -> None:
    with refused("not-comparable"):
        selection(store, {**VAL, KD: entry(KD, 0.83, n=99)}, PLAYED)
    other = {**PLAYED, DKD: {**PLAYED[DKD], "student_sha256": "another one"}}
    with refused("networks-differ"):
        selection(store, VAL, other)
