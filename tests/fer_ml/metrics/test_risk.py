"""Risk and coverage by hand, by their definitions row by row, and against scikit-learn's AUROC."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fer_ml.metrics.risk import augrc, aurc, coverage_at_risk, risk_coverage

#: Few distinct confidences, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.sampled_from([0.2, 0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30
)


def arrays(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows])


def test_a_curve_by_hand() -> None:
    confidence = np.array([0.5, 0.9, 0.5, 0.7])
    correct = np.array([False, True, True, False])
    curve = risk_coverage(confidence, correct)
    assert curve.threshold.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.25, 0.5, 1.0]
    assert curve.risk.tolist() == [0.0, 0.5, 0.5]
    assert curve.rows.tolist() == [1, 1, 2]
    assert aurc(curve) == (0 + 0.5 + 0.5 + 0.5) / 4
    # Generalised risk 0, 1/4, 2/4 at coverage 1/4, 2/4, 1.
    assert augrc(curve) == pytest.approx(0.25 * 0.125 + 0.5 * 0.375)
    assert coverage_at_risk(curve, 0.49) == 0.25
    assert coverage_at_risk(curve, 0.5) == 1.0


@given(ROWS)
def test_aurc_is_the_mean_risk_at_each_rows_own_confidence(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = arrays(rows)
    risks = [1 - correct[confidence >= own].mean() for own in confidence]
    assert aurc(risk_coverage(confidence, correct)) == pytest.approx(np.mean(risks))


@given(ROWS)
def test_augrc_follows_from_accuracy_and_auroc(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = arrays(rows)
    assume(0 < correct.sum() < len(correct))
    accuracy, auroc = correct.mean(), roc_auc_score(correct, confidence)
    wanted = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert augrc(risk_coverage(confidence, correct)) == pytest.approx(wanted)


@given(ROWS, st.floats(0, 1))
def test_coverage_at_risk_tries_every_threshold(
    rows: list[tuple[float, bool]], risk: float
) -> None:
    confidence, correct = arrays(rows)
    fits = [0.0]
    for threshold in set(confidence):
        accepted = confidence >= threshold
        if 1 - correct[accepted].mean() <= risk - 1e-12:
            fits.append(accepted.mean())
    curve = risk_coverage(confidence, correct)
    assume(np.abs(curve.risk - risk).min() > 1e-9)
    assert coverage_at_risk(curve, risk) == pytest.approx(max(fits))


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[float, bool]], random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, two = (risk_coverage(*arrays(r)) for r in (rows, shuffled))
    for name in ("threshold", "coverage", "risk", "rows"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


def test_the_best_and_the_worst_ranking() -> None:
    correct = np.array([True] * 6 + [False] * 4)
    best = risk_coverage(np.arange(10, 0, -1.0), correct)
    worst = risk_coverage(np.arange(10.0), correct)
    assert augrc(best) == pytest.approx(0.4**2 / 2)
    assert augrc(worst) == pytest.approx(0.4 * 0.6 + 0.4**2 / 2)
    assert aurc(best) < aurc(worst)
    assert coverage_at_risk(best, 0.0) == 0.6
    assert coverage_at_risk(worst, 0.0) == 0.0
