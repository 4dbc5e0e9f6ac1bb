"""The abstention threshold against trying every threshold on the same drawn rows."""

import numpy as np
import pytest

from fer_ml.base.errors import FerError
from fer_ml.metrics.abstention import RISKS, abstention, thresholds
from fer_ml.metrics.resampling import draws, group_codes
from fer_ml.metrics.risk import coverage_at_risk, risk_coverage


def sample(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences in steps of 0.02, right as often as they say; groups of two rows."""
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.uniform(0.3, 1, n) * 50) / 50
    return confidence, rng.random(n) < confidence, np.arange(n) // 2


def test_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, True, False, True])
    found = abstention(confidence, correct, np.arange(4), 0.25)
    assert (found.threshold, found.accepted, found.n) == (0.6, 4, 4)
    found = abstention(confidence, correct, np.arange(4), 0.2)
    assert (found.threshold, found.accepted, found.coverage.value) == (0.8, 2, 0.5)
    assert found.risk.value == 0.0 and found.wanted_risk == 0.2


def test_the_largest_coverage_that_keeps_the_risk() -> None:
    confidence, correct, groups = sample(0, 800)
    found = abstention(confidence, correct, groups, 0.15, resamples=20)
    accepted = confidence >= found.threshold
    assert found.risk.value == pytest.approx(1 - correct[accepted].mean())
    assert found.risk.value <= 0.15 and accepted.sum() == found.accepted
    assert accepted.mean() == found.coverage.value
    assert found.coverage.value == coverage_at_risk(risk_coverage(confidence, correct), 0.15)
    for threshold in set(confidence[confidence < found.threshold]):
        assert 1 - correct[confidence >= threshold].mean() > 0.15


def test_intervals_by_drawing_the_same_rows() -> None:
    confidence, correct, groups = sample(1, 160)
    found = abstention(confidence, correct, groups, 0.1, resamples=70, seed=5)
    codes, count = group_codes(groups)
    coverages, risks = [], []
    for drawn in draws(count, 70, seed=5):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        coverages.append(coverage_at_risk(risk_coverage(confidence[rows], correct[rows]), 0.1))
        accepted = rows[confidence[rows] >= found.threshold]
        risks.append(1 - correct[accepted].mean())
    for bounds, values in ((found.coverage, coverages), (found.risk, risks)):
        wanted = np.quantile(values, [0.025, 0.975])
        assert (bounds.low, bounds.high) == pytest.approx(tuple(wanted))


def test_the_upper_bound_of_the_risk_is_what_other_rows_show() -> None:
    """The threshold is chosen where the risk happens to be low: elsewhere it is often above."""
    above = within = 0
    for seed in range(60):
        found = abstention(*sample(seed, 400), 0.15, resamples=200, seed=seed)
        confidence, correct, _ = sample(1000 + seed, 20_000)
        risk = 1 - correct[confidence >= found.threshold].mean()
        above += risk > 0.15
        within += risk <= found.risk.high
    assert above > 20
    assert within > 50


def test_a_risk_that_cannot_be_attained_is_refused() -> None:
    wrong = np.array([False, True, False])
    with pytest.raises(FerError, match=r"no threshold keeps the risk at 0\.1(.|\n)*at least 0\.5"):
        abstention(np.array([0.9, 0.8, 0.7]), wrong, np.arange(3), 0.1)


def by_brute_force(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float | None:
    for level in sorted(set(confidence.tolist())):
        answered = confidence >= level
        if (~correct[answered]).sum() <= risk * answered.sum() + 1e-12:
            return level
    return None


@pytest.mark.parametrize("seed", range(10))
def test_the_exported_thresholds_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
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
