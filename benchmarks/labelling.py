"""Time of labelling with teachers against the forward passes alone.

The floor runs the same networks over batches in memory, as often as labelling does. Labelling also
reads faces, makes views, and writes its files.

    python benchmarks/labelling.py --rows 2048 --views 4
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fer_ml.distillation.logits import BATCH, Teacher, label_faces
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, Training, Views
from fer_ml.training.models import build_model
from fer_ml.training.views import FaceSet


def faces(rows: int, size: int, seed: int) -> FaceSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, size, size, 3)).astype(np.uint8)
    names = tuple(f"{seed}-{i}" for i in range(rows))
    fold = (np.arange(rows) % 2).astype(np.int8)
    return FaceSet(images, np.arange(rows) % 7, names, Preprocess(size=size), fold=fold)


def bare(teachers: list[Teacher], rows: int, size: int, passes: int) -> float:
    """Return the seconds of ``passes`` forward passes of ``rows`` rows, split among teachers."""
    batch = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    started = time.perf_counter()
    with torch.inference_mode():
        for number in range(passes * rows // BATCH):
            teachers[number % len(teachers)].network(batch)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048, help="training faces, a multiple of 256")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--architecture", default="resnet18")
    json_option(parser)
    arguments = parser.parse_args()
    rows, size = arguments.rows, arguments.size
    recipe = Training(architecture=arguments.architecture, task=CE(), init="none", epochs=1)
    train, others = faces(rows, size, 0), faces(BATCH, size, 1)
    networks = [build_model(recipe).eval() for _ in range(3)]
    made = [Teacher(net, 1.0, str(i), train.preprocess) for i, net in enumerate(networks)]
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Views(arguments.views, 1, "affine", 0.5, 0.0)
    passes = 1 + arguments.views + 1  # centre, views, in-sample
    bare(made, BATCH, size, 2)
    ratios = []
    for _ in range(arguments.rounds):
        floor = bare(made, rows, size, passes) + bare(made[:1], BATCH, size, 1)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            started = time.perf_counter()
            label_faces(out, made[0], made[1:], train, others, plan, keep=out / "keep")
            ratios.append((time.perf_counter() - started) / floor)
    publish(
        Benchmark(
            title="A teacher's soft labels",
            data=f"{arguments.architecture}, {rows:,} random faces of {size} px, "
            f"{arguments.views} views, two folds.",
            figures=(
                Figure.of(
                    "reading, views, networks and files",
                    ratios,
                    over="the bare forward passes",
                    at_most=1.1,
                ),
            ),
        ),
        arguments.json,
    )


if __name__ == "__main__":
    main()
