"""Abstention: the confidence threshold above which a model answers with at most a given risk.

The upper confidence bound of the risk must stay below the limit (Clopper and Pearson 1934). The
observed risk would not do: a threshold chosen on lucky rows is too low for others. Needs SciPy.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

from fer_ml.metrics.resampling import LEVEL, RESAMPLES, Interval, group_codes, interval, resample
from fer_ml.metrics.risk import RiskCoverage, risk_coverage

#: The shares of wrong answers for which a deployed model carries a threshold.
RISKS = (0.05, 0.1, 0.2)
#: How sure a bound of the risk is.
SURE = 0.95


class Answered(NamedTuple):
    """What a threshold gives on some rows: ``bound`` of the risk at confidence level ``SURE``.

    ``coverage`` and ``risk`` have intervals over resamples, the risk of those that accept a row.
    ``bound`` is 1 and ``risk`` None if no row is accepted.
    """

    bound: float
    coverage: Interval
    risk: Interval | None


def common_threshold(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], wanted_risk: float
) -> float | None:
    """Return the lowest threshold whose risk bound is at most ``wanted_risk`` on each part.

    A part is ``(confidence [N], correct [N] bool)``; the bounds treat rows as independent. A row
    that is never answered has a confidence below 0. ``None`` if there is no such threshold.

    >>> sure, right = np.linspace(0.5, 1, 200), np.arange(200) >= 20
    >>> held = common_threshold([(sure, right)], 0.05)
    >>> int((sure >= held).sum())
    184
    """
    curves = [risk_coverage(*part) for part in parts]
    levels = np.unique(np.concatenate([curve.threshold for curve in curves]))
    allowed = levels >= 0
    for curve in curves:
        # By level, the last entry of the curve that accepts nothing below the level.
        last = np.searchsorted(-curve.threshold, -levels, side="right") - 1
        allowed &= (last >= 0) & (upper_bounds(curve)[last] <= wanted_risk)
    return float(levels[allowed][0]) if allowed.any() else None


def answered_at(
    threshold: float,
    confidence: np.ndarray,
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Answered:
    """Return what is answered at ``threshold``, and how much of it is wrong.

    Arguments as in ``common_threshold``; ``groups [N]`` are ids whose rows are resampled together.

    >>> answered_at(0.5, np.array([0.4, 0.6]), np.array([True, False]), np.arange(2)).risk.value
    1.0
    """
    codes, count = group_codes(groups)
    accepted = confidence >= threshold
    columns = (np.ones(len(codes)), accepted, accepted & ~correct)
    sums = np.stack([np.bincount(codes, column, count) for column in columns], axis=1)
    rows, kept, wrong = sums.sum(axis=0)
    again = resample(sums, resamples, seed)
    coverage = interval(kept / rows, again[:, 1] / again[:, 0], level)
    if not kept:
        return Answered(1.0, coverage, None)
    some = again[again[:, 1] > 0]
    bound = float(upper_bound(np.array([wrong]), np.array([kept]))[0])
    return Answered(bound, coverage, interval(wrong / kept, some[:, 2] / some[:, 1], level))


def upper_bounds(curve: RiskCoverage) -> np.ndarray:
    """Return the upper bound ``[K]`` of the risk, in 0..1, at each threshold of ``curve``.

    >>> curve = risk_coverage(np.array([0.9, 0.9]), np.array([True, True]))
    >>> upper_bounds(curve).round(4).tolist(), round(1 - 0.05**0.5, 4)
    ([0.7764], 0.7764)
    """
    accepted = curve.rows.cumsum()
    return upper_bound(np.rint(curve.risk * accepted), accepted)


def upper_bound(errors: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Return the upper bound ``[K]`` of the risk of ``errors [K]`` in ``accepted [K]`` rows.

    >>> upper_bound(np.array([0.0, 2.0]), np.array([2, 2])).round(4).tolist()
    [0.7764, 1.0]
    """
    with np.errstate(invalid="ignore"):
        bounds = beta.ppf(SURE, errors + 1, accepted - errors)
    risk_bounds: np.ndarray = np.where(errors == accepted, 1.0, bounds)
    return risk_bounds
