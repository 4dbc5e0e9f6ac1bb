"""The abstention threshold against trying every threshold on the same drawn rows."""

import numpy as np
import pytest
from scipy.stats import binomtest

from fer_ml.metrics.abstention import RISKS, abstention, most_wrong, thresholds, upper_bounds
from fer_ml.metrics.resampling import draws, group_codes
from fer_ml.metrics.risk import risk_coverage
from tests.refusals import refused


def sample(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences in steps of 0.02, right as often as they say; groups of two rows."""
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.uniform(0.3, 1, n) * 50) / 50
    return confidence, rng.random(n) < confidence, np.arange(n) // 2


def test_by_hand() -> None:
    # 14 rows without an error: the chance of that is 0.8 ** 14 = 0.044 at a risk of 0.2.
    confidence = np.linspace(0.9, 0.5, 20)
    correct = np.arange(20) < 14
    found = abstention(confidence, correct, np.arange(20), 0.2)
    assert (found.threshold, found.accepted, found.n) == (confidence[13], 14, 20)
    assert found.bound == pytest.approx(1 - 0.05 ** (1 / 14))
    assert found.risk.value == 0.0 and found.coverage.value == 0.7
    with refused("unreachable-risk"):
        abstention(confidence[:13], correct[:13], np.arange(13), 0.2)


def test_the_largest_coverage_that_keeps_the_bound() -> None:
    confidence, correct, groups = sample(0, 800)
    found = abstention(confidence, correct, groups, 0.15, resamples=20)
    accepted = confidence >= found.threshold
    assert found.risk.value == pytest.approx(1 - correct[accepted].mean())
    assert accepted.sum() == found.accepted and accepted.mean() == found.coverage.value
    assert found.bound == pytest.approx(bound_of(correct[accepted])) and found.bound <= 0.15
    for threshold in set(confidence[confidence < found.threshold]):
        assert bound_of(correct[confidence >= threshold]) > 0.15


def bound_of(correct: np.ndarray) -> float:
    """SciPy's own exact interval, one-sided."""
    test = binomtest(int((~correct).sum()), len(correct), alternative="less")
    return float(test.proportion_ci(0.95).high)


@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_the_most_errors_are_those_of_the_bound(risk: float) -> None:
    most = most_wrong(150, risk)
    for rows in range(1, 151):
        errors = most[rows]
        assert errors < 0 or bound_of(np.arange(rows) >= errors) <= risk
        assert errors + 1 > rows or bound_of(np.arange(rows) >= errors + 1) > risk


def test_intervals_by_drawing_the_same_rows() -> None:
    confidence, correct, groups = sample(1, 400)
    found = abstention(confidence, correct, groups, 0.2, resamples=70, seed=5)
    codes, count = group_codes(groups)
    coverages, risks = [], []
    for drawn in draws(count, 70, seed=5):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        curve = risk_coverage(confidence[rows], correct[rows])
        coverages.append(curve.coverage[upper_bounds(curve) <= 0.2].max(initial=0.0))
        accepted = rows[confidence[rows] >= found.threshold]
        risks.append(1 - correct[accepted].mean())
    for bounds, values in ((found.coverage, coverages), (found.risk, risks)):
        wanted = np.quantile(values, [0.025, 0.975])
        assert (bounds.low, bounds.high) == pytest.approx(tuple(wanted))


@pytest.mark.parametrize(("rows", "risk"), [(400, 0.15), (1500, 0.05)])
def test_other_rows_keep_the_risk(rows: int, risk: float) -> None:
    """A threshold by these rows' own risk let more than half of the draws be above it."""
    above = 0
    for seed in range(120):
        confidence, correct, groups = sample(seed, rows)
        if upper_bounds(risk_coverage(confidence, correct)).min() > risk:
            continue
        found = abstention(confidence, correct, groups, risk, resamples=2)
        accepted = np.arange(round(found.threshold * 50), 51) / 50
        # How often a confidence is drawn: the first and the last step are half as wide.
        weights = np.where(accepted == 1, 0.5, 1.0)
        above += 1 - (accepted * weights).sum() / weights.sum() > risk
    assert above <= 12


def test_a_risk_that_cannot_be_attained_is_refused() -> None:
    wrong = np.array([False, True, False])
    with refused("unreachable-risk") as caught:
        abstention(np.array([0.9, 0.8, 0.7]), wrong, np.arange(3), 0.1)
    assert caught.value.allowed is not None and f"{bound_of(wrong[:2]):.4f}" in caught.value.allowed


def by_brute_force(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float | None:
    for level in sorted(set(confidence.tolist())):
        answered = confidence >= level
        if bound_of(correct[answered]) <= risk:
            return level
    return None


@pytest.mark.parametrize("seed", range(10))
def test_the_exported_thresholds_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 150))
    # Few distinct levels, so that ties are common; every other set is well calibrated.
    confidence = rng.integers(1, 20, n) / 20
    correct = rng.random(n) < (confidence if seed % 2 else 0.7)
    found = thresholds(confidence, correct, np.arange(n))
    assert tuple(found) == RISKS
    for risk, held in found.items():
        wanted = by_brute_force(confidence, correct, risk)
        assert (held.threshold if held else None) == wanted


def test_ties_are_answered_together_and_no_threshold_is_said() -> None:
    tied = np.array([0.9, 0.9])
    found = thresholds(tied, np.array([True, False]), np.arange(2))
    assert found == dict.fromkeys(RISKS)
