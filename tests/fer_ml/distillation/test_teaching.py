"""From the teachers' logits to soft labels."""

from dataclasses import replace

import numpy as np
import pytest

from fer_ml.distillation.fusion import Fusion
from fer_ml.distillation.logits import Logits, Taught
from fer_ml.distillation.sharpness import mean_entropy
from fer_ml.distillation.teaching import choose_weights, soften
from fer_ml.metrics.classification import log_softmax
from tests.refusals import refused

T, OTHERS, VIEWS = 12, 30, 3


def member(seed: int, temperature: float) -> Taught:
    rng = np.random.default_rng(seed)
    y = np.arange(T + OTHERS) % 7
    centre = (2 * np.eye(7)[y] + rng.normal(size=(T + OTHERS, 7))).astype(np.float32)
    views = rng.normal(size=(T, VIEWS, 7)).astype(np.float32)
    sure = 4 * centre[:T]
    ids = tuple(f"s{i}" for i in range(T + OTHERS))
    fold = np.arange(T, dtype=np.int8) % 2
    return Taught(Logits(centre, ids), views, sure, fold, temperature, {"out_of_fold": True})


MEMBERS = [member(0, 2.0), member(1, 0.5)]


def test_each_kind_is_the_weighted_sum_of_its_members_logs() -> None:
    found = soften(MEMBERS, (0.75, 0.25), "calibrated", 1.0)
    assert {kind: soft.logits.shape for kind, soft in found.items()} == {
        "standard": (T, VIEWS, 7),
        "centre": (T, 1, 7),
        "in_sample": (T, 1, 7),
        "raw": (T, 1, 7),
    }
    a, b = (m.train[3, 1][None] for m in MEMBERS)
    by_hand = 0.75 * log_softmax(a, 2.0) + 0.25 * log_softmax(b, 0.5)
    np.testing.assert_allclose(found["standard"].logits[3, 1], by_hand[0], atol=5e-3)
    for soft in found.values():
        assert mean_entropy(soft.logits, soft.kd_temperature) == pytest.approx(1.0, abs=1e-4)
    assert found["in_sample"].kd_temperature > found["centre"].kd_temperature, "it is surer"


@pytest.mark.parametrize("fusion", ["calibrated", "probabilities"])
def test_raw_labels_are_the_weighted_sum_of_uncalibrated_logits(fusion: Fusion) -> None:
    """As the interim report fused them; at its T = 2 they are as sharp as its teachers were."""
    raw = soften(MEMBERS, (0.75, 0.25), fusion, 1.0)["raw"]
    by_hand = 0.75 * MEMBERS[0].in_sample + 0.25 * MEMBERS[1].in_sample
    np.testing.assert_allclose(raw.logits[:, 0], by_hand, atol=2e-2)
    assert mean_entropy(raw.logits, raw.kd_temperature) == pytest.approx(1.0, abs=1e-4)


def test_weights_come_from_calib_or_from_the_recipe() -> None:
    ids = [f"s{i}" for i in range(T, T + OTHERS)]
    y = np.arange(T, T + OTHERS) % 7
    searched = choose_weights(MEMBERS, ids, y, "calibrated", None, 0.1)
    assert searched.method == "convex fit"
    assert sum(searched.weights) == pytest.approx(1)
    given = choose_weights(MEMBERS, ids, y, "calibrated", (0.3, 0.7), 0.1)
    assert (given.method, given.weights) == ("given", (0.3, 0.7))
    assert searched.nll <= given.nll


@pytest.mark.parametrize("what", ["fold", "ids", "views"])
def test_teachers_of_other_rows_folds_or_views_are_not_fused(what: str) -> None:
    other = MEMBERS[1]
    changed = {
        "fold": replace(other, fold=1 - other.fold),
        "ids": replace(other, centre=Logits(other.centre.values, other.centre.sample_ids[::-1])),
        "views": replace(other, train=other.train[:, :2]),
    }[what]
    with refused("teacher-folds-differ" if what == "fold" else "teacher-rows-differ"):
        soften([MEMBERS[0], changed], (0.5, 0.5), "calibrated", 1.0)
