"""Images a second of the training loop, against the bare step and against timm's own step.

python benchmarks/training.py [--size 224] [--rows 96] [--rounds 2] [--device auto] [--json FILE]

One epoch of the real loop over packed faces in a memory map: reading, a random crop, jitter and
flip of each face, mixed in the order of an epoch, optimiser, EMA off, snapshots off. Bare: the same
network, batch, loss, clipping and optimiser on one batch that is in memory already, augmented
before. timm: its ``ClassificationTask``, optimiser and clipping, fed by its own loader with its own
random crop, jitter and flip. The three take turns in each round. Then: the same loop over ten times
the rows, for what the loader holds in memory. Faces are drawn at random: the figures are of speed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import dispatch_clip_grad

from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, Training
from fer_ml.training.loop import _Run
from fer_ml.training.models import build_model
from fer_ml.training.optimiser import make_optimiser
from fer_ml.training.precision import precision_of
from fer_ml.training.ranks import Ranks, choose_device
from fer_ml.training.views import FaceSet

#: timm's name, rows of a step.
NETWORKS = (("mobilenetv3_large_100", 16), ("resnet18", 16), ("convnext_tiny", 8))


def faces(rows: int, size: int, folder: Path) -> FaceSet:
    """Return ``rows`` random faces in a memory map."""
    path = folder / f"{rows}-{size}.npy"
    rng = np.random.default_rng(0)
    held = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, size, size, 3))
    for row in range(rows):
        held[row] = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    held.flush()
    y = np.arange(rows) % 7
    return FaceSet(
        np.load(path, mmap_mode="r"), y, tuple(map(str, range(rows))), Preprocess(size=size)
    )


def recipe_for(architecture: str, batch: int, device: torch.device) -> Training:
    return Training(
        architecture=architecture,
        task=CE(),
        init="none",
        epochs=1,
        batch_size=batch,
        lr=1e-4,
        clip_norm=1.0,
        augment="crop",
        precision="auto" if device.type == "cuda" else "fp32",
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(recipe: Training, data: FaceSet, device: torch.device) -> float:
    """Return the images a second of one epoch, without its validation."""
    run = _Run(build_model(recipe), recipe, data, data, 0, None, Ranks(0, 1, device), None, "ours")
    run._training_mode()
    started = time.perf_counter()
    for rows, arrays in run._bar(0):
        run._step(rows, arrays)
    wait(device)
    return len(data) / (time.perf_counter() - started)


def bare(recipe: Training, data: FaceSet, device: torch.device) -> float:
    """Return the images a second of the same steps on one batch in memory."""
    network = build_model(recipe).to(device=device, memory_format=torch.channels_last).train()
    optimiser = make_optimiser(list(network.parameters()), recipe)
    size, n = data.preprocess.size, recipe.batch_size
    images = torch.randn(n, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.arange(n, device=device) % 7
    kind = precision_of(recipe, device, network)
    started = time.perf_counter()
    for _ in range(len(data) // n):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            loss = torch.nn.functional.cross_entropy(network(images), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimiser.step()
    wait(device)
    return len(data) // n * n / (time.perf_counter() - started)


class _Images(torch.utils.data.Dataset[Any]):
    """The faces as a dataset for timm's loader."""

    def __init__(self, data: FaceSet) -> None:
        self.data = data
        self.transform: Callable[[Any], Any] | None = None

    def __getitem__(self, row: int) -> tuple[Any, int]:
        assert self.transform is not None
        return self.transform(Image.fromarray(np.array(self.data.images[row]))), int(
            self.data.y[row]
        )

    def __len__(self) -> int:
        return len(self.data)


def peer(recipe: Training, data: FaceSet, device: torch.device) -> float:
    """Return the images a second of timm's own step and loader at equal settings."""
    model = timm.create_model(recipe.architecture, num_classes=7)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = ClassificationTask(model, device=device)
    task.train()
    optimiser = create_optimizer_v2(
        model, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    loader = create_loader(
        _Images(data),
        input_size=(3, data.preprocess.size, data.preprocess.size),
        batch_size=recipe.batch_size,
        is_training=True,
        use_prefetcher=False,
        scale=(0.7, 1.0),
        ratio=(3 / 4, 4 / 3),
        color_jitter=0.2,
        num_workers=0 if device.type == "cpu" else 8,
        persistent_workers=device.type != "cpu",
        device=device,
    )
    kind = precision_of(recipe, device, model)
    count = 0
    started = time.perf_counter()
    for images, y in loader:
        images = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            loss = task(images, y.to(device))["loss"]
        loss.backward()
        dispatch_clip_grad(model.parameters(), value=recipe.clip_norm, mode="norm")
        optimiser.step()
        optimiser.zero_grad()
        count += len(y)
    wait(device)
    return count / (time.perf_counter() - started)


def held_mib() -> float:
    """Return the MiB that this process holds, without file-backed pages."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory(folder: Path, device: torch.device) -> dict[int, float]:
    """Return the MiB that an epoch over 2,000 and over 20,000 faces of 96 px adds."""
    recipe = Training(
        architecture="test_resnet", task=CE(), init="none", epochs=1, batch_size=250, lr=1e-4
    )
    ours(recipe, faces(500, 96, folder), device)
    added = {}
    for rows in (2_000, 20_000):
        data = faces(rows, 96, folder)
        before = held_mib()
        ours(recipe, data, device)
        added[rows] = round(held_mib() - before, 1)
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    json_option(parser)
    given = parser.parse_args()
    device = choose_device(given.device)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        data = faces(given.rows, given.size, Path(folder))
        for architecture, batch in NETWORKS:
            recipe = recipe_for(architecture, batch, device)
            for kind in (bare, ours, peer):
                kind(recipe, faces(2 * batch, given.size, Path(folder)), device)
            rounds = [
                [k(recipe, data, device) for k in (bare, ours, peer)] for _ in range(given.rounds)
            ]
            name = f"{architecture}, {batch} rows a step"
            figures += [
                Figure.of(
                    name,
                    [own / floor for floor, own, _ in rounds],
                    over="the bare step",
                    at_least=0.95 if device.type == "cpu" else 0.9,
                    note="Reading and augmenting count most where the step is the cheapest.",
                ),
                Figure.of(
                    name,
                    [own / theirs for _, own, theirs in rounds],
                    over="timm's step and loader",
                    at_least=1,
                    note="Where loading hardly counts, both take the same step.",
                ),
                Figure.of(name, [own for _, own, _ in rounds], "images a second"),
            ]
        figures += [
            Figure(name=f"memory that an epoch over {rows:,} faces adds", measured=mib, unit="MiB")
            for rows, mib in memory(Path(folder), device).items()
        ]
    card = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    publish(
        Benchmark(
            title="The training loop",
            data=f"Random faces of {given.size} px on {card}, {torch.get_num_threads()} threads; "
            "crop, jitter and flip; the three take turns. The bare step has its batch in memory, "
            "augmented before.",
            figures=tuple(figures),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
