"""Corruptions keep a face's shape, leave it at strength 0 and change it more with strength."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fer_ml.images.corruptions import (
    CAMERA,
    CORRUPTIONS,
    SETS,
    SMALLEST_PX,
    STRENGTHS,
    corrupted,
    cover,
    loose,
    mirror,
    seen_by_a_camera,
    small,
    tight,
)

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


@settings(max_examples=50)
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


def test_a_corruption_follows_from_the_face_and_goes_on_with_strength() -> None:
    once, again, other, seed = (
        corrupted(FACE, "shift", 0.6, name, at)
        for name, at in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    )
    assert (once == again).all() and (once != other).any() and (once != seed).any()
    # In one direction at all strengths: a stronger shift takes a dot further on.
    dot = np.zeros((101, 101, 3), np.uint8)
    dot[50, 50] = 255
    weak, strong = (
        np.argwhere(corrupted(dot, "shift", strength, "a", 0)[..., 0] > 60).mean(axis=0) - 50
        for strength in (0.4, 0.8)
    )
    assert strong == pytest.approx(2 * weak, abs=1.5)
    assert np.hypot(*strong) == pytest.approx(0.2 * 0.8 * 101, abs=1)


def test_a_frame_that_is_moved_holds_the_face_where_it_should() -> None:
    rng = np.random.default_rng(0)
    assert (mirror(FACE, 1.0, rng) == FACE[:, ::-1]).all() and (
        mirror(FACE, 0.4, rng) == FACE
    ).all()
    wide = loose(tight(FACE, 1.0, rng), 0.75, rng)  # 0.7 of the side, and 1.3 times as wide.
    assert apart(wide[16:32, 16:32], FACE[16:32, 16:32]) < apart(FACE[16:32, 16:32], FACE[:16, :16])
    hidden = (cover(FACE, 1.0, rng) != FACE).any(axis=2)
    rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
    area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / hidden.size
    assert 0.25 < area <= 0.32


def test_every_kind_has_five_strengths_and_a_mirror_one() -> None:
    assert len(SETS) == 10 * len(STRENGTHS) + 1 == 51
    assert {kind for kind, _ in SETS} == set(CORRUPTIONS) > set(CAMERA)
