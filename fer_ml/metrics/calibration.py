"""Temperature scaling: one number T, fitted on the calib split, never clipped. Needs only numpy."""

import math

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.metrics.classification import log_softmax, require_predictions

#: The search's bounds on T. They are far outside what any trained network needs; a fit that ends
#: on one of them is reported as a failure, never used.
T_BOUNDS = (0.02, 200.0)


def nll(logits: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """Return the mean negative log-likelihood of ``logits [N, C] / temperature``, in nats.

    >>> round(float(np.exp(nll(np.log([[3.0, 1.0]]), np.array([0]), 1.0))), 6)  # 1 / (3/4)
    1.333333
    """
    return float(-log_softmax(logits, temperature)[np.arange(len(y)), y].mean())


def margins(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each class's logit minus the true class's, ``[C, N] float64``; they decide the NLL.

    Classes come first because numpy sums over a first axis several times faster.

    >>> margins(np.array([[2.0, 5.0]]), np.array([0])).T.tolist()
    [[0.0, 3.0]]
    """
    values = np.asarray(logits, dtype=np.float64)
    return np.ascontiguousarray((values - values[np.arange(len(y)), y][:, None]).T)


def slope(margin: np.ndarray, beta: float) -> tuple[float, float]:
    """Return both derivatives of the mean NLL of ``softmax(beta * logits)`` by beta = 1/T.

    The first and second derivative are means over rows: of the margin's expectation, and of its
    variance, under that softmax. The second is never negative, so the first never falls.

    >>> margin = margins(np.array([[0.0, 1.0]]), np.array([0]))
    >>> slope(margin, 0.0)  # both classes are as likely: p (1 - p) of a margin of 1
    (0.5, 0.25)
    """
    top = margin.max(axis=0)
    weight = np.exp(beta * (margin - top))
    total = weight.sum(axis=0)
    mean = np.einsum("cn,cn->n", weight, margin) / total
    square = np.einsum("cn,cn,cn->n", weight, margin, margin) / total
    return float(mean.mean()), float((square - mean * mean).mean())


def search_inverse(margin: np.ndarray, start: float = 1.0) -> tuple[float, bool]:
    """Return ``(beta, inside)``: the 1/T of least NLL, and whether it lies inside the bounds.

    ``margin [C, N]`` as ``margins`` gives it. The NLL is convex in beta (Guo et al. 2017), so the
    signs of its slope at both bounds decide exactly whether a minimum lies between them. It is
    found by Newton's method, which halves the bracket where a step would leave it.

    >>> logits, y = np.log([[3.0, 1.0]] * 10), np.array([0] * 9 + [1])
    >>> beta, inside = search_inverse(margins(logits, y))
    >>> round(3**beta, 6), inside  # nine to one
    (9.0, True)
    """
    low, high = 1 / T_BOUNDS[1], 1 / T_BOUNDS[0]
    if not slope(margin, low)[0] < 0:
        return low, False
    if not slope(margin, high)[0] > 0:
        return high, False
    beta = min(max(start, low), high)
    while True:
        first, second = slope(margin, beta)
        low, high = (beta, high) if first < 0 else (low, beta)
        step = first / second if second > 0 else math.inf
        if min(abs(step), high - low) <= 1e-9 * beta:
            return beta, True
        beta = beta - step if low < beta - step < high else math.sqrt(low * high)


def search_temperature(logits: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
    """Return ``(T, inside)``: the T of least NLL, and whether it lies inside ``T_BOUNDS``.

    T is a bound if the logits separate the classes perfectly, or if the labels contradict the
    logits or are unrelated to them.

    >>> search_temperature(np.array([[1.0, 0.0]]), np.array([0]))  # separated: the bound
    (0.02, False)
    """
    require_predictions(y, logits)
    beta, inside = search_inverse(margins(logits, y))
    return 1 / beta, inside


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the T of ``search_temperature``; ``FerError`` if the minimum lies on a bound.

    >>> logits, y = np.log([[9.0, 1.0]] * 4), np.array([0, 0, 0, 1])
    >>> round(fit_temperature(logits, y), 6)  # 9**(1/2) to 1 is three to one
    2.0
    """
    temperature, inside = search_temperature(logits, y)
    if not inside:
        raise on_bound(temperature)
    return temperature


def on_bound(temperature: float) -> FerError:
    """Return the error for a temperature fit that ends on a bound of T.

    >>> on_bound(200.0).what
    'the temperature fit ends on its bound: T = 200'
    """
    return FerError(
        f"the temperature fit ends on its bound: T = {temperature:.3g}",
        code="fit-on-bound",
        allowed=f"strictly inside {T_BOUNDS}",
        fix="add rows to the calib split: the model separates it perfectly or not at all",
    )
