"""Limits from calib: which faces a card's rule answers, on clean and on corrupted faces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.bundles.abstaining import RISK, SIDES_PX, UNLIKE, limits_of
from fer_ml.bundles.bundle import log_sum_exp
from fer_ml.metrics.abstention import upper_bound
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.training.views import FaceSet

SPEC = Preprocess(size=48, clahe_clip=0.0)
N = 300


@pytest.fixture
def calib(manifest_in: Callable[..., pl.DataFrame], tmp_path: Path) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"image_path": f"cleaned/{number}.png", "split": "calib"} for number in range(N)
    ]
    return manifest_in(tmp_path, rows)


def sharpness(faces: FaceSet) -> np.ndarray:
    """How much fine detail each face has, in grey levels."""
    images = np.asarray(faces.images, float).mean(axis=3)
    return np.abs(np.diff(images, axis=2)).mean(axis=(1, 2))


def right(calib: pl.DataFrame, share: float) -> np.ndarray:
    """``[N, 7]`` sure logits, right on the first ``share`` of the rows."""
    y = np.array([CLASSES.index(label) for label in calib["label"]])
    shown = np.where(np.arange(len(y)) < share * len(y), y, (y + 1) % 7)
    return 6.0 * np.eye(7)[shown]


def limits(calib: pl.DataFrame, root: Path, answer: Callable[[FaceSet], np.ndarray], **more: Any):  # type: ignore[no-untyped-def]
    return limits_of(calib, right(calib, 0.95), 1.0, answer, SPEC, root, **more)


def test_a_rule_that_holds_on_both_says_so(calib: pl.DataFrame, tmp_path: Path) -> None:
    found = limits(calib, tmp_path, lambda faces: right(calib, 0.95))
    chosen = next(each for each in found.abstention if each.wanted_risk == RISK)
    assert chosen.holds_corrupted and chosen.corrupted is not None
    assert chosen.bound == chosen.corrupted.bound
    wrong = round(0.05 * N)
    assert chosen.bound == pytest.approx(upper_bound(np.array([wrong]), np.array([N]))[0])
    assert found.unsure_below == chosen.threshold
    assert found.least_px == min(SIDES_PX), "at every size it is as right"


def test_what_corrupted_faces_get_wrong_is_said(calib: pl.DataFrame, tmp_path: Path) -> None:
    found = limits(calib, tmp_path, lambda faces: right(calib, 0.5))
    chosen = next(each for each in found.abstention if each.wanted_risk == RISK)
    assert chosen.holds_corrupted is False and chosen.corrupted is not None
    assert chosen.corrupted.coverage[0] == 1.0
    assert chosen.corrupted.risk is not None and chosen.corrupted.risk[0] == pytest.approx(0.5)
    assert found.least_px == max(SIDES_PX), "at no size it is right enough"


def test_a_size_from_which_on_it_is_right_is_the_least(calib: pl.DataFrame, tmp_path: Path) -> None:
    sharp: list[float] = []

    def answer(faces: FaceSet) -> np.ndarray:
        """Right where the faces are as sharp as at 24 px; the sizes are asked from small on."""
        sharp.append(float(sharpness(faces).mean()))
        asked = len(sharp) - 2  # The corrupted faces come first.
        return right(calib, 0.95 if asked < 0 or SIDES_PX[asked] >= 24 else 0.5)

    assert limits(calib, tmp_path, answer).least_px == 24
    assert sharp[1:] == sorted(sharp[1:]), "a smaller face has less detail"


def test_what_is_unlike_calib_is_not_answered(calib: pl.DataFrame, tmp_path: Path) -> None:
    clean = right(calib, 0.95) * np.linspace(0.9, 1.1, N)[:, None]
    found = limits_of(calib, clean, 1.0, lambda faces: 0.5 * right(calib, 0), SPEC, tmp_path)
    assert found.least_log_sum_exp == pytest.approx(np.quantile(log_sum_exp(clean), UNLIKE))
    chosen = next(each for each in found.abstention if each.wanted_risk == RISK)
    assert chosen.holds_corrupted is False and chosen.corrupted is not None
    assert (chosen.corrupted.coverage[0], chosen.corrupted.risk) == (0.0, None)
    plain = limits(calib, tmp_path, lambda faces: right(calib, 0.95), by_logits=False)
    assert plain.least_log_sum_exp is None


def test_a_risk_that_nothing_reaches_has_no_threshold(calib: pl.DataFrame, tmp_path: Path) -> None:
    wrong = right(calib, 0.0)
    found = limits_of(calib, wrong, 1.0, lambda faces: wrong, SPEC, tmp_path)
    assert [each.threshold for each in found.abstention] == [None] * 3
    assert (found.unsure_below, found.least_px) == (1.0, 0)


def test_a_confidence_without_slack_leaves_whole_faces_their_answers(
    calib: pl.DataFrame, tmp_path: Path
) -> None:
    """Sizes are judged by the risk itself, which is under the limit where its bound is not."""
    asked = -2

    def answer(faces: FaceSet) -> np.ndarray:
        nonlocal asked
        asked += 1  # The corrupted faces come first, then the sizes from small on.
        return right(calib, 0.5 if asked <= 0 else 0.81)

    assert upper_bound(np.array([round(0.19 * N)]), np.array([N]))[0] > RISK
    found = limits_of(calib, right(calib, 0.845), 1.0, answer, SPEC, tmp_path)
    assert found.unsure_below < 1 and not found.holds_corrupted
    assert found.least_px == SIDES_PX[1]
