"""The temperature fit against a fine grid, and against temperatures that are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from fer_ml.metrics.calibration import (
    T_BOUNDS,
    fit_temperature,
    margins,
    nll,
    search_temperature,
    slope,
)
from fer_ml.metrics.classification import softmax
from tests.refusals import refused

C = 7


def sampled(seed: int, temperature: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from ``softmax(logits / temperature)``: T is the truth, up to sampling."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)) * 2 * temperature
    probs = softmax(logits, temperature)
    y = (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(y, C - 1)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_fine_grid(seed: int) -> None:
    logits, y = sampled(seed, 1.7, n=200)
    fitted = fit_temperature(logits, y)
    grid = np.exp(np.linspace(np.log(0.1), np.log(30), 4000))
    best = min(grid, key=lambda t: nll(logits, y, t))
    assert fitted == pytest.approx(best, rel=3e-3)
    assert nll(logits, y, fitted) <= nll(logits, y, best) + 1e-12


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5, 14.1, 60.0])
def test_recovers_a_known_temperature_far_above_five(truth: float) -> None:
    """The first pipeline clamped T at 5 and reported the clamp as the answer."""
    assert fit_temperature(*sampled(11, truth)) == pytest.approx(truth, rel=0.06)


def test_scaling_the_logits_scales_the_temperature() -> None:
    logits, y = sampled(3, 1.0, n=500)
    assert fit_temperature(8 * logits, y) == pytest.approx(8 * fit_temperature(logits, y), rel=1e-3)


def test_never_worse_than_no_temperature() -> None:
    logits, y = sampled(5, 3.0, n=300)
    assert nll(logits, y, fit_temperature(logits, y)) <= nll(logits, y, 1.0)


@pytest.mark.parametrize("scale", [0.05, 1.0, 2.0, 10.0, 30.0])
def test_a_perfectly_separated_set_is_refused(scale: float) -> None:
    y = np.arange(70) % C
    with refused("fit-on-bound"):
        fit_temperature(scale * np.eye(C)[y], y)


def test_a_set_whose_labels_contradict_the_logits_is_refused() -> None:
    y = np.arange(70) % C
    with refused("fit-on-bound"):
        fit_temperature(-np.eye(C)[y], y)


def test_a_set_without_any_information_is_refused() -> None:
    with refused("fit-on-bound"):
        fit_temperature(np.zeros((70, C)), np.arange(70) % C)


@pytest.mark.parametrize("seed", range(3))
def test_against_scipys_bounded_search(seed: int) -> None:
    logits, y = sampled(seed, 4.0, n=300)
    theirs = minimize_scalar(
        lambda beta: nll(logits, y, 1 / beta),
        bounds=(1 / T_BOUNDS[1], 1 / T_BOUNDS[0]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(logits, y) == pytest.approx(1 / theirs.x, rel=1e-5)


@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0, 20.0])
def test_slope_and_curvature_against_autograd(beta: float) -> None:
    logits, y = sampled(2, 1.0, n=50)
    inverse = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(inverse * torch.from_numpy(logits), torch.tensor(y))
    (first,) = torch.autograd.grad(loss, inverse, create_graph=True)
    (second,) = torch.autograd.grad(first, inverse)
    assert slope(margins(logits, y), beta) == pytest.approx((first.item(), second.item()))


@pytest.mark.parametrize(("bound", "outside"), [(0.02, 0.98), (200.0, 1.02)])
def test_the_bound_is_exact(bound: float, outside: float) -> None:
    """Scaled so that T lies just beyond, or just before, the bound."""
    logits, y = sampled(1, 1.0, n=400)
    at = logits * bound / fit_temperature(logits, y)
    temperature, inside = search_temperature(at * outside, y)
    assert not inside and temperature == pytest.approx(bound)
    temperature, inside = search_temperature(at / outside, y)
    assert inside and temperature == pytest.approx(bound / outside, rel=1e-6)


@given(
    arrays(np.float64, (6, C), elements=st.floats(-1000, 1000, width=16)),
    arrays(np.int64, 6, elements=st.integers(0, C - 1)),
)
@settings(max_examples=100)
def test_any_logits_end_the_search(logits: np.ndarray, y: np.ndarray) -> None:
    temperature, inside = search_temperature(logits, y)
    assert T_BOUNDS[0] * (1 - 1e-12) <= temperature <= T_BOUNDS[1] * (1 + 1e-12)
    if inside:
        for other in np.geomspace(*T_BOUNDS, 40):
            assert nll(logits, y, temperature) <= nll(logits, y, other) + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with refused("non-finite-predictions"):
        search_temperature(np.full((3, C), bad), np.zeros(3, dtype=np.int64))
