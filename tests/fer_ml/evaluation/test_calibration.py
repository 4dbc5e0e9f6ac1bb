"""The temperature fit against a fine grid, and against temperatures that are known."""

import numpy as np
import pytest

from fer_ml.errors import FerError
from fer_ml.evaluation.calibration import fit_temperature, nll
from fer_ml.evaluation.metrics import softmax

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
    with pytest.raises(FerError, match="bound"):
        fit_temperature(scale * np.eye(C)[y], y)


def test_a_set_whose_labels_contradict_the_logits_is_refused() -> None:
    y = np.arange(70) % C
    with pytest.raises(FerError, match="bound"):
        fit_temperature(-np.eye(C)[y], y)


def test_a_set_without_any_information_is_refused() -> None:
    with pytest.raises(FerError, match="bound"):
        fit_temperature(np.zeros((70, C)), np.arange(70) % C)
