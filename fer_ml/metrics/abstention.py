"""The confidence below which a model stays silent, so that its risk stays at a wanted one."""

from dataclasses import dataclass

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.metrics.resampling import (
    LEVEL,
    RESAMPLES,
    Interval,
    draw_counts,
    group_codes,
    interval,
)
from fer_ml.metrics.risk import risk_coverage

#: The shares of wrong answers for which a deployed model carries a threshold.
RISKS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Abstention:
    """Answer where the confidence is at least ``threshold``.

    ``coverage``: of the threshold chosen again on every resample, 0 where none attains the risk.
    ``risk``: of this very threshold on every resample in which it accepts a row.
    """

    wanted_risk: float
    threshold: float
    accepted: int
    n: int
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
    """The threshold of largest coverage with at most ``wanted_risk`` (0..1) on these rows.

    ``confidence [N]``, ``correct [N] bool``, ``groups [N]`` ids that are resampled as one. The
    threshold is chosen where the risk happens to be low, so on other rows expect somewhat more;
    the upper bound of ``risk`` says how much. ``FerError`` where no threshold attains the risk.
    """
    curve = risk_coverage(confidence, correct)
    allowed = np.flatnonzero(curve.risk <= wanted_risk)
    if not len(allowed):
        raise FerError(
            f"no threshold keeps the risk at {wanted_risk}",
            allowed=f"at least {curve.risk.min():.4f} on these {len(correct)} rows",
            fix="ask for a larger risk, or for a better model",
        )
    at = allowed[-1]
    accepted = curve.rows.cumsum()
    codes, count = group_codes(groups)
    order = np.argsort(-confidence, kind="stable")
    codes, wrong, last = codes[order], ~correct[order], accepted - 1
    coverages, risks = [], []
    for counts in draw_counts(count, resamples, seed):
        weight = counts[:, codes]
        rows = weight.cumsum(axis=1)[:, last]
        errors = (weight * wrong).cumsum(axis=1)[:, last]
        fits = (errors / np.maximum(rows, 1) <= wanted_risk) & (rows > 0)
        coverages.append((fits * rows).max(axis=1) / weight.sum(axis=1))
        seen = rows[:, at] > 0
        risks.append(errors[seen, at] / rows[seen, at])
    return Abstention(
        wanted_risk=wanted_risk,
        threshold=float(curve.threshold[at]),
        accepted=int(accepted[at]),
        n=len(correct),
        coverage=interval(curve.coverage[at], np.concatenate(coverages), level),
        risk=interval(curve.risk[at], np.concatenate(risks), level),
    )


def thresholds(
    confidence: np.ndarray, correct: np.ndarray, groups: np.ndarray
) -> dict[float, Abstention | None]:
    """``abstention`` for each of ``RISKS``; ``None`` where no threshold attains the risk."""
    least = risk_coverage(confidence, correct).risk.min()
    return {
        risk: abstention(confidence, correct, groups, risk) if least <= risk else None
        for risk in RISKS
    }
