"""``best.pt`` is deterministic, carries what it needs, and never runs code."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fer_ml.training.models import build_model, weights_hash
from tests.refusals import refused

RECIPE = Training(architecture="test_resnet", task=CE(), init="imagenet", epochs=1)
SPEC = Preprocess(size=32)


def checkpoint(seed: int = 0, **changes: object) -> Checkpoint:
    torch.manual_seed(seed)
    recipe = replace(RECIPE, **changes)
    model = build_model(recipe)
    return Checkpoint(model.state_dict(), recipe, SPEC, CLASSES, 3)


def test_round_trip(tmp_path: Path) -> None:
    one = checkpoint()
    save_checkpoint(tmp_path / "best.pt", one)
    back = load_checkpoint(tmp_path / "best.pt")
    assert weights_hash(back.model) == weights_hash(one.model)
    assert (back.recipe, back.preprocess, back.classes, back.epoch) == (RECIPE, SPEC, CLASSES, 3)


@pytest.mark.parametrize("task", [CE(), ArcFace(embedding=16)])
def test_the_network_is_rebuilt_without_fetching_weights(tmp_path: Path, task) -> None:
    one = checkpoint(task=task)
    if isinstance(task, ArcFace):
        one.model["arc_in_use"].fill_(True)
    save_checkpoint(tmp_path / "best.pt", one)
    network = load_checkpoint(tmp_path / "best.pt").network()
    original = build_model(one.recipe)
    original.load_state_dict(one.model)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), original.eval()(images), atol=1e-5, rtol=1e-4)
    assert not network.training


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    """Under another name, and after a round trip."""
    paths = [tmp_path / name for name in ("best.pt", "other_name.pt", "third.pt")]
    save_checkpoint(paths[0], checkpoint())
    save_checkpoint(paths[1], checkpoint())
    save_checkpoint(paths[2], load_checkpoint(paths[0]))
    assert len({path.read_bytes() for path in paths}) == 1
    assert len({path.with_suffix(".safetensors").read_bytes() for path in paths}) == 1
    save_checkpoint(paths[1], checkpoint(seed=1))
    assert paths[0].read_bytes() != paths[1].read_bytes()


@pytest.mark.parametrize("layout", ["channels_last", "view"])
def test_the_memory_layout_does_not_change_the_bytes(tmp_path: Path, layout: str) -> None:
    weight = torch.arange(8.0).view(8, 1, 1, 1)
    if layout == "view":
        other = torch.arange(16.0).view(16, 1, 1, 1)[:8]
    else:
        other = torch.empty_strided((8, 1, 1, 1), (1, 1, 8, 8)).copy_(weight)
    assert torch.equal(weight, other)
    for name, tensor in (("a.pt", weight), ("b.pt", other)):
        save_checkpoint(tmp_path / name, Checkpoint({"w": tensor}, RECIPE, SPEC, CLASSES, 0))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_weights_hash_sees_every_value_and_name() -> None:
    one = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert weights_hash(one) == weights_hash(dict(reversed(list(one.items()))))
    others = ({"a": torch.zeros(3), "c": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(2)})
    assert all(weights_hash(other) != weights_hash(one) for other in others)


class Attack:
    """Copies a file when it is unpickled, as a stand-in for anything worse."""

    def __init__(self, source: Path, target: Path) -> None:
        self.arguments = (str(source), str(target))

    def __reduce__(self):
        return shutil.copyfile, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.threat("a file runs code when it is read")
def test_a_file_with_code_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    source, target, path = tmp_path / "x", tmp_path / "pwned", tmp_path / "best.pt"
    source.write_text("x")
    held = {"model": {}, "classes": list(CLASSES), "evil": Attack(source, target)}
    if zipped:
        torch.save(held, path)
    else:
        path.write_bytes(pickle.dumps(held, protocol=2))
    with refused("invalid-checkpoint") as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)
    assert not target.exists()


@pytest.mark.parametrize("classes", [CLASSES[::-1], CLASSES[:6], (*CLASSES, "Contempt")])
def test_another_class_order_is_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    one = checkpoint()
    save_checkpoint(tmp_path / "a.pt", Checkpoint(one.model, RECIPE, SPEC, classes, 0))
    with refused("wrong-class-order") as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert str(list(CLASSES)) == caught.value.allowed


def held(tmp_path: Path) -> dict:
    save_checkpoint(tmp_path / "good.pt", checkpoint())
    return torch.load(tmp_path / "good.pt", weights_only=True)


@pytest.mark.parametrize("key", ["model", "recipe", "preprocess", "classes", "epoch"])
def test_a_missing_part_is_refused(tmp_path: Path, key: str) -> None:
    parts = held(tmp_path)
    del parts[key]
    torch.save(parts, tmp_path / "a.pt")
    with refused("invalid-checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("change", [{"recipe": {"epochs": 1}}, {"preprocess": {"size": 1}}])
def test_a_wrong_part_is_refused(tmp_path: Path, change: dict) -> None:
    torch.save(held(tmp_path) | change, tmp_path / "a.pt")
    with refused("invalid-checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"PK\x03\x04 no zip",
    ],
)
def test_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    with refused("invalid-checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_lone_tensor_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with refused("invalid-checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with refused("unreadable-file"):
        load_checkpoint(tmp_path / "no.pt")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint())
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: len(data) // 2])
    with refused("invalid-checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
