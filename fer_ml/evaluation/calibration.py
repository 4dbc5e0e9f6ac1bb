"""Temperature scaling: one number, fitted on the calib split, without a clamp."""

import numpy as np
from scipy.optimize import minimize_scalar

from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import log_softmax

#: The search's bounds on T. They are far outside what any trained network needs; a fit that ends
#: on one of them is reported as a failure, never used.
T_BOUNDS = (0.02, 200.0)


def nll(logits: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """Mean negative log-likelihood in nats of ``logits [N, C] / temperature``."""
    return float(-log_softmax(logits, temperature)[np.arange(len(y)), y].mean())


def search_temperature(logits: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
    """``(T, inside)``: the T that minimises the NLL, and whether it lies inside ``T_BOUNDS``.

    The NLL of ``softmax(logits / T)`` is convex in 1/T (Guo et al. 2017), so a bounded scalar
    search over 1/T finds the minimum. It ends on a bound for a set that is separated perfectly, or
    not at all.
    """
    low, high = 1 / T_BOUNDS[1], 1 / T_BOUNDS[0]
    result = minimize_scalar(
        lambda inverse: nll(logits, y, 1 / inverse),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(1 / result.x)
    # On a perfectly separated set the NLL is flat at zero long before the bound is reached.
    flat = nll(logits, y, temperature) < 1e-9
    return temperature, not flat and T_BOUNDS[0] * 1.01 < temperature < T_BOUNDS[1] * 0.99


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The T of ``search_temperature``; ``FerError`` when the minimum lies on a bound."""
    temperature, inside = search_temperature(logits, y)
    if not inside:
        raise FerError(
            f"the temperature fit ends on its bound: T = {temperature:.3g}",
            allowed=f"strictly inside {T_BOUNDS}",
            fix="the calib split is separated perfectly or not at all: give it more rows",
        )
    return temperature
