"""A published face in a larger picture, and how it is found there."""

import cv2
import numpy as np
import pytest

from demo_app.detection import Detection
from demo_app.embedding import FACE_PX, PICTURE_PX, embed, find


def face(side: int = 48) -> np.ndarray:
    noise = np.random.default_rng(4).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


@pytest.mark.parametrize("seed", range(8))
def test_the_square_holds_the_enlarged_face(seed: int) -> None:
    picture, (left, top, right, bottom) = embed(face(), (seed, 3))
    assert picture.shape == (PICTURE_PX[1], PICTURE_PX[0], 3)
    side = right - left
    assert side == bottom - top and FACE_PX[0] <= side < FACE_PX[1]
    assert left >= 0 and right <= PICTURE_PX[0] and top >= 0 and bottom <= PICTURE_PX[1]
    small = cv2.resize(picture[top:bottom, left:right], (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - face()).mean() < 2, "shrunk again, it is the published face"
    again, box = embed(face(), (seed, 3))
    assert np.array_equal(again, picture) and box == (left, top, right, bottom)


def test_pictures_differ_by_their_seed() -> None:
    assert not np.array_equal(embed(face(), (0, 0))[0], embed(face(), (0, 1))[0])


def test_a_detection_elsewhere_is_not_the_face(scripted: type) -> None:
    box = (100, 100, 200, 200)
    near, far = Detection((110, 100, 190, 200), 0.5), Detection((300, 100, 400, 200), 0.9)
    picture = np.zeros((9, 9, 3), np.uint8)
    assert find(picture, box, scripted([[far, near]])) is near
    assert find(picture, box, scripted([[far]])) is None
    assert find(picture, box, scripted([[]])) is None
