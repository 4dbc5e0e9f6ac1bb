"""What a guesser reaches, against guessers that answer row by row."""

import numpy as np
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.chance import guesser_scores
from fer_ml.metrics.classification import confusion_matrix, f1_scores

SHARES = (0.2, 0.05, 0.1, 0.3, 0.1, 0.1, 0.15)


def answered(y: np.ndarray, groups: np.ndarray, chances: np.ndarray, seed: int) -> list[float]:
    """Macro-F1 of 2,000 guessers who give each group one answer."""
    rng = np.random.default_rng(seed)
    _, codes = np.unique(groups, return_inverse=True)
    found = []
    for _ in range(2000):
        answers = rng.choice(7, codes.max() + 1, p=chances)[codes]
        found.append(float(f1_scores(confusion_matrix(y, answers, 7)).mean()))
    return found


@pytest.mark.parametrize("size", [1, 4])
def test_five_of_a_hundred_guessers_are_above_it(size: int) -> None:
    """97 groups of one face, or of four copies: the same, since copies are guessed as one."""
    y = np.repeat(np.random.default_rng(0).choice(7, 97, p=SHARES), size)
    groups = np.repeat([f"g{number:02}" for number in range(97)], size)
    limit = guesser_scores(y, groups).macro_f1
    every = [np.full(7, 1 / 7), np.bincount(y, minlength=7) / len(y)]
    passing = [np.mean(np.array(answered(y, groups, p, 1)) > limit) for p in every]
    assert max(passing) == pytest.approx(0.05, abs=0.015)
    # The old floor of one in seven let pass about four in ten.
    assert max(np.mean(np.array(answered(y, groups, p, 1)) > 0.143) for p in every) > 0.35


def test_fewer_groups_are_guessed_better_by_luck() -> None:
    y = np.repeat(np.arange(7), 60)
    alone, copies = (
        guesser_scores(y, np.arange(420)),
        guesser_scores(y, np.repeat(np.arange(42), 10)),
    )
    assert 1 / 7 < alone.macro_f1 < copies.macro_f1 < 0.3
    assert guesser_scores(y, np.arange(420)) == alone


def test_a_class_of_two_faces_is_guessed_better_than_one_of_many() -> None:
    y = np.array([0] * 2 + [3] * 200 + [6] * 200)
    f1 = guesser_scores(y, np.arange(402)).f1
    assert list(f1) == list(CLASSES)
    assert f1["Happy"] > 0.5 and f1["Disgust"] == 0.0
    assert 0 < f1["Angry"] < f1["Happy"]


def test_no_rows_and_one_class_have_a_limit_too() -> None:
    assert guesser_scores(np.array([], dtype=np.int64), np.array([], dtype=str)).macro_f1 == 0
    assert guesser_scores(np.array([3] * 9), np.arange(9)).macro_f1 == pytest.approx(1 / 7)
