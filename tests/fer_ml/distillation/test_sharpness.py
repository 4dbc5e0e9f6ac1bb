"""Sharpness, and the temperature derived from it."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from fer_ml.distillation.sharpness import derive_temperature, mean_entropy
from fer_ml.metrics.classification import softmax
from tests.refusals import refused

LOGITS = np.random.default_rng(0).normal(size=(6, 7)) * 8


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_mean_entropy_is_scipys(t: float) -> None:
    assert mean_entropy(LOGITS, t) == pytest.approx(entropy(softmax(LOGITS, t), axis=1).mean())


def test_mean_entropy_runs_from_zero_to_ln_c() -> None:
    assert mean_entropy(LOGITS, 1e-3) == pytest.approx(0, abs=1e-9)
    assert mean_entropy(LOGITS, 1e6) == pytest.approx(math.log(7), abs=1e-6)
    assert mean_entropy(np.zeros((2, 7)), 1.0) == pytest.approx(math.log(7))
    values = [mean_entropy(LOGITS, t) for t in np.geomspace(0.05, 100, 40)]
    assert values == sorted(values)


@pytest.mark.parametrize("target", [0.05, 0.5, 1.0, 1.5, 1.85])
def test_the_derived_temperature_hits_its_target(target: float) -> None:
    assert mean_entropy(LOGITS, derive_temperature(LOGITS, target)) == pytest.approx(
        target, abs=1e-3
    )


def test_a_target_that_no_temperature_reaches_is_refused() -> None:
    tied = np.zeros((3, 7))
    tied[:, :2] = 1e6  # Two classes forever equal: the entropy never falls below ln 2.
    with refused("entropy-unreachable") as caught:
        derive_temperature(tied, 0.5)
    assert caught.value.allowed.startswith("0.693 to")
    with refused("entropy-unreachable"):
        derive_temperature(np.zeros((3, 7)), 1.0)


def test_views_count_like_rows() -> None:
    views = np.stack([LOGITS, LOGITS * 0.5], axis=1)
    each = (mean_entropy(LOGITS, 2.0) + mean_entropy(LOGITS * 0.5, 2.0)) / 2
    assert mean_entropy(views, 2.0) == pytest.approx(each)
