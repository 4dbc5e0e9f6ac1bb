"""Fusion three ways by hand, and the grid of weights."""

import math

import numpy as np
import pytest

from fer_ml.distillation.ensemble import fuse, simplex
from fer_ml.distillation.teacher_logits import Logits
from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import softmax

RNG = np.random.default_rng(0)
MEMBERS = [RNG.normal(size=(20, 7)) * scale for scale in (1.0, 3.0, 9.0)]
WEIGHTS = (0.2, 0.3, 0.5)
T = (0.7, 1.5, 4.0)


def test_logits_are_added() -> None:
    wanted = 0.2 * MEMBERS[0] + 0.3 * MEMBERS[1] + 0.5 * MEMBERS[2]
    np.testing.assert_allclose(fuse(MEMBERS, WEIGHTS, "logits", T), wanted)


def test_probabilities_are_mixed() -> None:
    wanted = sum(w * softmax(z) for w, z in zip(WEIGHTS, MEMBERS, strict=True))
    np.testing.assert_allclose(softmax(fuse(MEMBERS, WEIGHTS, "probabilities", T)), wanted)


def test_calibrated_is_the_geometric_mean_of_calibrated_members() -> None:
    product = math.prod(softmax(z, t) ** w for w, z, t in zip(WEIGHTS, MEMBERS, T, strict=True))
    wanted = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(fuse(MEMBERS, WEIGHTS, "calibrated", T)), wanted)


def test_a_class_without_probability_stays_finite() -> None:
    sure = np.full((1, 7), -1000.0)
    sure[0, 2] = 1000.0
    for fusion in ("logits", "probabilities", "calibrated"):
        fused = fuse([sure, sure], (0.5, 0.5), fusion, (1.0, 1.0))
        assert np.isfinite(fused).all()
        assert softmax(fused)[0, 2] == pytest.approx(1.0)


def test_calibrated_fusion_does_not_care_how_sharp_a_member_is() -> None:
    """A member whose logits are ten times larger has a T ten times larger, and no more say."""
    sharp = [MEMBERS[0], 10 * MEMBERS[1], MEMBERS[2]]
    one = fuse(MEMBERS, WEIGHTS, "calibrated", T)
    np.testing.assert_allclose(fuse(sharp, WEIGHTS, "calibrated", (T[0], 10 * T[1], T[2])), one)
    plain = [softmax(fuse(z, WEIGHTS, "logits", T)) for z in (MEMBERS, sharp)]
    assert np.abs(plain[0] - plain[1]).max() > 0.1


@pytest.mark.parametrize("fusion", ["logits", "probabilities", "calibrated"])
def test_one_member_with_all_the_weight_decides_alone(fusion) -> None:
    fused = fuse(MEMBERS, (0.0, 1.0, 0.0), fusion, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(softmax(fused), softmax(MEMBERS[1]), atol=1e-11)


def test_members_and_weights_must_be_as_many() -> None:
    for fusion in ("logits", "probabilities", "calibrated"):
        with pytest.raises(ValueError, match=r"shorter|shape"):
            fuse(MEMBERS, (0.5, 0.5), fusion, T)


@pytest.mark.parametrize("members", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0.1, 0.25, 0.5])
def test_the_grid_has_every_weight_vector_once(members: int, step: float) -> None:
    grid, parts = simplex(members, step), round(1 / step)
    assert len(grid) == len(set(grid)) == math.comb(parts + members - 1, members - 1)
    for weights in grid:
        assert len(weights) == members
        assert sum(weights) == pytest.approx(1, abs=1e-9)
        assert all(0 <= w <= 1 and w / step == pytest.approx(round(w / step)) for w in weights)
    assert (1.0,) + (0.0,) * (members - 1) in grid


def test_logits_are_looked_up_by_sample_and_a_missing_one_is_refused() -> None:
    held = Logits(np.arange(21.0).reshape(3, 7), ("a", "b", "c"))
    assert held.of(["c", "a", "c"])[:, 0].tolist() == [14.0, 0.0, 14.0]
    with pytest.raises(FerError, match="2 of 3 faces have no logits, first x"):
        held.of(["x", "b", "y"])
