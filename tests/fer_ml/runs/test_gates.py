"""What a run folder's gates say of a training, on rows worked out by hand."""

import math

import numpy as np
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.chance import guessed
from fer_ml.metrics.classification import classification_metrics
from fer_ml.runs.gates import _above_chance, _inference_fits, confidence_informs
from fer_ml.storage.gates import Outcome


def sure(right: np.ndarray, confidence: np.ndarray) -> dict[str, object]:
    """Metrics of rows of class 0, answered with 0 or 1 at the given confidence."""
    answer = np.where(right, 0, 1)
    probability = np.repeat((1 - confidence[:, None]) / 6, 7, axis=1)
    probability[np.arange(len(right)), answer] = confidence
    return classification_metrics(np.zeros(len(right), dtype=np.int64), np.log(probability))


def test_one_confidence_for_all_informs_of_nothing() -> None:
    right = np.arange(98) < 79  # (79 + 1) / (98 + 2) = 0.8
    found = confidence_informs(sure(right, np.full(98, 0.8)))
    assert not found.passed
    assert found.limit == pytest.approx(-(79 * math.log(0.8) + 19 * math.log(0.2 / 6)) / 98)
    assert found.value == pytest.approx(found.limit)


def test_more_confidence_where_it_is_right_informs() -> None:
    right = np.arange(98) < 79
    assert confidence_informs(sure(right, np.where(right, 0.9, 0.6))).passed


def test_two_faces_whose_logits_run_away_undo_the_rest() -> None:
    right = np.arange(98) < 79
    confidence = np.where(right, 0.9, 0.6)
    confidence[-2:] = 1 - 1e-15
    assert not confidence_informs(sure(right, confidence)).passed


def test_all_wrong_and_all_right_have_a_limit() -> None:
    wrong = confidence_informs(sure(np.zeros(30, dtype=bool), np.full(30, 0.2)))
    assert math.isfinite(float(wrong.limit))
    assert not wrong.passed
    assert confidence_informs(sure(np.ones(30, dtype=bool), np.full(30, 0.99))).passed


def test_weights_that_answer_otherwise_in_inference_are_seen() -> None:
    def verdict(**inference: float) -> Outcome:
        return _inference_fits([{"epoch": 3, "inference": inference or None}], 3)

    assert verdict(nll_stored=1.0, nll_batch=1.0, feature_range=1.0).passed
    gap = verdict(nll_stored=99.0, nll_batch=1.0, feature_range=1.0)
    for found in (gap, verdict(nll_stored=1.0, nll_batch=1.0, feature_range=1e9), verdict()):
        assert (found.rule, found.passed) == ("inference_fits", False)


def test_a_class_that_is_no_better_than_a_guess_is_seen() -> None:
    y = np.repeat(np.arange(len(CLASSES)), 40)
    chance, scores = guessed(y, np.arange(len(y))), dict.fromkeys(CLASSES, 0.5)
    assert _above_chance(scores, chance).passed
    found = _above_chance({**scores, "Fear": 1 / 7}, chance)
    assert (found.rule, found.passed, found.value) == ("classes_above_chance", False, 1)
    assert _above_chance(scores, None).passed is False, "its manifest is gone"
