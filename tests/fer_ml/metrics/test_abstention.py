"""The abstention threshold against trying every threshold on the same drawn rows."""

import numpy as np
import pytest
from scipy.stats import binomtest

from fer_ml.metrics.abstention import RISKS, answered_at, common_threshold
from fer_ml.metrics.resampling import draws, group_codes


def sample(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences in steps of 0.02, right as often as they say; groups of two rows."""
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.uniform(0.3, 1, n) * 50) / 50
    return confidence, rng.random(n) < confidence, np.arange(n) // 2


def test_by_hand() -> None:
    # 14 rows without an error: the chance of that is 0.8 ** 14 = 0.044 at a risk of 0.2.
    confidence = np.linspace(0.9, 0.5, 20)
    correct = np.arange(20) < 14
    threshold = common_threshold([(confidence, correct)], 0.2)
    assert threshold == confidence[13]
    found = answered_at(threshold, confidence, correct, np.arange(20))
    assert found.bound == pytest.approx(1 - 0.05 ** (1 / 14))
    assert found.risk is not None
    assert (found.risk.value, found.coverage.value) == (0.0, 0.7)
    assert common_threshold([(confidence[:13], correct[:13])], 0.2) is None


def test_the_largest_coverage_that_keeps_the_bound() -> None:
    confidence, correct, groups = sample(0, 800)
    threshold = common_threshold([(confidence, correct)], 0.15)
    assert threshold is not None
    found = answered_at(threshold, confidence, correct, groups, resamples=20)
    accepted = confidence >= threshold
    assert found.risk is not None and found.risk.value == pytest.approx(
        1 - correct[accepted].mean()
    )
    assert accepted.mean() == found.coverage.value
    assert found.bound == pytest.approx(bound_of(correct[accepted])) and found.bound <= 0.15
    for lower in set(confidence[confidence < threshold]):
        assert bound_of(correct[confidence >= lower]) > 0.15


def bound_of(correct: np.ndarray) -> float:
    """SciPy's own exact interval, one-sided."""
    test = binomtest(int((~correct).sum()), len(correct), alternative="less")
    return float(test.proportion_ci(0.95).high)


def test_intervals_by_drawing_the_same_rows() -> None:
    confidence, correct, groups = sample(1, 400)
    found = answered_at(0.7, confidence, correct, groups, resamples=70, seed=5)
    codes, count = group_codes(groups)
    coverages, risks = [], []
    for drawn in draws(count, 70, seed=5):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        accepted = rows[confidence[rows] >= 0.7]
        coverages.append(len(accepted) / len(rows))
        risks.append(1 - correct[accepted].mean())
    assert found.risk is not None
    for bounds, values in ((found.coverage, coverages), (found.risk, risks)):
        wanted = np.quantile(values, [0.025, 0.975])
        assert (bounds.low, bounds.high) == pytest.approx(tuple(wanted))


def test_where_nothing_is_answered_there_is_no_risk() -> None:
    found = answered_at(0.9, np.array([0.5, -1.0]), np.array([True, True]), np.arange(2))
    assert (found.bound, found.coverage.value, found.risk) == (1.0, 0.0, None)


@pytest.mark.parametrize(("rows", "risk"), [(400, 0.15), (1500, 0.05)])
def test_other_rows_keep_the_risk(rows: int, risk: float) -> None:
    """A threshold by these rows' own risk let more than half of the draws be above it."""
    above = 0
    for seed in range(120):
        confidence, correct, _ = sample(seed, rows)
        threshold = common_threshold([(confidence, correct)], risk)
        if threshold is None:
            continue
        accepted = np.arange(round(threshold * 50), 51) / 50
        # How often a confidence is drawn: the first and the last step are half as wide.
        weights = np.where(accepted == 1, 0.5, 1.0)
        above += 1 - (accepted * weights).sum() / weights.sum() > risk
    assert above <= 12


def by_brute_force(parts: list[tuple[np.ndarray, np.ndarray]], risk: float) -> float | None:
    for level in sorted({value for confidence, _ in parts for value in confidence.tolist()}):
        answered = [correct[confidence >= level] for confidence, correct in parts]
        if level >= 0 and all(len(each) and bound_of(each) <= risk for each in answered):
            return float(level)
    return None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("parts", [1, 2])
def test_thresholds_by_brute_force(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(parts):
        n = int(rng.integers(1, 150))
        # Few distinct levels, so that ties are common; every other set is well calibrated.
        confidence = rng.integers(1, 20, n) / 20
        correct = rng.random(n) < (confidence if seed % 2 else 0.8)
        # Some rows are never answered.
        drawn.append((np.where(rng.random(n) < 0.1, -1.0, confidence), correct))
    for risk in RISKS:
        assert common_threshold(drawn, risk) == by_brute_force(drawn, risk)


def test_ties_are_answered_together() -> None:
    assert common_threshold([(np.array([0.9, 0.9]), np.array([True, False]))], 0.2) is None
