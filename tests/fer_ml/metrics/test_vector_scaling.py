"""Vector scaling: gradients by autograd, a truth that is known, and sets that do not fix it."""

import numpy as np
import pytest
import torch

from fer_ml.metrics.calibration import fit_temperature, nll
from fer_ml.metrics.classification import softmax
from fer_ml.metrics.vector_scaling import fit_vector_scaling
from tests.refusals import refused

C = 7
WEIGHTS = np.array([0.5, 0.8, 0.3, 1.0, 0.6, 0.4, 0.7])
BIAS = np.array([0.5, -1.0, 0.2, 0.0, 0.4, -0.6, 0.5])


def sampled(seed: int, n: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of ``WEIGHTS * logits / scale + BIAS``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)) * 3
    probs = softmax(logits * WEIGHTS + BIAS)
    y = (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(0, C - 1)
    return logits * scale, y


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_recovers_a_known_scaling(scale: float) -> None:
    found = fit_vector_scaling(*sampled(0, 20_000, scale))
    np.testing.assert_allclose(found.weights * scale, WEIGHTS, atol=0.04)
    np.testing.assert_allclose(found.bias, BIAS - BIAS.mean(), atol=0.13)
    assert found.bias.sum() == pytest.approx(0, abs=1e-12)


def test_autograd_finds_no_slope_where_it_ends() -> None:
    logits, y = sampled(1, 500)
    found = fit_vector_scaling(logits, y)
    weights, bias = (
        torch.tensor(value, requires_grad=True) for value in (found.weights, found.bias)
    )
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits) * weights + bias, torch.tensor(y)
    )
    loss.backward()
    assert weights.grad.abs().max() < 1e-7 and bias.grad.abs().max() < 1e-7
    assert loss.item() == pytest.approx(nll(found.apply(logits), y, 1.0))


def test_never_worse_than_a_temperature_on_its_own_rows() -> None:
    for seed in range(5):
        logits, y = sampled(seed, 150)
        scaled = fit_vector_scaling(logits, y).apply(logits)
        assert nll(scaled, y, 1.0) <= nll(logits, y, fit_temperature(logits, y)) + 1e-12


def test_better_than_a_temperature_on_other_rows_where_classes_differ() -> None:
    logits, y = sampled(3, 3000)
    other, truth = sampled(4, 3000)
    scaled = fit_vector_scaling(logits, y).apply(other)
    assert nll(scaled, truth, 1.0) < nll(other, truth, fit_temperature(logits, y)) - 0.01


def test_a_class_without_a_row_is_refused() -> None:
    logits, y = sampled(5, 500)
    keep = (y != 1) & (y != 4)
    with refused("class-without-rows"):
        fit_vector_scaling(logits[keep], y[keep])


def test_a_class_that_is_separated_is_refused() -> None:
    """Its bias and weight could grow for ever, at an ever smaller gain."""
    logits, y = sampled(6, 500)
    logits[:, 2] = np.where(y == 2, 6.0, -6.0)
    with refused("undetermined-fit"):
        fit_vector_scaling(logits, y)


def test_a_separated_set_is_refused_as_by_a_temperature() -> None:
    y = np.arange(70) % C
    with refused("fit-on-bound"):
        fit_vector_scaling(np.eye(C)[y], y)
