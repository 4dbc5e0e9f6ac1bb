"""A turned face is cut as if it had not been turned, and a level one exactly as in training."""

import cv2
import numpy as np
import pytest

from demo_app.detection import Detection
from demo_app.faces import prepare_faces, roll_deg, upright
from fer_ml.images.pixels import prepare

BOX = (100, 80, 180, 180)
CENTRE = (140.0, 130.0)


def detection(roll: float, distance: float = 40.0) -> Detection:
    """Eyes 20 px above the centre of a level face, turned by ``roll`` degrees about it."""
    turn = np.deg2rad(roll)
    points = []
    for x, y in ((-distance / 2, -20.0), (distance / 2, -20.0), (0, 0), (-15, 25), (15, 25)):
        points.append(
            (
                float(CENTRE[0] + x * np.cos(turn) - y * np.sin(turn)),
                float(CENTRE[1] + x * np.sin(turn) + y * np.cos(turn)),
            )
        )
    return Detection(BOX, 1.0, tuple(points))


def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (280, 300, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("roll", [-40.0, -7.5, 0.0, 12.0, 60.0])
def test_the_roll_is_that_of_the_eyes(roll: float) -> None:
    assert roll_deg(detection(roll)) == pytest.approx(roll, abs=1e-6)


def test_without_landmarks_or_in_profile_the_roll_is_unknown() -> None:
    assert roll_deg(Detection(BOX, 1.0)) == 0
    assert roll_deg(detection(30.0, distance=15.0)) == 0


@pytest.mark.parametrize("roll", [-35.0, 20.0])
def test_a_turned_face_is_turned_back(bundle, roll: float) -> None:
    level = picture()
    # OpenCV turns against the clock for positive angles; a roll is with it.
    turn = cv2.getRotationMatrix2D(CENTRE, -roll, 1.0)
    turned = cv2.warpAffine(level, turn, (300, 280))
    spec = bundle.card.preprocess
    wanted = prepare(level, BOX, spec).astype(float)
    found = prepare_faces(turned, [detection(roll)], bundle)[0].astype(float)
    as_it_is = prepare(turned, BOX, spec).astype(float)
    assert np.abs(found - wanted).mean() < 2
    assert np.abs(as_it_is - wanted).mean() > 10


def test_a_level_face_is_cut_as_in_training(bundle) -> None:
    image = picture()
    for found in (detection(0.0), Detection(BOX, 1.0)):
        patch, box = upright(image, found, 0.15)
        assert patch is image and box == BOX
    wanted = prepare(image, BOX, bundle.card.preprocess)
    assert np.array_equal(prepare_faces(image, [Detection(BOX, 1.0)], bundle)[0], wanted)


def test_a_turned_face_at_the_edge_of_the_picture(bundle) -> None:
    image = picture()
    found = Detection((0, 0, 60, 60), 1.0, ((10, 5), (50, 30), (30, 30), (20, 45), (40, 55)))
    assert prepare_faces(image, [found], bundle).shape == (1, 32, 32, 3)
