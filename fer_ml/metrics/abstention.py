"""Abstention: the confidence threshold above which a model answers with at most a given risk.

The upper confidence bound of the risk must stay below the limit (Clopper and Pearson 1934). The
observed risk would not do: a threshold chosen on lucky rows is too low for others. Needs SciPy.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom

from fer_ml.base.errors import FerError
from fer_ml.metrics.resampling import (
    LEVEL,
    RESAMPLES,
    Interval,
    draw_counts,
    group_codes,
    interval,
)
from fer_ml.metrics.risk import RiskCoverage, risk_coverage

#: The shares of wrong answers for which a deployed model carries a threshold.
RISKS = (0.05, 0.1, 0.2)
#: How sure a bound of the risk is.
SURE = 0.95


@dataclass(frozen=True)
class Abstention:
    """The rule to answer only if the confidence is at least ``threshold``, with its figures.

    ``bound`` is the upper bound of the risk at confidence level ``SURE``.
    ``coverage`` has an interval over resamples, each with its own threshold; 0 where none exists.
    ``risk`` has an interval for this fixed threshold, over resamples in which it accepts a row.
    """

    wanted_risk: float
    threshold: float
    accepted: int
    n: int
    bound: float
    coverage: Interval
    risk: Interval


def abstention(
    confidence: np.ndarray,
    correct: np.ndarray,
    groups: np.ndarray,
    wanted_risk: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Abstention:
    """Find the threshold of largest coverage whose risk bound is at most ``wanted_risk`` (0..1).

    ``confidence [N]``, ``correct [N] bool``; ``groups [N]`` are ids whose rows are resampled
    together; the bound treats rows as independent. ``FerError`` if no threshold has such a bound.

    >>> sure, right = np.linspace(0.5, 1, 200), np.arange(200) >= 20
    >>> held = abstention(sure, right, np.arange(200), 0.05)
    >>> held.accepted, held.bound <= 0.05
    (184, True)
    """
    curve = risk_coverage(confidence, correct)
    bounds = upper_bounds(curve)
    accepted = curve.rows.cumsum()
    allowed = np.flatnonzero(bounds <= wanted_risk)
    if not len(allowed):
        raise FerError(
            f"no threshold keeps the risk at {wanted_risk}",
            code="unreachable-risk",
            allowed=f"at least {bounds.min():.4f} with these {len(correct)} rows",
            fix="ask for a larger risk, for more rows, or for a better model",
        )
    at = allowed[-1]
    codes, count = group_codes(groups)
    order = np.argsort(-confidence, kind="stable")
    codes, wrong, last = codes[order], ~correct[order], accepted - 1
    coverages, risks = [], []
    for counts in draw_counts(count, resamples, seed):
        weight = counts[:, codes]
        rows = weight.cumsum(axis=1)[:, last].astype(np.int64)
        errors = (weight * wrong).cumsum(axis=1)[:, last]
        fits = errors <= most_wrong(int(rows.max()), wanted_risk)[rows]
        coverages.append((fits * rows).max(axis=1) / weight.sum(axis=1))
        seen = rows[:, at] > 0
        risks.append(errors[seen, at] / rows[seen, at])
    return Abstention(
        wanted_risk=wanted_risk,
        threshold=float(curve.threshold[at]),
        accepted=int(accepted[at]),
        n=len(correct),
        bound=float(bounds[at]),
        coverage=interval(curve.coverage[at], np.concatenate(coverages), level),
        risk=interval(curve.risk[at], np.concatenate(risks), level),
    )


def upper_bounds(curve: RiskCoverage) -> np.ndarray:
    """Return the upper bound ``[K]`` of the risk, in 0..1, at each threshold of ``curve``.

    >>> curve = risk_coverage(np.array([0.9, 0.9]), np.array([True, True]))
    >>> upper_bounds(curve).round(4).tolist(), round(1 - 0.05**0.5, 4)
    ([0.7764], 0.7764)
    """
    accepted = curve.rows.cumsum()
    errors = np.rint(curve.risk * accepted)
    with np.errstate(invalid="ignore"):
        bounds = beta.ppf(SURE, errors + 1, accepted - errors)
    risk_bounds: np.ndarray = np.where(errors == accepted, 1.0, bounds)
    return risk_bounds


def most_wrong(rows: int, risk: float) -> np.ndarray:
    """Return for n = 0..``rows`` accepted rows the most errors whose bound is at most ``risk``.

    The array is ``[rows + 1]``; -1 means that even 0 errors are too many. A bound is at most
    ``risk`` exactly if that many errors or fewer have probability <= 1 - ``SURE`` at that risk.

    >>> most_wrong(3, 0.7).tolist()  # 0.3**2 > 0.05 >= 0.3**3
    [-1.0, -1.0, -1.0, 0.0]
    """
    counts = np.arange(1, rows + 1)
    most = binom.ppf(1 - SURE, counts, risk)
    most -= binom.cdf(most, counts, risk) > 1 - SURE
    return np.concatenate([[-1.0], most])


def thresholds(
    confidence: np.ndarray, correct: np.ndarray, groups: np.ndarray
) -> dict[float, Abstention | None]:
    """Return the ``abstention`` for each risk in ``RISKS``; ``None`` where no threshold exists.

    >>> sure, right = np.linspace(0.5, 1, 200), np.arange(200) >= 20
    >>> [(risk, held.accepted) for risk, held in thresholds(sure, right, np.arange(200)).items()]
    [(0.05, 184), (0.1, 192), (0.2, 200)]
    """
    least = upper_bounds(risk_coverage(confidence, correct)).min()
    return {
        risk: abstention(confidence, correct, groups, risk) if least <= risk else None
        for risk in RISKS
    }
