"""Serving gives the network the very bytes of training, for the same square of a picture."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_app.detection import Detection
from demo_app.faces import prepare_faces
from demo_app.shipped import SHIPPED
from fer_ml.base.errors import FerError
from fer_ml.bundles.bundle import load_bundle
from fer_ml.images.pixels import prepare
from fer_ml.recipes.preprocess import Frame, Preprocess


def crop(seed: int, side: int, *, grey: bool) -> np.ndarray:
    """A published face, smooth as faces are."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 1 if grey else 3), np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return np.repeat(smooth[..., None], 3, axis=2) if grey else smooth


def framed(bundle, frame: Frame, spec: Preprocess):
    card = bundle.card.model_copy(update={"frames": {"drawn": frame}, "preprocess": spec})
    return type(bundle)(bundle.folder, card, bundle.sha256, bundle.session)


@settings(max_examples=40)
@given(
    side=st.integers(20, 200),
    place=st.tuples(st.integers(0, 90), st.integers(0, 70)),
    size=st.sampled_from([16, 48, 64]),
    grey=st.booleans(),
    oversize=st.sampled_from([1.0, 1.2]),
)
def test_a_face_in_a_picture_gives_the_bytes_that_training_saw(
    side: int, place: tuple[int, int], size: int, grey: bool, oversize: float
) -> None:
    bundle = load_bundle(SHIPPED)
    spec = Preprocess(size=size, oversize=oversize, colour="grey" if grey else "rgb")
    face = crop(side, side, grey=grey)
    picture = np.random.default_rng(1).integers(0, 256, (300, 320, 3), np.uint8)
    left, top = place
    picture[top : top + side, left : left + side] = face
    wanted = prepare(face, None, spec)
    # A detector whose boxes are narrower than high: nothing is squashed.
    thin = Detection((left + side // 4, top, left + side - side // 4, top + side), 1.0)
    found = prepare_faces(picture, [thin], framed(bundle, Frame(), spec), "drawn")
    assert np.array_equal(found[0], wanted)
    # An annotated box of a photo goes the same way.
    box = (left, top, left + side, top + side)
    assert np.array_equal(prepare(picture, box, spec), wanted)


def test_a_box_leads_to_the_square_that_its_detector_declares(bundle) -> None:
    spec = Preprocess(size=32, clahe_clip=0.0)
    picture = np.zeros((200, 200, 3), np.uint8)
    face = crop(3, 60, grey=False)
    picture[50:110, 70:130] = face
    # A box of 40 x 50 px whose middle lies 5 px above that of the face.
    found = Detection((80, 50, 120, 100), 1.0)
    seen = prepare_faces(picture, [found], framed(bundle, Frame(1.2, 0.1), spec), "drawn")[0]
    assert np.array_equal(seen, prepare(face, None, spec))


def test_a_square_that_reaches_out_of_the_picture_repeats_its_edge(bundle) -> None:
    spec = Preprocess(size=32, clahe_clip=0.0)
    picture = crop(5, 64, grey=False)
    served = framed(bundle, Frame(2.0), spec)
    seen = prepare_faces(picture, [Detection((0, 0, 32, 32), 1.0)], served, "drawn")[0]
    # 64 px about (16, 16): a quarter of the side lies out, left and above.
    assert np.array_equal(seen[8:, 8:], cv2.resize(picture[:48, :48], (24, 24), None, 0, 0, 3))
    assert (seen[:8, 8:] == seen[8, 8:]).all() and (seen[8:, :8] == seen[8:, 8:9]).all()


def test_a_student_that_learned_grey_is_given_grey() -> None:
    """A skin tone changes nothing of what the network sees."""
    student = load_bundle(SHIPPED)
    face = crop(7, 96, grey=True)
    lab = cv2.cvtColor(face, cv2.COLOR_RGB2LAB).astype(int)
    lab[..., 1:] += np.array([14, 16])
    tinted = cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
    whole = [Detection((0, 0, 96, 96), 1.0)]
    plain, coloured = (prepare_faces(image, whole, student, "yunet")[0] for image in (face, tinted))
    assert np.ptp(coloured.astype(int), axis=2).max() <= 2
    assert np.abs(coloured.astype(int) - plain).mean() < 5


def test_a_detector_that_the_bundle_does_not_know_is_refused(bundle) -> None:
    with pytest.raises(FerError) as caught:
        prepare_faces(crop(1, 64, grey=True), [Detection((0, 0, 9, 9), 1.0)], bundle, "dnn")
    assert caught.value.allowed == ", ".join(bundle.card.frames)
