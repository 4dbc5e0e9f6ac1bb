"""Metrics against scikit-learn, torchmetrics, and their definitions by hand."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_calibration_error

from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import (
    ECE_BINS,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    f1_scores,
    log_softmax,
    reliability_bins,
    softmax,
)
from fer_ml.labels import CLASSES

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
@settings(max_examples=60, deadline=None, derandomize=True)
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
@settings(max_examples=60, deadline=None, derandomize=True)
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
    with pytest.raises(FerError, match="NaN or infinity"):
        classification_metrics(np.zeros(3, dtype=np.int64), logits)


def test_no_row_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(FerError, match="0 predictions for 0 labels"):
        classification_metrics(np.zeros(0, dtype=np.int64), np.zeros((0, C)))
    with pytest.raises(FerError, match="2 predictions for 3 labels"):
        classification_metrics(np.zeros(3, dtype=np.int64), np.zeros((2, C)))
