"""The gates of an ensemble, on what it says of itself."""

from typing import Any

import pytest

from fer_assets.stage import Limits
from fer_assets.stages.ensemble import GATES, judge
from fer_ml.base.labels import CLASSES
from fer_ml.storage.store import Store

GOOD = {
    "weights": {"RN18": 0.0, "B3": 1.0},
    "members": {"RN18": {"calib_nll": 0.9}, "B3": {"calib_nll": 0.7}},
    "chosen_on": {"split": "calib", "nll": 0.7},
    "classes": list(CLASSES),
}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"weights": {"RN18": 0.3, "B3": 0.7}}, set()),
        ({"weights": {"RN18": 0.3, "B3": 0.7 + 1e-6}}, {"weights_sum_to_one"}),
        ({"weights": {"RN18": 0.3, "B3": 0.7 - 1e-6}}, {"weights_sum_to_one"}),
        ({"weights": {"RN18": -0.5, "B3": 1.5}}, {"weights_sum_to_one"}),
        ({"weights": {"RN18": 1.0, "B3": 1.0}}, {"weights_sum_to_one"}),
        ({"weights": {"RN18": -0.5, "B3": 0.75, "CNXT": 0.75}}, {"weights_sum_to_one"}),
        ({"chosen_on": {"split": "test", "nll": 0.7}}, {"chosen_on_calib"}),
        ({"chosen_on": {"split": "calib", "nll": 0.71}}, {"not_below_best_member"}),
        ({"chosen_on": {"split": "calib", "nll": 0.6}}, set()),
        ({"classes": list(CLASSES)[::-1]}, {"class_order"}),
    ],
)
def test_each_fault_fails_its_own_gate(
    store: Store, change: dict[str, Any], failed: set[str]
) -> None:
    with store.begin("ensemble") as run:
        run.write_json("ensemble.json", {"schema_version": 2, **GOOD, **change})
        run.splits.update(weights="calib")
    artifact = store.current("ensemble")
    assert artifact is not None
    outcomes = judge(artifact, store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    assert {outcome.rule for outcome in outcomes if outcome.passed is False} == failed
