"""A TFLite classifier becomes a bundle that computes the same, and other bytes are refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import load_bundle
from fer_ml.bundles.tflite import convert_tflite, to_onnx
from fer_ml.images.pixels import normalise
from fer_ml.sources.raw import model_files
from tests.fer_ml.bundles.tiny_tflite import BIAS, DEPTH, FIRST, LAST, ORDER, SCALE, tflite
from tests.refusals import refused

WHERE = Path("face.tflite")
RNG = np.random.default_rng(1)


def by_torch(faces: np.ndarray) -> np.ndarray:
    """What the network means, ``[N, 1, 16, 16]`` to logits: TensorFlow's paddings by hand."""
    first = torch.from_numpy(FIRST * SCALE[:, None, None, None]).permute(0, 3, 1, 2)
    # An even side at stride 2 is padded behind alone.
    x = F.relu(
        F.conv2d(F.pad(torch.from_numpy(faces), (0, 1, 0, 1)), first, torch.from_numpy(BIAS), 2)
    )
    deep = torch.from_numpy(DEPTH).permute(3, 0, 1, 2)
    left = F.conv2d(x, deep, padding=1, groups=8).clamp(0, 6)
    # The window is 3 wide and 2 high: a column on either side, a row below.
    right = F.max_pool2d(F.pad(x, (1, 1, 0, 1), value=-torch.inf), (2, 3), 1)
    last = F.conv2d(left + right, torch.from_numpy(LAST).permute(0, 3, 1, 2))
    logits = last.mean(dim=(2, 3)).numpy()
    named = {"anger": 4, "disgust": 5, "fear": 6, "happiness": 1, "sadness": 3, "surprise": 2}
    return np.asarray(logits[:, [*named.values(), 0]])


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "face.tflite"
        path.write_bytes(data)
        return path

    return write


def test_the_bundle_computes_what_the_file_means(file: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    card = convert_tflite(file(tflite()), folder, ORDER, 0.5, 0.25)
    bundle = load_bundle(folder)
    assert (card, model_files(folder)[0]) == (bundle.card, "bundle")
    spec = card.preprocess
    assert (spec.size, spec.colour, spec.clahe_clip, spec.mean) == (16, "grey", 0.0, (0.5,) * 3)
    faces = RNG.integers(0, 256, (5, 16, 16, 1), dtype=np.uint8).repeat(3, axis=3)
    given_to_it = normalise(faces, spec)[:, :1]
    np.testing.assert_allclose(given_to_it[:, 0], (faces[..., 0] / 255 - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_allclose(bundle.logits(faces), by_torch(given_to_it), atol=1e-4)
    with pytest.raises(FileExistsError):
        convert_tflite(file(tflite()), folder, ORDER, 0.5, 0.25)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid-tflite"),
        (b"\0\0\0\0TFL3", "invalid-tflite"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(40), "invalid-tflite"),
        (tflite()[:-200], "invalid-tflite"),
        (tflite(activation=4), "unsupported-operators"),
        (tflite(codes=(3, 4, 17, 0, 40, 9)), "unsupported-operators"),
        (tflite(codes=(3, 4, 17, 0, 25, 40)), "unsupported-operators"),
    ],
)
def test_what_is_no_such_network_is_refused(data: bytes, code: str) -> None:
    with refused(code, where=WHERE):
        to_onnx(data, WHERE, ORDER, 0.5, 0.5)


@pytest.mark.parametrize("words", [ORDER[1:], (*ORDER[1:], "happy"), (*ORDER[1:], "contempt")])
def test_seven_classes_are_named_once_each(words: Sequence[str]) -> None:
    with refused("wrong-classes"):
        to_onnx(tflite(), WHERE, words, 0.5, 0.5)
    assert set(CLASSES) == {"Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"}


@settings(max_examples=100)
@given(place=st.integers(8, len(tflite()) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_another_network_or_refused(place: int, byte: int) -> None:
    data = bytearray(tflite())
    data[place] = byte
    try:
        to_onnx(bytes(data), WHERE, ORDER, 0.5, 0.5)
    except FerError as error:
        assert error.code in ("invalid-tflite", "unsupported-operators")
