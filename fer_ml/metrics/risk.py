"""Selective prediction: risk and coverage when unsure rows are not answered. Needs only numpy.

A row is accepted when its confidence is at or above a threshold; rows of equal confidence are
accepted together. ``coverage`` is the share of rows accepted, ``risk`` the share of errors among
these. ``confidence [N]`` may be any score that grows with certainty; ``correct [N]`` is boolean.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RiskCoverage:
    """A risk-coverage curve: arrays ``[K]``, one entry for each distinct confidence, descending."""

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    #: Rows accepted at this threshold and not at the one before.
    rows: np.ndarray


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Return the risk-coverage curve (El-Yaniv and Wiener 2010) of correct and wrong rows.

    >>> curve = risk_coverage(np.array([0.9, 0.8]), np.array([True, False]))
    >>> curve.coverage.tolist(), curve.risk.tolist()
    ([0.5, 1.0], [0.0, 0.5])
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    accepted = last + 1
    errors = np.cumsum(~correct[order])[last]
    return RiskCoverage(
        threshold=ranked[last],
        coverage=accepted / len(ranked),
        risk=errors / accepted,
        rows=np.diff(accepted, prepend=0),
    )


def aurc(curve: RiskCoverage) -> float:
    """Return the area under the risk-coverage curve, in 0..1; lower is better.

    The mean over rows of the risk at the row's own confidence (Geifman and El-Yaniv 2017;
    Geifman, Uziel and El-Yaniv 2019), so the order of tied rows does not matter.

    >>> aurc(risk_coverage(np.array([0.9, 0.8]), np.array([True, False])))  # of 0 and 1/2
    0.25
    """
    return float((curve.risk * curve.rows).sum() / curve.rows.sum())


def augrc(curve: RiskCoverage) -> float:
    """Return the area under the generalised risk-coverage curve, in 0..1/2; lower is better.

    The generalised risk is the share of all rows that are accepted and wrong: coverage x risk. The
    trapezoid rule from (0, 0) gives exactly (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2, where
    AUROC is that of the confidence for telling right from wrong (Traub et al. 2024).

    >>> augrc(risk_coverage(np.array([0.9, 0.8]), np.array([True, False])))  # (1/2)^2 / 2
    0.125
    """
    coverage = np.append(0.0, curve.coverage)
    return float(np.trapezoid(np.append(0.0, curve.coverage * curve.risk), coverage))


def coverage_at_risk(curve: RiskCoverage, risk: float) -> float:
    """Return the largest coverage whose risk is at most ``risk``; 0 if no threshold attains it.

    >>> curve = risk_coverage(np.array([0.9, 0.8]), np.array([True, False]))
    >>> coverage_at_risk(curve, 0.1), coverage_at_risk(curve, 0.5)
    (0.5, 1.0)
    """
    return float(curve.coverage[curve.risk <= risk].max(initial=0.0))
