"""Does CLAHE pay on faces of 48 px? The student of ``ferplus`` without it, with it, and as it was.

python benchmarks/clahe.py --data FOLDER [--rows N] [--epochs N] [--seeds N] [--json FILE]

FOLDER is FER+ as its authors lay it out (fer2013new.csv, data/FER2013Train). All arms train from
the same first weights on the same faces in the same order, one run for each seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from small_faces import faces, part

from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.images.pixels import prepare_packed
from fer_ml.recipes.builtin import ferplus
from fer_ml.training.loop import train
from fer_ml.training.models import build_model
from fer_ml.training.views import FaceSet

#: By arm: clip limit, and the least px of a tile.
ARMS = {"no CLAHE": (0.0, 16), "CLAHE, 3 x 3 tiles": (2.0, 16), "CLAHE, 8 x 8 tiles": (2.0, 1)}


def prepared(data: FaceSet, clip: float, tile_px: int) -> FaceSet:
    """Return the same faces prepared with another CLAHE setting."""
    spec = replace(ferplus().preprocess, clahe_clip=clip, clahe_tile_px=tile_px)
    assert isinstance(data.images, np.ndarray)
    images = np.stack([prepare_packed(face, None, spec) for face in data.images])
    return replace(data, images=images, preprocess=spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    raw = faces(given.data, given.rows)
    cut = given.rows * 3 // 4
    recipe = replace(ferplus().students["ce"], epochs=given.epochs)
    figures = []
    for arm, (clip, tile_px) in ARMS.items():
        data, scores = prepared(raw, clip, tile_px), []
        held, shown = part(data, slice(cut, None)), part(data, slice(cut))
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            trained = train(build_model(recipe), recipe, shown, held, seed=seed, name=arm)
            scores.append(trained.history[-1]["val"]["macro_f1"])
        figures.append(Figure.of(f"val macro-F1 at the end, {arm}", scores, ""))
    publish(
        Benchmark(
            title="CLAHE on small faces",
            data=f"FER+: {cut} faces to train, {given.rows - cut} to measure, {given.epochs} "
            f"epochs from random weights, {given.seeds} seeds.",
            figures=tuple(figures),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
