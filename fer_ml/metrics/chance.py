"""Chance level: the scores of random guessing on the same rows, which a useful model exceeds."""

from typing import NamedTuple

import numpy as np

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import f1_scores
from fer_ml.metrics.resampling import group_codes

GUESSERS = 4000
LEVEL = 0.95

_C = len(CLASSES)


class Chance(NamedTuple):
    """The 95th percentile of a random guesser's macro-F1, and of its F1 for each class."""

    macro_f1: float
    f1: dict[str, float]


def guesser_scores(y: np.ndarray, groups: np.ndarray, seed: int = 0) -> Chance:
    """Return the scores of random guessing on labels ``y [N]``, with one guess for each group.

    Two guessers are simulated: one draws all classes alike, one by their shares; each score is
    that of the better one. Groups with the same labels are drawn together: exact, and fast.

    >>> guess = guesser_scores(np.arange(700) % 7, np.arange(700))
    >>> 1 / 7 < guess.macro_f1 < 1 / 5
    True
    """
    codes, count = group_codes(groups)
    label_counts = np.zeros((count, _C))
    np.add.at(label_counts, (codes, y), 1)
    kinds, times = np.unique(label_counts, axis=0, return_counts=True)
    quantiles = []
    for chances in (np.full(_C, 1 / _C), label_counts.sum(axis=0) / max(1, len(y))):
        rng = np.random.default_rng(seed)
        matrix = np.zeros((GUESSERS, _C, _C))
        for kind, many in zip(kinds, times, strict=True):
            answers = rng.multinomial(many, chances, size=GUESSERS)
            matrix += kind[:, None] * answers[:, None, :]
        scores = f1_scores(matrix)
        quantiles.append(np.quantile(np.column_stack([scores.mean(axis=1), scores]), LEVEL, axis=0))
    best = np.max(quantiles, axis=0)
    return Chance(float(best[0]), dict(zip(CLASSES, best[1:].tolist(), strict=True)))
