"""A test on labelled faces of whether a model's output columns are in the assumed class order."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.resampling import mcnemar

#: Of how many orders the best one was taken, and how likely chance alone may do as well.
ORDERS, CHANCE = math.factorial(len(CLASSES)), 0.05


@dataclass(frozen=True)
class OrderFit:
    """The accuracy with the columns in the assumed order, and in the best-fitting order.

    ``order`` names each column's class in the best-fitting order. ``p`` is McNemar's p value of the
    two accuracies, corrected for the number of orders (Bonferroni).
    """

    accuracy: float
    best: float
    order: tuple[str, ...]
    p: float


def fit_order(y: np.ndarray, logits: np.ndarray) -> OrderFit:
    """Compare the order of the columns of ``logits [N, C]`` with labels ``y [N]``.

    The best order has the highest mean recall (Kuhn 1955), so that a model that answers with one
    class alone fits no other order better.

    >>> y = np.arange(70) % 7
    >>> fit = fit_order(y, np.roll(np.eye(7), 1, axis=1)[y])
    >>> fit.accuracy, fit.best
    (0.0, 1.0)
    """
    answers = logits.argmax(axis=1)
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (answers, y), 1)
    recall = counts / np.maximum(counts.sum(axis=0), 1)
    # A tie goes to the order that is declared.
    _, classes = linear_sum_assignment(recall + 1e-9 * np.eye(len(CLASSES)), maximize=True)
    declared, other = answers == y, classes[answers] == y
    p = min(1.0, ORDERS * mcnemar(declared, other).p_value) if other.sum() > declared.sum() else 1.0
    order = tuple(CLASSES[index] for index in classes)
    return OrderFit(float(declared.mean()), float(other.mean()), order, p)
