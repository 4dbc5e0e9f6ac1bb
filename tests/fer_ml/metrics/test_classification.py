"""Metrics against scikit-learn, torchmetrics, and their definitions by hand."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import (
    ECE_BINS,
    RISKS,
    adaptive_calibration_error,
    balanced_accuracy,
    calibration_error_by_chance,
    classification_metrics,
    classwise_calibration_error,
    confusion_matrix,
    equal_mass_bins,
    expected_calibration_error,
    f1_scores,
    log_softmax,
    reliability_bins,
    softmax,
)
from tests.refusals import refused

C = len(CLASSES)


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """``y [N]`` and ``logits [N, C]``, from a single row to sets that lack classes."""
    n = draw(st.integers(1, 25))
    logits = draw(arrays(np.float64, (n, C), elements=st.floats(-12, 12, width=32)))
    # Hypothesis loves equal values; this parts them, since a tie may be broken either way.
    logits += np.arange(n * C).reshape(n, C) * 7e-4
    return draw(arrays(np.int64, n, elements=st.integers(0, C - 1))), logits


@given(rows(), st.floats(0.2, 20))
@settings(max_examples=60)
def test_against_scikit_learn(data: tuple[np.ndarray, np.ndarray], temperature: float) -> None:
    y, logits = data
    found = classification_metrics(y, logits, temperature)
    probs = torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy()
    top = np.sort(probs, axis=1)
    assume((top[:, -1] - top[:, -2] > 1e-9).all())
    guess = probs.argmax(axis=1)
    labels = np.arange(C)
    assert found["n"] == len(y)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    f1 = sk.f1_score(y, guess, labels=labels, average=None, zero_division=0)
    assert list(found["per_class_f1"].values()) == pytest.approx(f1)
    assert found["macro_f1"] == pytest.approx(f1.mean())
    assert found["balanced_accuracy"] == pytest.approx(
        sk.recall_score(y, guess, labels=np.unique(y), average="macro")
    )
    assert found["nll"] == pytest.approx(
        -np.log(probs[np.arange(len(y)), y]).mean(), rel=1e-6, abs=1e-9
    )
    assert found["brier"] == pytest.approx(((probs - np.eye(C)[y]) ** 2).sum() / len(y))
    assert 0 <= found["brier"] <= 2
    assert (confusion_matrix(y, guess, C) == sk.confusion_matrix(y, guess, labels=labels)).all()


def test_nll_is_scikit_learns_log_loss_and_brier_its_brier_score() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(200, C)) * 3, rng.integers(0, C, 200)
    found, probs = classification_metrics(y, logits), softmax(logits)
    assert found["nll"] == pytest.approx(sk.log_loss(y, probs, labels=np.arange(C)))
    assert found["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(y, logits.argmax(axis=1))
    )


@given(rows())
@settings(max_examples=60)
def test_ece_against_torchmetrics(data: tuple[np.ndarray, np.ndarray]) -> None:
    y, logits = data
    probs = softmax(logits)
    top = np.sort(probs, axis=1)
    assume((top[:, -1] - top[:, -2] > 1e-6).all())
    scaled = top[:, -1] * ECE_BINS
    # torchmetrics' bins are closed on the left, ours on the right, and it computes in float32.
    assume((np.abs(scaled - np.round(scaled)) > 1e-4).all())
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(y), C, n_bins=ECE_BINS, norm="l1"
    )
    assert expected_calibration_error(y, probs) == pytest.approx(theirs.item(), abs=1e-6)


def test_of_a_tie_the_first_class_is_the_answer() -> None:
    tied = np.array([[0.4, 0.4, 0.2]])
    assert expected_calibration_error(np.array([0]), tied) == pytest.approx(0.6)
    assert expected_calibration_error(np.array([1]), tied) == pytest.approx(0.4)


@pytest.mark.parametrize(("confidence", "n"), [(0.8, 25), (0.55, 400), (1.0, 30)])
def test_chance_in_one_bin_is_the_binomial(confidence: float, n: int) -> None:
    probs = np.full((n, C), (1 - confidence) / (C - 1))
    probs[:, 2] = confidence
    hits = np.arange(n + 1)
    error = np.abs(hits / n - confidence)
    share = scipy.stats.binom.pmf(hits, n, confidence)
    found = calibration_error_by_chance(probs, draws=4000)
    assert found["mean"] == pytest.approx(share @ error, rel=0.05)
    order = np.argsort(error)
    highest = error[order][np.searchsorted(share[order].cumsum(), 0.95)]
    assert found["high"] == pytest.approx(highest, abs=1 / n)


def test_a_calibrated_model_is_above_its_chance_one_time_in_twenty() -> None:
    rng = np.random.default_rng(3)
    above = 0
    for _ in range(200):
        probs = softmax(2 * rng.standard_normal((300, C)))
        y = (probs.cumsum(axis=1) < rng.random((300, 1))).sum(axis=1)
        high = calibration_error_by_chance(probs, draws=200)["high"]
        above += expected_calibration_error(y, probs) > high
    # Of 200 at 1/20: 99.9% of binomial draws are within.
    assert 2 <= above <= 21


@given(rows())
@settings(max_examples=40)
def test_classwise_ece_against_torchmetrics(data: tuple[np.ndarray, np.ndarray]) -> None:
    y, logits = data
    probs = softmax(logits)
    edge = np.maximum(np.round(probs * ECE_BINS), 1)
    assume((np.abs(probs * ECE_BINS - edge) > 1e-4).all())
    theirs = [
        binary_calibration_error(
            torch.from_numpy(probs[:, label].copy()), torch.from_numpy(y == label), n_bins=ECE_BINS
        ).item()
        for label in range(C)
    ]
    assert classwise_calibration_error(y, probs) == pytest.approx(np.mean(theirs), abs=1e-6)


@given(rows(), st.integers(1, 20))
@settings(max_examples=40)
def test_adaptive_ece_by_sorting(data: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    y, logits = data
    # Equal probabilities would share a bin; this parts the rows.
    logits = logits / 4 + np.random.default_rng(0).normal(size=logits.shape)
    probs = softmax(logits)
    top = np.sort(probs, axis=1)
    assume((top[:, -1] - top[:, -2] > 1e-9).all())
    assume(len(set(top[:, -1])) == len(y))
    order = sorted(range(len(y)), key=lambda row: probs[row].max())
    total = 0.0
    for number in range(bins):
        rows = [row for place, row in enumerate(order) if place * bins // len(y) == number]
        if rows:
            share = np.mean([probs[row].argmax() == y[row] for row in rows])
            total += len(rows) / len(y) * abs(share - np.mean([probs[row].max() for row in rows]))
    assert adaptive_calibration_error(y, probs, bins) == pytest.approx(total)


def test_equal_mass_bins_hold_as_many_rows_each() -> None:
    values = np.random.default_rng(0).permutation(90) / 90
    parts = np.array_split(np.sort(values), ECE_BINS)
    index = equal_mass_bins(values)
    for number, part in enumerate(parts):
        assert np.sort(values[index == number]).tolist() == part.tolist()
    counts = np.bincount(equal_mass_bins(np.random.default_rng(1).random(100)))
    assert set(counts) <= {6, 7} and counts.sum() == 100


def test_equal_probabilities_share_a_bin() -> None:
    assert equal_mass_bins(np.array([0.5, 0.9, 0.5, 0.5, 0.7]), bins=5).tolist() == [0, 4, 0, 0, 3]


def test_many_confusion_matrices_at_once() -> None:
    rng = np.random.default_rng(3)
    y, guess = rng.integers(0, C, (4, 5, 30)), rng.integers(0, C, (4, 5, 30))
    matrices = np.array(
        [[confusion_matrix(y[i, j], guess[i, j], C) for j in range(5)] for i in range(4)]
    )
    for i in range(4):
        for j in range(5):
            f1 = sk.f1_score(y[i, j], guess[i, j], labels=np.arange(C), average=None)
            assert f1_scores(matrices)[i, j] == pytest.approx(f1)
            recall = sk.recall_score(
                y[i, j], guess[i, j], labels=np.unique(y[i, j]), average="macro"
            )
            assert balanced_accuracy(matrices)[i, j] == pytest.approx(recall)


def test_what_ranks_rows_is_their_top_probability() -> None:
    rng = np.random.default_rng(4)
    logits, y = rng.normal(size=(300, C)) * 2, rng.integers(0, C, 300)
    found, probs = classification_metrics(y, logits, 1.7), softmax(logits, 1.7)
    correct, accuracy = probs.argmax(axis=1) == y, found["accuracy"]
    auroc = sk.roc_auc_score(correct, probs.max(axis=1))
    wanted = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert found["augrc"] == pytest.approx(wanted)
    assert list(found["coverage_at_risk"]) == [str(risk) for risk in RISKS]
    assert 0 <= found["aurc"] <= 1


@pytest.mark.parametrize("k", range(3, ECE_BINS + 1))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(k: int) -> None:
    """Bins are ``(lo, hi]``: a confidence of exactly k/15 lies in the k-th bin from the left."""
    confidence = k / ECE_BINS
    probs = np.full((1, C), (1 - confidence) / (C - 1))
    probs[0, 2] = confidence
    counts = [b["count"] for b in reliability_bins(np.array([2]), probs)]
    assert counts.index(1) == k - 1
    assert sum(counts) == 1


def test_bins_by_hand() -> None:
    probs = np.array([[0.95, 0.05], [0.97, 0.03], [0.4, 0.6], [0.5, 0.5]])
    y = np.array([0, 1, 1, 0])
    table = reliability_bins(y, probs, bins=10)
    assert [b["count"] for b in table] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 2]
    assert table[9]["confidence"] == pytest.approx(0.96)
    assert table[9]["accuracy"] == 0.5
    wanted = (2 * 0.46 + 1 * 0.4 + 1 * 0.5) / 4
    assert expected_calibration_error(y, probs, bins=10) == pytest.approx(wanted)


def test_certainty_lies_in_the_last_bin() -> None:
    """At T near 0 the softmax gives exactly 1.0, which must not fall out of the table."""
    logits = np.array([[1000.0, 0, 0, 0, 0, 0, 0], [0, 1000.0, 0, 0, 0, 0, 0]])
    found = classification_metrics(np.array([0, 0]), logits)
    assert found["ece"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx(1.0)
    assert found["nll"] == pytest.approx(500.0)


def test_log_softmax_is_torchs() -> None:
    logits = np.random.default_rng(1).normal(size=(20, C)).astype(np.float32) * 300
    theirs = torch.log_softmax(torch.from_numpy(logits).double() / 2.5, dim=1).numpy()
    np.testing.assert_allclose(log_softmax(logits, 2.5), theirs, rtol=1e-12)


def test_macro_f1_counts_an_absent_class_as_zero() -> None:
    """The mean is over all seven classes, so that sets with few classes look bad, not good."""
    y = np.array([0, 0, 3])
    logits = np.eye(C)[y] * 5
    assert classification_metrics(y, logits)["macro_f1"] == pytest.approx(2 / 7)
    assert f1_scores(confusion_matrix(y, y, C)).tolist() == [1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = np.zeros((3, C))
    logits[1, 4] = bad
    with refused("non-finite-predictions"):
        classification_metrics(np.zeros(3, dtype=np.int64), logits)


def test_no_row_and_unequal_lengths_are_refused() -> None:
    with refused("no-rows"):
        classification_metrics(np.zeros(0, dtype=np.int64), np.zeros((0, C)))
    with refused("length-mismatch"):
        classification_metrics(np.zeros(3, dtype=np.int64), np.zeros((2, C)))


@pytest.mark.parametrize("label", [-1, C])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with refused("label-out-of-range", allowed="class indices below 7"):
        classification_metrics(np.array([0, label]), np.zeros((2, C)))


def test_what_a_bare_machine_runs_needs_only_numpy() -> None:
    script = (
        "import sys\n"
        "import fer_ml.distillation.fusion, fer_ml.metrics.chance\n"
        "import fer_ml.metrics.calibration, fer_ml.metrics.groups\n"
        "heavy = {'scipy', 'polars', 'torch', 'pydantic', 'cv2', 'PIL', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
