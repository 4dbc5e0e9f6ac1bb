"""What a run folder's gates say of a training, on rows worked out by hand."""

import math

import numpy as np
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.chance import guesser_scores
from fer_ml.metrics.classification import classification_metrics
from fer_ml.runs.gates import (
    _above_chance,
    _inference_fits,
    above_floor,
    confidence_informs,
    judge_against_previous,
    judge_order,
    unjudged,
)
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Store


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
    chance, scores = guesser_scores(y, np.arange(len(y))), dict.fromkeys(CLASSES, 0.5)
    assert _above_chance(scores, chance).passed
    found = _above_chance({**scores, "Fear": 1 / 7}, chance)
    assert (found.rule, found.passed, found.value) == ("classes_above_chance", False, 1)
    assert _above_chance({**scores, "Fear": chance.f1["Fear"]}, chance).value == 1, "as a guesser"
    gone = _above_chance(scores, None)
    assert (gone.passed, gone.value, gone.limit) == (False, 7, 0), "its manifest is gone"


def test_a_floor_is_reached_and_a_guesser_surpassed() -> None:
    y = np.repeat(np.arange(len(CLASSES)), 40)
    chance = guesser_scores(y, np.arange(len(y)))

    def found(value: float, floor: float) -> tuple[bool | None, float | str, float | str]:
        told = above_floor("above_floor", value, floor, chance)
        return told.passed, told.value, told.limit

    assert found(0.5, 0.5) == (True, 0.5, 0.5)
    assert found(0.49, 0.5) == (False, 0.49, 0.5)
    low = chance.macro_f1
    assert found(low, 0.01) == (False, low, low)
    assert found(low + 1e-9, 0.01)[0] is True
    assert found(0.0, 0.0) == (True, 0.0, 0)
    blind = above_floor("above_floor", 0.9, 0.5, None)
    assert (blind.passed, blind.limit) == (False, "not known")
    assert above_floor("above_floor", 0.9, 0.0, None).passed is True


@pytest.mark.parametrize(
    ("manifest", "now", "passed", "limit"),
    [("m", 0.7, True, 0.7), ("m", 0.69, False, 0.7), ("another", 0.9, False, "m")],
)
def test_a_student_is_held_against_the_one_before_on_the_same_manifest(
    store: Store, manifest: str, now: float, passed: bool, limit: float | str
) -> None:
    before = {"asset": "student_ce", "manifest_sha256": "m", "macro_f1": 0.7}
    with store.begin("student_kd") as run:
        run.write_json("training.json", {"baseline": before})
        metrics = {"manifest_sha256": manifest, "raw": {"macro_f1": now}}
        run.write_json("reliabilitymetrics.json", metrics)
    artifact = store.current("student_kd")
    assert artifact is not None
    found = judge_against_previous(artifact)
    assert (found.rule, found.passed, found.limit) == ("not_below_previous", passed, limit)


def test_an_order_is_judged_by_labelled_faces_and_what_is_not_judged_fails() -> None:
    y = np.arange(70) % 7
    right, nobody = np.eye(7)[y] * 5, np.empty((0, 7))
    assert judge_order("class_order", y, right).passed is True
    assert judge_order("class_order", y, right[:, ::-1]).passed is False
    assert judge_order("class_order", y[:0], nobody).passed is None
    assert unjudged("finite_weights").passed is False
