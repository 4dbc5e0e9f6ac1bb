"""Columns in another order are found by labelled faces, and a weak model is not taken for one."""

import itertools

import numpy as np
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.class_order import fit_order
from fer_ml.runs.gates import judge_order

C = len(CLASSES)


def answers(right: float, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits of a model that is ``right`` on so many of them."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % C
    told = np.where(draw.random(n) < right, y, draw.integers(0, C, n))
    return y, np.eye(C)[told] + draw.normal(0, 0.1, (n, C))


def test_the_right_order_passes_whatever_it_is_worth() -> None:
    for right in (0.0, 0.1, 0.5, 0.95):
        for n in (7, 28, 700):
            for seed in range(5):
                assert judge_order("r", *answers(right, n, seed)).passed, (right, n, seed)


def test_one_class_alone_is_a_collapse_and_no_order() -> None:
    y = np.repeat(np.arange(C), [90, 1, 5, 5, 5, 5, 3])
    logits = np.tile(np.eye(C)[1], (len(y), 1))
    found = judge_order("r", y, logits)
    assert found.passed


@pytest.mark.parametrize("pair", list(itertools.combinations(range(C), 2)))
def test_two_columns_that_changed_places_are_found(pair: tuple[int, int]) -> None:
    y, logits = answers(0.9, 210)
    logits[:, pair] = logits[:, pair[::-1]]
    found = judge_order("r", y, logits)
    assert found.passed is False
    assert len(found.examples) == 2
    assert fit_order(y, logits).best > fit_order(y, logits).accuracy + 0.2


def test_the_alphabet_is_found_and_its_order_named() -> None:
    y, logits = answers(0.9, 105)
    alphabet = sorted(CLASSES)
    logits = logits[:, [CLASSES.index(name) for name in alphabet]]
    assert fit_order(y, logits).order == tuple(alphabet)
    assert judge_order("r", y, logits).passed is False


def test_without_a_labelled_face_it_is_not_applicable() -> None:
    assert judge_order("r", np.empty(0, np.int64), np.empty((0, C))).passed is None
