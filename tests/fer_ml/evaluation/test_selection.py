"""The dual gate by hand-worked figures: who replaces the incumbent, and why not."""

from dataclasses import replace

import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.evaluation.selection import (
    Figures,
    dual_gate,
    rule_text,
    select,
    undecided,
    weakest_f1,
    why,
)
from fer_ml.recipes.profile import CANDIDATES, Selection

CE, KD, DKD = CANDIDATES
LIMITS = Selection()
#: Long enough to decide.
LONG = {"demo_seconds": 120.0, "demo_expressions": 12, "demo_flips": 40}
OLD = Figures(
    val_macro_f1=0.80, val_weakest_f1=0.60, demo_macro_f1=0.50, demo_flips_per_minute=20.0, **LONG
)
#: Just inside every limit: loses 0.01 and 0.02, is better, and flips 10 % more.
EDGE = Figures(
    val_macro_f1=0.79, val_weakest_f1=0.58, demo_macro_f1=0.51, demo_flips_per_minute=22.0, **LONG
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


@pytest.mark.parametrize(
    ("short", "left"),
    [
        ({"demo_seconds": 1.04, "demo_expressions": 1, "demo_flips": 1}, [None, None]),
        ({"demo_seconds": 59.9}, [None, None]),
        ({"demo_expressions": 9}, [None, False]),
        ({"demo_flips": 4}, [True, None]),
        ({"demo_seconds": 60.0, "demo_expressions": 10, "demo_flips": 5}, [True, False]),
    ],
)
def test_a_short_session_is_undecided(short: dict[str, float], left: list[bool | None]) -> None:
    """One flip in a second of film must not decide which student is deployed."""
    old = replace(OLD, **short)
    new = replace(EDGE, demo_flips_per_minute=40.0, **short)
    _, checks = select({CE: old, KD: new, DKD: new}, LIMITS)
    assert [check.passed for check in checks[KD][2:]] == left
    assert (undecided(checks) != []) == (None in left)
    # Where it does not say who shows more, the incumbent competes on val.
    better = replace(new, val_macro_f1=0.81, demo_macro_f1=0.4)
    wanted = KD if left[0] is None and left[1] is None else CE
    assert select({CE: old, KD: better, DKD: better}, LIMITS)[0] == wanted
    lesser = replace(better, val_macro_f1=0.795)
    assert select({CE: old, KD: lesser, DKD: lesser}, LIMITS)[0] == CE


def test_why_the_best_on_val_was_not_chosen_is_said() -> None:
    best = replace(EDGE, val_macro_f1=0.90, demo_flips_per_minute=90.0)
    figures = {CE: OLD, KD: best, DKD: replace(EDGE, val_macro_f1=0.81)}
    chosen, checks = select(figures, LIMITS)
    assert chosen == DKD
    said = why(chosen, figures, checks)
    assert said.startswith(
        f"{KD} has the highest macro-F1 on val and was not chosen: demo_flips_per_minute: "
    )
    assert why(KD, figures, checks) == f"{KD} has the highest macro-F1 on val"
    equal = {CE: replace(OLD, val_macro_f1=0.1), KD: EDGE, DKD: EDGE}
    assert why(DKD, equal, {}) == f"{DKD} has the highest macro-F1 on val"
    calm = {CE: replace(OLD, val_macro_f1=0.85), KD: EDGE, DKD: EDGE}
    chosen, checks = select(calm, LIMITS)
    assert f"{chosen} " in why(chosen, calm, checks)
