"""A bundle is opened only when its bytes are those of its card."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, Card, load_bundle, read_card, write_card
from fer_ml.images.pixels import normalise
from fer_ml.recipes.preprocess import Preprocess
from tests.refusals import refused

SPEC = Preprocess(size=16)
WEIGHT = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)


def network() -> bytes:
    """Mean colour times a matrix, built without torch."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 7])],
        [
            onnx.numpy_helper.from_array(WEIGHT, "weight"),
            onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = network()
    (tmp_path / MODEL_FILE).write_bytes(data)
    write_card(
        tmp_path,
        Card(
            name="s",
            profile="p",
            architecture="a",
            classes=CLASSES,
            preprocess=SPEC,
            temperature=2.0,
            unsure_below=0.5,
            model_sha256=hashlib.sha256(data).hexdigest(),
            checkpoint_sha256="0" * 64,
            data="d",
            licence="l",
            intended_use="i",
        ),
    )
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / CARD_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_logits_and_probabilities_by_hand(folder: Path) -> None:
    faces = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    bundle = load_bundle(folder)
    logits = normalise(faces, SPEC).mean(axis=(2, 3)) @ WEIGHT
    np.testing.assert_allclose(bundle.logits(faces), logits, atol=1e-5)
    powers = np.exp(logits / 2.0)
    wanted = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bundle.probabilities(faces), wanted, atol=1e-5)


def test_the_card_round_trips(folder: Path) -> None:
    card = read_card(folder)
    write_card(folder, card)
    assert read_card(folder) == card
    assert card.preprocess.digest() == SPEC.digest()


@pytest.mark.threat("bytes differ from those that were judged")
def test_one_flipped_byte_anywhere_in_the_network_is_refused(folder: Path) -> None:
    good = (folder / MODEL_FILE).read_bytes()
    for position in (0, len(good) // 2, len(good) - 1):
        data = bytearray(good)
        data[position] ^= 1
        (folder / MODEL_FILE).write_bytes(data)
        with refused("bundle-changed") as caught:
            load_bundle(folder)
        assert caught.value.where == str(folder)


def test_another_class_order_is_refused(folder: Path) -> None:
    edit(folder, classes=list(CLASSES[::-1]))
    with refused("wrong-class-order"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0}, "temperature"),
        ({"unsure_below": 1.1}, "unsure_below"),
        ({"colour": 1}, "colour"),
        ({"preprocess": {"size": 16, "crop": 1}}, "preprocess.crop"),
        ({"preprocess": {}}, "preprocess.size"),
        ({"model_sha256": None}, "model_sha256"),
    ],
)
def test_a_wrong_card_names_the_field(folder: Path, changes: dict[str, Any], field: str) -> None:
    edit(folder, **changes)
    with refused("invalid-card", where=folder / CARD_FILE) as caught:
        load_bundle(folder)
    assert field in caught.value.what


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_card_that_is_no_card(folder: Path, text: str) -> None:
    (folder / CARD_FILE).write_text(text)
    with pytest.raises(FerError) as caught:
        load_bundle(folder)
    assert caught.value.where == str(folder / CARD_FILE)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / MODEL_FILE).unlink()
    with refused("bundle-incomplete"):
        load_bundle(folder)
    with refused("missing-bundle"):
        load_bundle(tmp_path / "nowhere")


def test_bytes_that_are_no_network(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(b"no network")
    edit(folder, model_sha256=hashlib.sha256(b"no network").hexdigest())
    with refused("invalid-onnx"):
        load_bundle(folder)


def test_a_card_that_is_not_utf8(folder: Path) -> None:
    (folder / CARD_FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(FerError):
        load_bundle(folder)
