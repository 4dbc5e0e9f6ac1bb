"""Faces: the same each time, seen as faces by a machine, and their expressions can be told."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fer_ml.base.labels import CLASSES
from fer_ml.sample.faces import OCCLUSIONS, Camera, Face, expression
from fer_ml.sample.pictures import draw_background, draw_face, draw_person, expose
from fer_ml.sample.styles import CLEAN, STYLES, random_camera, random_face, random_weights


@pytest.mark.parametrize("size", [48, 100])
def test_draw_face_is_an_rgb_square(size: int) -> None:
    face = draw_face(Face(), Camera(noise=3.0), size)
    assert face.shape == (size, size, 3)
    assert face.dtype == np.uint8
    assert face.std() > 20


def test_the_same_face_and_camera_give_the_same_pixels() -> None:
    rng = np.random.default_rng(5)
    style = STYLES["expw_full"]
    face, camera = random_face(rng, {"Sad": 0.8}, style), random_camera(rng, style)
    assert np.array_equal(draw_face(face, camera, 64), draw_face(face, camera, 64))
    other = draw_face(face, replace(camera, seed=camera.seed + 1), 64)
    assert not np.array_equal(draw_face(face, camera, 64), other)


def test_grey_sensors_give_three_equal_channels() -> None:
    face = draw_face(Face(), Camera(grey=True, noise=5.0), 48)
    assert np.array_equal(face[..., 0], face[..., 1])
    assert np.array_equal(face[..., 0], face[..., 2])


@pytest.mark.parametrize("kind", OCCLUSIONS[1:])
def test_an_occlusion_hides_part_of_the_face(kind: str) -> None:
    plain = draw_face(Face(), Camera(), 64).astype(int)
    hidden = draw_face(Face(), Camera(occlusion=kind), 64).astype(int)
    changed = (np.abs(plain - hidden).max(axis=2) > 15).mean()
    assert 0.03 < changed < 0.6


def test_happy_raises_cheeks_and_corners_and_neutral_moves_nothing() -> None:
    happy = Face(expression=expression({"Happy": 1.0})).action_units()
    assert {unit for unit, level in happy.items() if level > 0.5} == {6, 12, 25}
    neutral = Face(expression=expression({"Neutral": 1.0})).action_units()
    assert set(neutral.values()) == {0.0}


def test_the_label_has_the_largest_weight() -> None:
    rng = np.random.default_rng(1)
    for label in CLASSES[:-1]:
        for _ in range(20):
            weights = random_weights(rng, label, STYLES["expw_full"])
            assert max(weights, key=weights.__getitem__) == label


def test_haar_finds_faces_in_scenes(detector) -> None:
    rng = np.random.default_rng(2)
    hits, total = 0, 49
    for index in range(total):
        style = STYLES[("affectnet_full_balanced", "rafdb_basic", "expw_full")[index % 3]]
        weights = random_weights(rng, CLASSES[index % len(CLASSES)], style)
        face, camera = random_face(rng, weights, style), random_camera(rng, style)
        scene = draw_background(240, 320, camera)
        box = draw_person(scene, face, camera, x=160, y=110, radius=48)
        hits += detector.count(expose(scene, camera), [box])[0]
    assert hits / total >= 0.9


def _clean_faces(seed: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """``pixels [N, 576]`` of new people seen by a clean camera, and ``labels [N]``."""
    rng = np.random.default_rng(seed)
    pixels, labels = [], []
    for label in CLASSES * each:
        person = random_face(rng, random_weights(rng, label, CLEAN), CLEAN)
        face = draw_face(person, random_camera(rng, CLEAN), 48)
        grey = cv2.equalizeHist(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY))
        pixels.append(cv2.resize(grey, (24, 24), interpolation=cv2.INTER_AREA).ravel() / 255)
        labels.append(label)
    return np.array(pixels), np.array(labels)


def test_a_linear_model_tells_the_expressions_of_people_it_has_not_seen() -> None:
    train_x, train_y = _clean_faces(seed=1, each=36)
    test_x, test_y = _clean_faces(seed=2, each=12)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    predicted = model.fit(train_x, train_y).predict(test_x)
    recalls = recall_score(test_y, predicted, labels=CLASSES, average=None)
    assert recalls.mean() > 0.5
    assert recalls.min() > 1 / len(CLASSES)
