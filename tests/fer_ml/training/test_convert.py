"""First-pipeline checkpoints give their weights, and none of their code runs."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from fer_ml.training.checkpoint import load_checkpoint
from fer_ml.training.convert import convert, convert_apart
from tests.refusals import refused

OPTIONS: dict[str, Any] = {
    "architecture": "test_resnet",
    "teacher": False,
    "size": 64,
    "clahe_clip": 2.0,
}


class OldTeacher(nn.Module):
    """The head that the first pipeline's teachers had, under names of the test's own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("test_resnet", num_classes=0)
        self.emb = nn.Sequential(nn.Linear(self.net.num_features, 512), nn.BatchNorm1d(512))
        self.cls = nn.Linear(512, 7)
        self.margin = nn.Module()
        self.margin.weight = nn.Parameter(torch.randn(7, 512))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = nn.functional.silu(self.emb(self.net(images)))
        return 30 * nn.functional.linear(
            nn.functional.normalize(embedding), nn.functional.normalize(self.margin.weight)
        )


class Attack:
    def __init__(self, source: Path, target: Path) -> None:
        self.arguments = (str(source), str(target))

    def __reduce__(self):
        return shutil.copyfile, self.arguments


def old_file(tmp_path: Path, model: nn.Module) -> tuple[Path, Path]:
    """A checkpoint with arguments that would run code; the file that the code would make."""
    source, target = tmp_path / "x", tmp_path / "pwned"
    source.write_text("x")
    held = {
        "epoch": 22,
        "global_step": 7,
        "model": model.state_dict(),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "args": {"out": tmp_path, "evil": Attack(source, target)},
    }
    torch.save(held, tmp_path / "old.pt")
    return tmp_path / "old.pt", target


@pytest.mark.threat("a file runs code when it is read")
def test_a_teacher_is_converted_and_its_code_is_not_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = OldTeacher().eval()
    old, pwned = old_file(tmp_path, model)
    with refused("invalid-checkpoint"):
        load_checkpoint(old)
    options = ("--architecture", "test_resnet", "--teacher", "--size", "64")
    convert_apart(old, tmp_path / "new.pt", *options)
    assert not pwned.exists()
    checkpoint = load_checkpoint(tmp_path / "new.pt")
    assert (checkpoint.epoch, checkpoint.preprocess.size) == (22, 64)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            checkpoint.network()(images), model(images), atol=1e-4, rtol=1e-4
        )


def test_a_student_behind_a_prefix_is_converted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"module": timm.create_model("test_resnet", num_classes=7).eval()})
    old, _ = old_file(tmp_path, model)
    convert_apart(old, tmp_path / "new.pt", "--architecture", "test_resnet")
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_checkpoint(tmp_path / "new.pt").network()(images),
            model["module"](images),
            atol=1e-5,
            rtol=1e-4,
        )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: p.write_bytes(b"no"), "not-torch-save"),
        (lambda p: torch.save({"weights": 1}, p), "no-weights"),
        (lambda p: p.write_bytes(pickle.dumps({"model": {}})), "not-torch-save"),
        (
            lambda p: torch.save({"model": timm.create_model("test_vit").state_dict()}, p),
            "weights-do-not-fit",
        ),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(tmp_path: Path, make, code: str) -> None:
    make(tmp_path / "old.pt")
    with refused(code):
        convert(tmp_path / "old.pt", tmp_path / "new.pt", **OPTIONS)
    assert not (tmp_path / "new.pt").exists()


def test_a_state_dict_of_another_program_is_converted(tmp_path: Path) -> None:
    """As Lightning saves it, and as a file of nothing else."""
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    behind = {f"model.{name}": tensor for name, tensor in state.items()}
    for number, held in enumerate(({"state_dict": behind, "version": "2.4"}, state)):
        torch.save(held, tmp_path / "old.ckpt")
        new = tmp_path / f"{number}.pt"
        convert(tmp_path / "old.ckpt", new, **OPTIONS)
        found = load_checkpoint(new).model
        assert all(torch.equal(found[f"backbone.{name}"], state[name]) for name in state)


@pytest.mark.parametrize("teacher", [False, True])
def test_other_classes_are_named_as_such(tmp_path: Path, teacher: bool) -> None:
    model: nn.Module = timm.create_model("test_resnet", num_classes=8)
    if teacher:
        model = OldTeacher()
        model.cls = nn.Linear(512, 8)
        model.margin.weight = nn.Parameter(torch.randn(8, 512))
    torch.save({"model": model.state_dict()}, tmp_path / "old.pt")
    options = {**OPTIONS, "teacher": teacher}
    with refused("wrong-class-count") as caught:
        convert(tmp_path / "old.pt", tmp_path / "new.pt", **options)
    assert "8" in caught.value.what
