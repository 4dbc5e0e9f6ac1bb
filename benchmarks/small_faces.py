"""Which changes let an EfficientNet-B3 train on faces of 48 px? One change at a time.

python benchmarks/small_faces.py --data FOLDER [--rows N] [--epochs N] [--json FILE]

FOLDER is FER+ as its authors publish it (fer2013new.csv, data/FER2013Train). Each arm trains from
random weights on the same faces in the same order, as RN18 does in the profile ``ferplus_best``.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from fer_ml.base.labels import CLASSES, FERPLUS_COLUMNS
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.recipes.builtin import ferplus_best
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Training
from fer_ml.training.loop import train
from fer_ml.training.models import build_model
from fer_ml.training.views import FaceSet


def faces(folder: Path, rows: int) -> FaceSet:
    """Return the first ``rows`` training faces whose vote majority is one of the seven classes."""
    images, labels, names = [], [], []
    columns = {name: column for column, name in FERPLUS_COLUMNS.items()}
    with open(folder / "fer2013new.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["Usage"] != "Training" or not row["Image name"]:
                continue
            votes = [int(row[columns[name]]) for name in CLASSES]
            if 2 * max(votes) <= 10:
                continue
            path = folder / "data" / "FER2013Train" / row["Image name"]
            images.append(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
            labels.append(int(np.argmax(votes)))
            names.append(row["Image name"])
            if len(images) == rows:
                break
    return FaceSet(np.stack(images), np.array(labels), tuple(names), Preprocess(size=48))


def part(data: FaceSet, rows: slice) -> FaceSet:
    """Return a slice of ``data``."""
    assert isinstance(data.images, np.ndarray)
    return replace(data, images=data.images[rows], y=data.y[rows], sample_ids=data.sample_ids[rows])


def arms(epochs: int) -> dict[str, Training]:
    """Return the arms: the recipe without its changes, then with one more change at a time."""
    whole = replace(
        ferplus_best().teachers["RN18"],
        architecture="efficientnet_b3",
        lr=0.05,
        precise_bn=2048,
        stem_stride=1,
        zero_init_residual=True,
        epochs=epochs,
        targets="labels",
        precision="fp32",
        ema=0.0,
    )
    bare = replace(whole, precise_bn=0, zero_init_residual=False, stem_stride=2)
    return {
        "running statistics": bare,
        "precise_bn": replace(bare, precise_bn=whole.precise_bn),
        "and zero_init_residual": replace(whole, stem_stride=2),
        "and stem_stride = 1": whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    held = faces(given.data, given.rows)
    quarter = len(held) // 4
    train_faces, val_faces = part(held, slice(quarter, None)), part(held, slice(quarter))
    figures = []
    for name, recipe in arms(given.epochs).items():
        torch.manual_seed(1)
        trained = train(build_model(recipe), recipe, train_faces, val_faces, seed=1, name=name)
        history = trained.history
        for entry in history:
            print(
                f"{name}, epoch {entry['epoch'] + 1}: train loss {entry['train']['loss']:.3f}, val "
                f"NLL {entry['val']['nll']:.3g}, macro-F1 {entry['val']['macro_f1']:.3f}, "
                f"inference {entry['inference']}",
                flush=True,
            )
        worst = max(entry["val"]["nll"] for entry in history)
        last = history[-1]
        figures += [
            Figure(name=f"{name}: largest val NLL of an epoch", measured=worst, unit="nats"),
            Figure(name=f"{name}: val NLL at the end", measured=last["val"]["nll"], unit="nats"),
            Figure(
                name=f"{name}: val macro-F1 at the end",
                measured=last["val"]["macro_f1"],
                unit="",
                at_least=2 / 7 if recipe.stem_stride == 1 else None,
            ),
            Figure(
                name=f"{name}: largest features over the median face's, at the end",
                measured=last["inference"]["feature_range"],
            ),
        ]
    publish(
        Benchmark(
            title="EfficientNet-B3 on faces of 48 px",
            data=f"FER+ (real faces), {len(train_faces):,} to train and {len(val_faces):,} to "
            f"measure, {given.epochs} epochs from random weights.",
            figures=tuple(figures),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
