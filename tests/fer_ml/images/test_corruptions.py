"""Corruptions keep a face's shape, leave it at strength 0 and change it more with strength."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fer_ml.images.corruptions import CORRUPTIONS, SMALLEST_PX, seen_by_a_camera, small

FACE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8), (0, 0), 1.5
)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_is_how_far_a_face_is_changed(kind: str) -> None:
    corrupt, far = CORRUPTIONS[kind], []
    for strength in (0.0, 0.25, 0.5, 1.0):
        changed = [corrupt(FACE, strength, np.random.default_rng(seed)) for seed in range(20)]
        assert all(each.shape == FACE.shape and each.dtype == np.uint8 for each in changed)
        far.append(np.mean([apart(each, FACE) for each in changed]))
    assert far == sorted(far) and far[0] < 4 < far[-1]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_any_face_keeps_its_shape_and_a_seed_its_picture(
    face: np.ndarray, strength: float, seed: int
) -> None:
    held = face.copy()
    one, two = (seen_by_a_camera(face, strength, np.random.default_rng(seed)) for _ in range(2))
    assert (one == two).all() and (face == held).all()
    assert one.shape == face.shape and one.dtype == np.uint8


def test_a_small_face_holds_no_more_than_its_pixels() -> None:
    shown = small(FACE, 1.0, np.random.default_rng(0))
    back = cv2.resize(shown, (SMALLEST_PX, SMALLEST_PX), interpolation=cv2.INTER_AREA)
    again = cv2.resize(back, (48, 48), interpolation=cv2.INTER_LINEAR)
    assert apart(shown, again) < 0.5 * apart(shown, FACE)
