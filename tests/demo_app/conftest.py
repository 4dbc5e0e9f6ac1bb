"""A tiny real bundle, scripted detections, and the real clips where they are to be had."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from demo_app.detection import Detection
from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, Bundle, Card, load_bundle, write_card
from fer_ml.recipes.preprocess import FRAMES, Frame, Preprocess

SIZE = 32
PROJECT = Path(__file__).resolve().parents[2]


class ScriptedDetector:
    """Answers with the given detections, one list a frame; raises an exception in the list."""

    name = "scripted"

    def __init__(self, frames: Sequence[list[Detection] | BaseException]) -> None:
        self._frames = iter(frames)

    def detect(self, image: np.ndarray) -> list[Detection]:
        found = next(self._frames)
        if isinstance(found, BaseException):
            raise found
        return found


def _brightness_classifier() -> bytes:
    """Mean brightness to logits: a bright face is Happy, a dark one Sad, a middle one neither."""
    weights = np.zeros((3, 7), np.float32)
    weights[:, CLASS_INDEX["Happy"]] = 2.0
    weights[:, CLASS_INDEX["Sad"]] = -2.0
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    data = _brightness_classifier()
    (folder / MODEL_FILE).write_bytes(data)
    card = Card(
        name="brightness",
        profile="smoke",
        architecture="gap-gemm",
        classes=CLASSES,
        preprocess=Preprocess(size=SIZE, clahe_clip=0.0, mean=(0.5,) * 3, std=(0.5,) * 3),
        frames={**FRAMES, "scripted": Frame(), "left": Frame()},
        temperature=1.5,
        unsure_below=0.4,
        model_sha256=hashlib.sha256(data).hexdigest(),
        checkpoint_sha256="c" * 64,
        data="drawn",
        licence="MIT",
        intended_use="tests",
    )
    write_card(folder, card)
    assert (folder / CARD_FILE).is_file()
    return folder


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture
def scripted() -> type[ScriptedDetector]:
    return ScriptedDetector


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Write ``[H, W, 3] uint8 RGB`` frames as an MJPG AVI."""

    def write(frames: Sequence[np.ndarray], fps: float = 10.0, name: str = "clip.avi") -> Path:
        path = tmp_path / name
        height, width = frames[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
        assert writer.isOpened()
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return path

    return write


@pytest.fixture
def clips() -> list[Path]:
    """The three real clips; skipped where they are absent."""
    data = Path(os.environ.get("FER_DATA") or PROJECT.parent / "shared" / "data")
    found = sorted((data / "faces").glob("*.gif"))
    if not found:
        pytest.skip(f"no real clips under {data / 'faces'}; set FER_DATA")
    return found
