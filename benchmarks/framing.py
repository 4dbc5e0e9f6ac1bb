"""Which square fits a detector's box, and the accuracy lost by the demo's input.

python benchmarks/framing.py --data FOLDER [--faces N] [--bundle FOLDER]
                             [--json FILE]

FOLDER is FER+ as its authors publish it (fer2013new.csv, data/FER2013Train, data/FER2013Valid).
Faces of the training part, embedded in pictures, determine the square that leads from a box back to
the published crop: the medians of its side and position. Faces of the validation part are then
classified from the published crop and from the picture. "Margin" is the demo's former cut: the box
with 15% of its longer side around it, squashed, in colour.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from demo_app.detection import Detector, make_detector
from demo_app.embedding import embed, find
from demo_app.faces import classify, prepare_faces
from demo_app.shipped import SHIPPED
from fer_ml.base.labels import CLASSES, FERPLUS_COLUMNS
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.images.pixels import apply_clahe, box_fault, prepare, read_image
from fer_ml.metrics.classification import expected_calibration_error

#: Skin in LAB beside grey: a and b.
SKIN = (8, 10)
DIRECT, SHOWN, TINTED = "training's way", "the demo's way", "the demo's way to skin"
WAYS = (DIRECT, SHOWN, TINTED, "margin", "margin, skin")


def faces(folder: Path, usage: str, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return ``count`` seeded random faces whose votes have a single winner, and their classes."""
    columns = {name: column for column, name in FERPLUS_COLUMNS.items()}
    held = []
    with open(folder / "fer2013new.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            votes = {column: int(row[column]) for column in list(row)[2:]}
            best = [column for column in votes if votes[column] == max(votes.values())]
            name = next((n for n in CLASSES if [columns[n]] == best), None)
            if row["Usage"] == usage and row["Image name"] and name:
                held.append((row["Image name"], CLASSES.index(name)))
    drawn = np.random.default_rng(0).permutation(len(held))[:count]
    place = folder / "data" / {"Training": "FER2013Train", "PublicTest": "FER2013Valid"}[usage]
    return (
        [read_image(place / held[row][0]) for row in drawn],
        np.array([held[row][1] for row in drawn]),
    )


def fitting(detector: Detector, images: Sequence[np.ndarray]) -> Iterator[Figure]:
    """Yield the position of the published crop relative to a detector's box: medians, quartiles."""
    found = []
    for row, face in enumerate(images):
        picture, (left, top, right, bottom) = embed(face, (1, row))
        box = find(picture, (left, top, right, bottom), detector)
        if box is not None:
            _, above, _, below = box.box_xyxy_px
            height = below - above
            found.append(((right - left) / height, (top + bottom - above - below) / 2 / height))
    note = f"Of {len(found)} faces found among {len(images)} of the training part, the middle half."
    for what, values in zip(("side of the square", "lower by"), np.array(found).T, strict=True):
        low, middle, high = np.percentile(values, (25, 50, 75))
        yield Figure(
            name=f"{detector.name}: {what}, in heights of the box",
            measured=middle,
            unit="",
            low=low,
            high=high,
            rounds=len(found),
            note=note,
        )


def with_margin(picture: np.ndarray, box: tuple[int, int, int, int], bundle: Bundle) -> np.ndarray:
    """Return the network's face ``[S, S, 3]``, cut with the former margin."""
    height, width = picture.shape[:2]
    assert box_fault(box, width, height) is None
    left, top, right, bottom = box
    pad = round(0.15 * max(right - left, bottom - top))
    face = picture[max(0, top - pad) : bottom + pad, max(0, left - pad) : right + pad]
    spec = bundle.card.preprocess
    face = cv2.resize(face, (spec.size, spec.size), interpolation=cv2.INTER_AREA)
    return apply_clahe(face, spec.clahe_clip, spec.tiles)


def tinted(face: np.ndarray) -> np.ndarray:
    """Return a grey face tinted like skin."""
    lab = cv2.cvtColor(face, cv2.COLOR_RGB2LAB).astype(int)
    lab[..., 1:] += np.array(SKIN)
    return cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def served(
    detector: Detector, images: Sequence[np.ndarray], y: np.ndarray, bundle: Bundle
) -> Iterator[Figure]:
    """Yield accuracy and ECE for each input of the same faces, and the demo's difference."""
    cuts: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    rows = []
    for row, face in enumerate(images):
        picture, square = embed(face, (0, row))
        found = find(picture, square, detector)
        if found is None:
            continue
        rows.append(row)
        skin, box = tinted(picture), found.box_xyxy_px
        faces = (
            prepare(face, None, bundle.card.preprocess),
            *(prepare_faces(each, [found], bundle, detector.name)[0] for each in (picture, skin)),
            *(with_margin(each, box, bundle) for each in (picture, skin)),
        )
        for name, cut in zip(WAYS, faces, strict=True):
            cuts[name].append(cut)
    name, truth = detector.name, y[rows]
    yield Figure(name=f"{name}: faces found", measured=len(truth) / len(y), unit="share")
    scores = {}
    for way, held in cuts.items():
        probs = np.array(classify(np.stack(held), bundle).probs)
        right = float((probs.argmax(axis=1) == truth).mean())
        scores[way] = np.array([right, expected_calibration_error(truth, probs)])
        for metric, value in zip(("accuracy", "ECE"), scores[way], strict=True):
            yield Figure(name=f"{name}: {metric}, {way}", measured=float(value), unit="")
    for way in (SHOWN, TINTED):
        apart = np.abs(scores[way] - scores[DIRECT])
        for metric, value in zip(("accuracy", "ECE"), apart, strict=True):
            what = f"{name}: {metric}, {way} and {DIRECT} apart"
            yield Figure(name=what, measured=float(value), unit="", at_most=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--faces", type=int, default=1000)
    json_option(parser)
    given = parser.parse_args()
    bundle = load_bundle(given.bundle)
    trained, _ = faces(given.data, "Training", given.faces)
    images, y = faces(given.data, "PublicTest", given.faces)
    figures: list[Figure] = []
    for name in ("haar", "yunet"):
        detector = make_detector(name)
        figures += fitting(detector, trained)
        figures += served(detector, images, y, bundle)
    data = f"{len(images)} faces of FER+'s validation part in pictures of 640x480, one each; "
    data += f"{bundle.card.name} of profile {bundle.card.profile}."
    publish(
        Benchmark(title="The demo's way to a face", data=data, figures=tuple(figures)), given.json
    )


if __name__ == "__main__":
    main()
