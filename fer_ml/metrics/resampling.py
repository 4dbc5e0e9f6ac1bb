"""Confidence intervals and paired tests by a bootstrap over groups, without a loop over rows.

A group is all samples of one original photo. Groups are drawn with replacement, as many as there
are (cluster bootstrap; Field and Welsh 2007), so near-duplicates do not make an interval too
narrow. Every metric here follows from sums over rows. So each group is reduced to its sums once,
and a resample is one product of draw counts and sums. Needs only numpy.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import (
    ECE_BINS,
    balanced_accuracy,
    equal_width_bins,
    f1_scores,
    log_softmax,
    require_predictions,
)

RESAMPLES = 1000
LEVEL = 0.95
#: The metrics of which each two models are compared.
PAIRED = ("accuracy", "macro_f1", "nll", "ece")
#: Resamples that are held at a time.
BLOCK = 50
#: Counts of draws that are kept for the next call, 2 bytes each.
KEPT = 50_000_000

_C = len(CLASSES)
#: Columns of the sums: the confusion matrix, NLL, Brier score, and by ECE bin hits - confidence.
_NLL, _BRIER, _BINS = _C * _C, _C * _C + 1, _C * _C + 2
COLUMNS = _BINS + ECE_BINS


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A difference a - b with its confidence interval, and the two-sided p value of zero."""

    p_value: float


def group_codes(groups: np.ndarray) -> tuple[np.ndarray, int]:
    """Return ``(codes [N], G)``: each row's group as 0..G-1, numbered in order of the sorted ids.

    >>> codes, count = group_codes(np.array(["b", "a", "b"]))
    >>> codes.tolist(), count
    ([1, 0, 1], 2)
    """
    ids, codes = np.unique(groups, return_inverse=True)
    return codes, len(ids)


def group_sums(
    y: np.ndarray, logits: np.ndarray, groups: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    """Return the sums over each group's rows from which metrics follow: ``[G, COLUMNS] float64``.

    ``y [N]`` class indices, ``logits [N, 7]``, ``groups [N]`` ids of any sortable type. The groups
    are sorted by id, so models measured on the same rows have them in the same order.

    >>> sums = group_sums(np.array([0, 0, 1]), np.eye(7)[[0, 0, 0]], np.array(["a", "a", "b"]))
    >>> sums.shape == (2, COLUMNS), sums[0, 0].item()  # two rows of class 0 are right
    (True, 2.0)
    """
    require_predictions(y, logits)
    if len(groups) != len(y):
        raise FerError(
            f"{len(groups)} group ids do not match {len(y)} rows", code="length-mismatch"
        )
    codes, count = group_codes(groups)
    log_p = log_softmax(logits, temperature)
    probs = np.exp(log_p)
    predicted, top = probs.argmax(axis=1), probs.max(axis=1)
    sums = np.zeros((count, COLUMNS))
    np.add.at(sums, (codes, y * _C + predicted), 1.0)
    sums[:, _NLL] = np.bincount(codes, -log_p[np.arange(len(y)), y])
    sums[:, _BRIER] = np.bincount(codes, ((probs - np.eye(_C)[y]) ** 2).sum(axis=1))
    np.add.at(sums, (codes, _BINS + equal_width_bins(top)), (predicted == y) - top)
    return sums


def confusion_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return the confusion matrices ``[..., C, C]`` in ``sums [..., COLUMNS]``; rows are the truth.

    >>> sums = group_sums(np.array([0, 1]), np.eye(7)[[0, 0]], np.array(["a", "b"]))
    >>> confusion_of_sums(sums.sum(axis=0))[:2, :2].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    return sums[..., :_NLL].reshape(*sums.shape[:-1], _C, _C)


def metrics_of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics that follow from ``sums [..., COLUMNS]``, each as ``[...]``.

    They are accuracy, macro_f1, f1_<class>, balanced_accuracy, nll, brier and ece, defined as in
    ``metrics.classification_metrics``.

    >>> sums = group_sums(np.array([0, 1]), np.eye(7)[[0, 0]], np.array(["a", "b"]))
    >>> float(metrics_of_sums(sums.sum(axis=0))["accuracy"])
    0.5
    """
    matrix = confusion_of_sums(sums)
    rows = matrix.sum(axis=(-2, -1))
    scores = f1_scores(matrix)
    return {
        "accuracy": np.trace(matrix, axis1=-2, axis2=-1) / rows,
        "macro_f1": scores.mean(axis=-1),
        **{f"f1_{name}": scores[..., index] for index, name in enumerate(CLASSES)},
        "balanced_accuracy": balanced_accuracy(matrix),
        "nll": sums[..., _NLL] / rows,
        "brier": sums[..., _BRIER] / rows,
        "ece": np.abs(_bin_gaps(sums)).sum(axis=-1),
    }


def draws(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield each resample: ``[G]`` group numbers drawn with replacement.

    >>> [len(drawn) for drawn in draws(groups=3, resamples=2, seed=0)]
    [3, 3]
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(groups, size=groups)


def draw_counts(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each resample holds each group, in blocks ``[<= BLOCK, G] float64``.

    >>> [block.sum(axis=1).tolist() for block in draw_counts(groups=3, resamples=2, seed=0)]
    [[3.0, 3.0]]
    """
    counts = _counts(groups, resamples, seed) if groups * resamples <= KEPT else None
    drawn = draws(groups, resamples, seed)
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        block = counts[start : start + size] if counts is not None else _count(drawn, groups, size)
        yield block.astype(np.float64)


@lru_cache(maxsize=1)
def _counts(groups: int, resamples: int, seed: int) -> np.ndarray:
    """All of ``draw_counts``, kept: every model and column of one set asks for the same draws."""
    return _count(draws(groups, resamples, seed), groups, resamples)


def _count(drawn: Iterator[np.ndarray], groups: int, size: int) -> np.ndarray:
    """The next ``size`` draws as counts ``[size, groups] uint16``."""
    counts = np.empty((size, groups), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(next(drawn), minlength=groups)
    return counts


def resample(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sum ``values [..., G, S]`` over the groups of each resample, to ``[..., resamples, S]``.

    All leading entries use the same draws, so that differences between them are paired.

    >>> resample(np.ones((5, 1)), resamples=2).tolist()  # five draws of 1
    [[5.0], [5.0]]
    """
    blocks = [counts @ values for counts in draw_counts(values.shape[-2], resamples, seed)]
    return np.concatenate(blocks, axis=-2)


def interval(value: float, resampled: np.ndarray, level: float = LEVEL) -> Interval:
    """Return the percentile interval (Efron 1979) of ``value`` from its resampled values ``[B]``.

    >>> interval(50.0, np.arange(101), level=0.5)
    Interval(value=50.0, low=25.0, high=75.0)
    """
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def intervals_of_sums(
    total: np.ndarray, resampled: np.ndarray, level: float = LEVEL
) -> dict[str, Interval]:
    """Return every metric's interval from sums ``[COLUMNS]`` and resampled ``[B, COLUMNS]``.

    All are percentile intervals except for the lower bound of the ECE. A sum of absolute gaps is
    biased upwards: in a sample against the truth, and in a resample against the sample. So the
    percentile interval of a calibrated model would nearly always exclude the truth. The error of
    the ECE is at most the sum over bins of the absolute errors of the gaps. So its lower bound is
    max(0, value - q), where q is the upper quantile of that sum over the resamples.

    >>> sums = group_sums(np.array([0]), np.eye(7)[[0]], np.array([0])).sum(axis=0)
    >>> intervals_of_sums(sums, np.stack([sums, sums]))["accuracy"]
    Interval(value=1.0, low=1.0, high=1.0)
    """
    value, again = metrics_of_sums(total), metrics_of_sums(resampled)
    intervals = {name: interval(float(value[name]), again[name], level) for name in value}
    gaps, moved = _bin_gaps(total), _bin_gaps(resampled)
    reach = np.quantile(np.abs(moved - gaps).sum(axis=-1), (1 + level) / 2)
    ece = intervals["ece"]
    intervals["ece"] = Interval(ece.value, max(0.0, ece.value - float(reach)), ece.high)
    return intervals


def _bin_gaps(sums: np.ndarray) -> np.ndarray:
    """By ECE bin, (hits - confidence) / rows of all bins: ``[..., ECE_BINS]``."""
    rows = confusion_of_sums(sums).sum(axis=(-2, -1))
    return sums[..., _BINS:] / rows[..., None]


def metric_intervals(
    sums: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> list[dict[str, Interval]]:
    """Return each model's interval of every metric; ``sums [M, G, COLUMNS]`` are of the same rows.

    >>> sums = group_sums(np.array([0, 1]), np.eye(7)[[0, 1]], np.array([0, 1]))
    >>> metric_intervals(sums[None])[0]["accuracy"]  # all are right in every resample
    Interval(value=1.0, low=1.0, high=1.0)
    """
    _require_same_rows(sums)
    again = resample(sums, resamples, seed)
    return [
        intervals_of_sums(model_sums.sum(axis=0), moved, level)
        for model_sums, moved in zip(sums, again, strict=True)
    ]


class Resampled(NamedTuple):
    """Metrics of M models by name: ``value [M]`` on all rows, ``again [M, B]`` on each resample."""

    value: dict[str, np.ndarray]
    again: dict[str, np.ndarray]
    groups: int


def resampled_metrics(sums: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Return metrics and resampled metrics of M models, ``sums [M, G, COLUMNS]`` of the same rows.

    All models use the same draws.

    >>> sums = group_sums(np.array([0, 1]), np.eye(7)[[0, 1]], np.array([0, 1]))
    >>> held = resampled_metrics(sums[None], resamples=9)
    >>> held.value["accuracy"].tolist(), held.again["accuracy"].shape, held.groups
    ([1.0], (1, 9), 2)
    """
    _require_same_rows(sums)
    return Resampled(
        metrics_of_sums(sums.sum(axis=-2)),
        metrics_of_sums(resample(sums, resamples, seed)),
        sums.shape[-2],
    )


def paired_difference(
    models: Resampled, a: int, b: int, level: float = LEVEL
) -> dict[str, Difference]:
    """Return for every metric model ``a`` minus model ``b``, with interval and p value.

    It compares these two networks; ``runs.over_runs`` compares methods. p is twice the smaller
    share of resamples at or beyond zero on one side, the estimate counted among them (Davison and
    Hinkley 1997, ch. 4).

    >>> sums = group_sums(np.array([0, 1]), np.eye(7)[[0, 1]], np.array([0, 1]))
    >>> same = resampled_metrics(np.stack([sums, sums]), resamples=9)
    >>> paired_difference(same, 0, 1)["accuracy"]
    Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)
    """
    differences = {}
    for name, value in models.value.items():
        moved = models.again[name][a] - models.again[name][b]
        tail = min((moved <= 0).sum(), (moved >= 0).sum())
        p = min(1.0, 2 * (int(tail) + 1) / (len(moved) + 1))
        bounds = interval(value[a] - value[b], moved, level)
        differences[name] = Difference(bounds.value, bounds.low, bounds.high, p)
    return differences


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for multiple tests (Holm 1979), in their given order.

    >>> holm([0.01, 0.04, 0.03])  # 3 x 0.01, then 2 x 0.03, and never less than that
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected_p, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected_p[place] = least
    return corrected_p


def _require_same_rows(sums: np.ndarray) -> None:
    """``FerError`` unless every group has the same number of rows of each class in all models."""
    truth = confusion_of_sums(sums).sum(axis=-1)
    if (truth != truth[0]).any():
        raise FerError(
            "the models were measured on different rows or labels",
            code="different-rows",
            fix="take the predictions of one evaluation set for all of them",
        )


@dataclass(frozen=True)
class McNemar:
    """Numbers of rows that only model a, or only model b, has right; the two-sided exact p."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Test two models on the same rows (McNemar 1947), given ``correct [N] bool`` of each.

    p is exact (binomial) for any number of discordant rows. The test takes rows as independent:
    if there are near-duplicates among them, prefer ``paired_difference``.

    >>> mcnemar(np.array([True] * 5), np.array([False] * 5))  # 2 / 2**5
    McNemar(only_a=5, only_b=0, p_value=0.0625)
    """
    if len(correct_a) != len(correct_b):
        raise FerError(
            f"the models have {len(correct_a)} and {len(correct_b)} rows",
            code="length-mismatch",
            fix="use the predictions of one evaluation set for both",
        )
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    # Whole numbers until the last division: a binomial coefficient of 5,000 rows is no float.
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**discordant))
