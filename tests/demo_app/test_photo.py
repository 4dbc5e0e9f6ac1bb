from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo_app.detection import Detection
from demo_app.photo import classify_photo
from fer_ml.images.pixels import encode_png, prepare
from fer_ml.recipes.preprocess import Frame
from tests.refusals import refused


def test_every_face_is_classified_with_the_bundles_own_preprocessing(
    bundle, scripted, tmp_path: Path
) -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    image[:, 100:] = 128
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(image))
    boxes = [(10, 10, 60, 60), (130, 10, 180, 60)]
    detector = scripted([[Detection(box, 0.9) for box in boxes]])

    faces = classify_photo(path, bundle, detector)

    assert faces[0].raw_label == "Happy"
    assert [face.state.status for face in faces] == ["label", "unsure"]
    for face, box in zip(faces, boxes, strict=True):
        alone = bundle.probabilities(prepare(image, box, bundle.card.preprocess)[None])[0]
        assert face.probs == pytest.approx(alone, abs=1e-6)


def limited(bundle, **limits):
    """The bundle, with limits on its card."""
    return replace(bundle, card=bundle.card.model_copy(update=limits))


def test_a_face_below_the_least_side_is_too_small(bundle, scripted, tmp_path: Path) -> None:
    """The side is that of the square that is cut: here 0.5 of the box's height."""
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(np.full((100, 200, 3), 255, np.uint8)))
    held = limited(bundle, least_px=24, frames={"scripted": Frame(0.5)})
    boxes = [(10, 10, 60, 58), (130, 10, 180, 57)]
    faces = classify_photo(path, held, scripted([[Detection(box, 0.9) for box in boxes]]))
    assert [face.state.status for face in faces] == ["label", "too_small"]
    assert classify_photo(path, limited(bundle, least_px=201), None)[0].state.status == "too_small"
    assert classify_photo(path, limited(bundle, least_px=200), None)[0].state.status == "label"


def test_a_face_whose_logits_are_unlike_those_of_calib_is_unsure(
    bundle, scripted, tmp_path: Path
) -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(image))
    box = (10, 10, 60, 60)
    seen = prepare(image, box, bundle.card.preprocess)[None]
    total = float(np.log(np.exp(bundle.logits(seen)[0].astype(float)).sum()))
    for least, status in ((total - 0.01, "label"), (total + 0.01, "unsure")):
        held = limited(bundle, least_log_sum_exp=least)
        (face,) = classify_photo(path, held, scripted([[Detection(box, 0.9)]]))
        assert face.state.status == status


def test_a_photo_without_a_face_has_none(bundle, scripted, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(np.zeros((20, 20, 3), np.uint8)))
    assert classify_photo(path, bundle, scripted([[]])) == []


def test_a_file_that_is_no_photo(bundle, scripted, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_text("no image")
    with refused("undecodable-image", where=path):
        classify_photo(path, bundle, scripted([[]]))


def test_a_picture_that_is_a_face_is_prepared_as_in_training(bundle, tmp_path: Path) -> None:
    """Whole and without a margin: no detector finds a face that fills the picture."""
    image = np.random.default_rng(3).integers(0, 255, (48, 40, 3), np.uint8)
    path = tmp_path / "face.png"
    path.write_bytes(encode_png(image))
    (face,) = classify_photo(path, bundle, None)
    meant = bundle.probabilities(prepare(image, None, bundle.card.preprocess)[None])[0]
    assert face.probs == pytest.approx(meant, abs=1e-6)
    assert face.box_xyxy_px == (0, 0, 40, 48)
