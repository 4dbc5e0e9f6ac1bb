"""Metrics for each value of a column (such as sex), and the gaps between them. Needs only numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.resampling import (
    LEVEL,
    RESAMPLES,
    Interval,
    confusion_of_sums,
    draw_counts,
    group_codes,
    group_sums,
    intervals_of_sums,
    metrics_of_sums,
)

#: What a fairness table shows by value.
FAIRNESS_METRICS = ("accuracy", "macro_f1", "ece")
#: A value with fewer groups is shown and left out of the gaps.
MIN_GROUPS = 100
#: With this many, a resample without any of them is as good as impossible.
LEAST_GROUPS = 20
NO_VALUE = "(none)"


def value_rows(values: Sequence[object]) -> dict[str, np.ndarray]:
    """Return the row numbers of each value of a column, sorted by text; null is ``(none)``.

    >>> {name: rows.tolist() for name, rows in value_rows(["f", "m", "f", None]).items()}
    {'(none)': [3], 'f': [0, 2], 'm': [1]}
    """
    rows: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        rows.setdefault(NO_VALUE if value is None else str(value), []).append(index)
    return {name: np.array(rows[name]) for name in sorted(rows)}


def metrics_by(
    y: np.ndarray, logits: np.ndarray, values: Sequence[object], temperature: float = 1.0
) -> dict[str, dict[str, Any]]:
    """Return the ``classification_metrics`` of each value's rows, for a column ``values [N]``.

    >>> held = metrics_by(np.array([0, 1]), np.eye(7)[[0, 0]], ["f", "m"])
    >>> {name: metrics["accuracy"] for name, metrics in held.items()}
    {'f': 1.0, 'm': 0.0}
    """
    _require_values(y, values)
    return {
        name: classification_metrics(y[rows], logits[rows], temperature)
        for name, rows in value_rows(values).items()
    }


@dataclass(frozen=True)
class FairnessRow:
    """One value of the column: its numbers of rows and groups, and its metrics by name.

    ``intervals`` is empty if the value is not compared. ``absent_classes`` lack rows of the value.
    """

    value: str
    n: int
    groups: int
    absent_classes: tuple[str, ...]
    metrics: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Gap:
    """The largest difference of a metric between two values of the column: highest - lowest."""

    highest: str
    lowest: str
    difference: Interval


@dataclass(frozen=True)
class Fairness:
    """A row for each value, and the largest gap by metric if at least two values are compared."""

    rows: tuple[FairnessRow, ...]
    gaps: dict[str, Gap]
    min_groups: int


def fairness_table(
    y: np.ndarray,
    logits: np.ndarray,
    values: Sequence[object],
    groups: np.ndarray,
    temperature: float = 1.0,
    *,
    min_groups: int = MIN_GROUPS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Fairness:
    """Return accuracy, macro-F1 and ECE for each value of a column, and the largest gap of each.

    ``y [N]``, ``logits [N, 7]``, ``values [N]`` of any kind (age, sex, ethnicity); ``groups [N]``
    are ids whose rows are resampled together. Rows without a value, and values with fewer than
    ``min_groups`` groups, are listed and left out of all gaps. A value that lacks a class is left
    out of the gap of macro-F1, where the absent class would count as 0.

    The interval of a gap holds for all pairs at once: gap -+ q, where q is the ``level`` quantile
    over resamples of the range over values of (resampled - observed). The pair is picked because
    its gap is the largest, so an interval for one fixed pair would be too narrow. If the interval
    includes zero, the data show no difference between the two values.

    >>> y, sex = np.arange(200) % 7, np.repeat(["f", "m"], 100)
    >>> fairness_table(y, np.eye(7)[y * (sex == "f")], sex, np.arange(200)).gaps["accuracy"].highest
    'f'
    """
    _require_values(y, values)
    if min_groups < LEAST_GROUPS:
        allowed = f"at least {LEAST_GROUPS}"
        raise FerError(f"min_groups is {min_groups}", code="invalid-value", allowed=allowed)
    codes, count = group_codes(groups)
    rows_of = value_rows(values)
    groups_of = {name: np.unique(codes[rows]) for name, rows in rows_of.items()}
    sums = {
        name: group_sums(y[rows], logits[rows], codes[rows], temperature)
        for name, rows in rows_of.items()
    }
    counted = [name for name in rows_of if name != NO_VALUE and len(groups_of[name]) >= min_groups]
    again: dict[str, list[np.ndarray]] = {name: [] for name in counted}
    for counts in draw_counts(count, resamples, seed):
        for name in counted:
            again[name].append(counts[:, groups_of[name]] @ sums[name])
    resampled = {name: np.concatenate(again[name]) for name in counted}
    table = tuple(
        _row(name, sums[name], len(rows_of[name]), resampled.get(name), level) for name in rows_of
    )
    moved = {name: metrics_of_sums(values) for name, values in resampled.items()}
    gaps = {}
    for metric in FAIRNESS_METRICS:
        shown = {
            row.value: row.metrics[metric]
            for row in table
            if row.intervals and not (metric == "macro_f1" and row.absent_classes)
        }
        if len(shown) > 1:
            gaps[metric] = _gap(shown, {name: moved[name][metric] for name in shown}, level)
    return Fairness(table, gaps, min_groups)


def _row(
    name: str, sums: np.ndarray, n: int, resampled: np.ndarray | None, level: float
) -> FairnessRow:
    total = sums.sum(axis=0)
    metrics = metrics_of_sums(total)
    bounds = {} if resampled is None else intervals_of_sums(total, resampled, level)
    absent = confusion_of_sums(total).sum(axis=-1) == 0
    return FairnessRow(
        value=name,
        n=n,
        groups=len(sums),
        absent_classes=tuple(CLASSES[label] for label in np.flatnonzero(absent)),
        metrics={metric: float(metrics[metric]) for metric in FAIRNESS_METRICS},
        intervals={metric: bounds[metric] for metric in FAIRNESS_METRICS if bounds},
    )


def _gap(observed: dict[str, float], resampled: dict[str, np.ndarray], level: float) -> Gap:
    highest = max(observed, key=lambda name: observed[name])
    lowest = min(observed, key=lambda name: observed[name])
    moved = np.stack([resampled[name] - value for name, value in observed.items()])
    reach = float(np.quantile(np.ptp(moved, axis=0), level))
    gap = observed[highest] - observed[lowest]
    return Gap(highest, lowest, Interval(gap, gap - reach, gap + reach))


def _require_values(y: np.ndarray, values: Sequence[object]) -> None:
    if len(values) != len(y):
        raise FerError(
            f"the column has {len(values)} values for {len(y)} rows", code="length-mismatch"
        )
