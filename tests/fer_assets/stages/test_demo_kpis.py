"""The replay half of the dual gate, and what the verdicts depend on."""

from typing import Any

import pytest

from fer_assets.stage import Given
from fer_assets.stages.demo_kpis import KpiLimits, KpiRecipe, judge, replay_gate, stages
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Demo, Selection
from fer_ml.storage.store import Store
from tests.fer_assets.stages.bundles import made


def kpis(macro_f1: float | None, flips: float) -> dict[str, Any]:
    return {
        "manual_macro_f1_present_stabilised": macro_f1,
        "manual_scored": 100,
        "flips_per_minute_stabilised": flips,
    }


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        (kpis(0.6, 10), kpis(0.5, 10), [True, True]),
        (kpis(0.5, 10), kpis(0.5, 10), [False, True]),
        (kpis(0.6, 11), kpis(0.5, 10), [True, True]),
        (kpis(0.6, 11.1), kpis(0.5, 10), [True, False]),
    ],
)
def test_a_replay_must_improve_and_stay_calm(
    now: dict[str, Any], before: dict[str, Any], passed: list[bool]
) -> None:
    assert [outcome.passed for outcome in replay_gate(now, before)] == passed


def test_labels_that_flip_more_than_raw_ones_are_seen(store: Store) -> None:
    timed = {"faces": 9, "frame_ms_p95": 1.0, "frames_timed": 9, "flips_raw": 3}

    def verdict(steady: int, faces: int = 9) -> bool | None:
        held = {**kpis(None, 1), **timed, "flips_stabilised": steady, "faces": faces}
        artifact = made(store, "demo_kpis", lambda run: run.write_json("demo_kpis.json", held))
        outcomes = judge(artifact, store, KpiLimits(10.0, False, 0.1))
        return next(o.passed for o in outcomes if o.rule == "steadier_than_raw")

    assert (verdict(3), verdict(4), verdict(0, faces=0)) == (True, False, None)


def test_the_profile_says_how_much_more_may_flip() -> None:
    now, before = kpis(0.6, 13), kpis(0.5, 10)
    assert [outcome.passed for outcome in replay_gate(now, before, 0.3)] == [True, True]


def test_without_labels_there_is_nothing_to_compare_and_that_is_said() -> None:
    for before in (None, kpis(None, 3)):
        for outcome in replay_gate(kpis(0.6, 10), before):
            assert outcome.passed is None and "recorded session" in outcome.detail


def test_the_limits_are_the_profiles_and_one_of_them_makes_a_gate_block() -> None:
    changes = {
        "demo": Demo(p95_limit_ms=7, p95_blocks=True),
        "selection": Selection(flips_gain=0.3),
    }
    profile = sample().model_copy(update=changes)
    assert KpiLimits.of(profile) == KpiLimits(7, True, 0.3)
    # The chart of the frame times shows the limit.
    assert KpiRecipe.of(profile, None).recorded() == {"p95_limit_ms": 7}
    (stage,) = stages(Given(profile))
    for given, blocking in (
        (profile, {"frames_scored", "frame_p95"}),
        (sample(), {"frames_scored"}),
    ):
        assert {gate.rule for gate in stage.gates_by(given) if gate.blocking} == blocking
