"""The mean entropy of soft labels, and the temperature for a wanted entropy. Needs only numpy."""

import math

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.metrics.classification import log_softmax

LOW, HIGH = 1e-2, 1e3


def mean_entropy(logits: np.ndarray, temperature: float) -> float:
    """Return the mean entropy of ``softmax(logits [..., C] / temperature)``, in nats (0 to ln C).

    >>> round(math.exp(mean_entropy(np.zeros((1, 7)), 1.0)), 6)  # log 7
    7.0
    """
    log_p = log_softmax(logits.reshape(-1, logits.shape[-1]), temperature)
    return float(-(np.exp(log_p) * log_p).sum(axis=1).mean())


def derive_temperature(logits: np.ndarray, target: float) -> float:
    """Return the T at which the mean entropy is ``target`` nats, to a relative error of 1e-6.

    The entropy rises with T, so the T is unique; it is found by bisection in log T.

    >>> logits = np.array([[2.0, 0.0]])
    >>> temperature = derive_temperature(logits, 0.5)
    >>> round(mean_entropy(logits, temperature), 6)
    0.5
    """
    low, high = LOW, HIGH
    if not mean_entropy(logits, low) < target < mean_entropy(logits, high):
        raise FerError(
            f"no temperature gives these soft labels a mean entropy of {target} nats",
            code="entropy-unreachable",
            allowed=f"{mean_entropy(logits, low):.3f} to {mean_entropy(logits, high):.3f}",
            fix="change softlabels.target_entropy in the profile",
        )
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_entropy(logits, middle) < target else (low, middle)
    return math.sqrt(low * high)
