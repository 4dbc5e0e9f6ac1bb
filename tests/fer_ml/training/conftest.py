"""One thread, and a tiny learnable training that the tests of this folder share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_ml.packed.format import SOFT_FILE, Step, write_job, write_rows, write_soft_targets
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, Training
from fer_ml.training.views import FaceSet, SoftTargets

SPEC = Preprocess(size=16, clahe_clip=0.0)
RECIPE = Training(
    architecture="test_resnet",
    task=CE(),
    init="none",
    epochs=2,
    batch_size=8,
    lr=3e-3,
    warmup_epochs=0.5,
    strength=0.2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more to waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_faces(n: int, seed: int = 0, spec: Preprocess = SPEC) -> FaceSet:
    """Seven classes that differ in colour, with noise: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 7
    colour = np.array([[(c >> k & 1) * 200 + 20 for k in range(3)] for c in range(1, 8)])
    side = spec.packed_size
    images = colour[y][:, None, None, :] + rng.integers(0, 20, (n, side, side, 3))
    votes = np.eye(7, dtype=np.float32)[y]
    return FaceSet(
        images.astype(np.uint8), y, tuple(f"s{seed}-{i}" for i in range(n)), spec, votes=votes
    )


@pytest.fixture
def faces() -> Callable[..., FaceSet]:
    return make_faces


@pytest.fixture
def recipe() -> Training:
    return RECIPE


@pytest.fixture
def soft_of() -> Callable[..., SoftTargets]:
    """``soft_of(views, n)``: soft labels for ``make_faces(n)``, right, and not sure of it."""

    def make(views: int = 1, n: int = 59) -> SoftTargets:
        y = make_faces(n).y
        noise = np.random.default_rng(3).normal(size=(len(y), views, 7))
        logits = (2 * np.eye(7)[y][:, None, :] + noise).astype(np.float32)
        return SoftTargets(logits, 2.0, view_seed=5)

    return make


def make_job(
    folder: Path,
    *steps: Step,
    n: int = 59,
    soft: SoftTargets | None = None,
    spec: Preprocess = SPEC,
) -> Path:
    """A packed training of tiny faces."""
    rows = {"train": (n, 0), "val": (28, 9), "calib": (21, 8)}
    splits = {split: make_faces(count, seed, spec) for split, (count, seed) in rows.items()}
    for split, held in splits.items():
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", held.images)
        write_rows(folder / split / "rows.npz", held)
    if soft is not None:
        write_soft_targets(folder / SOFT_FILE, soft)
    write_job(
        folder,
        steps=list(steps),
        seed=1,
        preprocess=spec,
        manifest_sha256="0" * 64,
        about={"asset": "student_ce", "partition": None},
    )
    return folder


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[..., Path]:
    """``job_of(changes, ...)``: a packed training with one step for each table of changes."""

    def make(
        *changes: dict[str, Any],
        soft: SoftTargets | None = None,
        n: int = 59,
        size: int = 16,
        name: str = "job",
    ) -> Path:
        steps = []
        for number, change in enumerate(changes or ({},)):
            held = replace(RECIPE, **change)
            previous = steps[-1].name if held.init == "previous" and steps else None
            steps.append(Step(f"step_{number}", held, previous))
        return make_job(tmp_path / name, *steps, n=n, soft=soft, spec=replace(SPEC, size=size))

    return make
