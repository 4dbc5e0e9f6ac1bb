"""Beside peers that do one part of the same work: CleanVision, imagehash, torchmetrics.

python benchmarks/peers.py [--rows 10000] [--data DIR] [--rounds 3] [--json FILE]

The peers come with ``pip install -e '.[peers]'``; one that is not installed is named and left out.
DIR holds grey faces as PNG at any depth; without it faces are drawn. In each round ours and the
peer take turns over the same files or arrays:

- ``fer validate`` in full, nothing remembered, against all of CleanVision's issues, each in a
  process of its own, imports included; then what either finds of faults that are planted;
- altered copies of faces, found by ``near_groups`` and by imagehash's hashes, every pair compared;
- the calibration error of ``fer_ml.evaluation`` against torchmetrics'.

The training loop stands beside timm in ``benchmarks/training.py``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from alterations import ALTERATIONS, Grey
from near_duplicates import faces_of
from PIL import Image

from fer_ml.base.labels import CLASSES
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.images.inspection import thumb
from fer_ml.manifests.near import near_groups
from fer_ml.metrics.calibration import fit_temperature
from fer_ml.metrics.classification import ECE_BINS, expected_calibration_error, softmax

PEERS = ("cleanvision", "imagehash", "torchmetrics")
#: One row in so many carries a planted fault.
FAULTY = 200
#: Rows of the calibration error, as many as FER+ has faces.
LOGITS = 35_887
#: Calls that are timed together, for one takes milliseconds.
CALLS = 50
#: Bits of a 64-bit hash that may differ, as its users choose them; CleanVision takes 0.
DISTANCES = range(13)
KINDS = ("phash", "dhash")


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> list[float]:
    """Return the ratios of our time to theirs, taking turns; both ran once before to load."""
    ratios = []
    for _ in range(rounds):
        took = []
        for work in (ours, theirs):
            started = time.perf_counter()
            work()
            took.append(time.perf_counter() - started)
        ratios.append(took[0] / took[1])
    return ratios


# -- a data set's faults -------------------------------------------------------------------------


def dark(face: Grey, rng: np.random.Generator) -> Grey:
    return (face * 0.08).astype(np.uint8)


def blurred(face: Grey, rng: np.random.Generator) -> Grey:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), 3))


def same(face: Grey, rng: np.random.Generator) -> Grey:
    return face


@dataclass(frozen=True)
class Fault:
    """A planted fault, and its rule name on either side; ``None`` if there is no such rule.

    ``alter`` makes the picture from another row's. ``differs`` names the column in which a copy of
    that row differs; ``None`` means that the two rows agree.
    """

    name: str
    alter: Callable[[Grey, np.random.Generator], Grey]
    copy: bool
    differs: str | None
    ours: str | None
    theirs: str | None


RELIT, JPEG = ALTERATIONS["gamma, gain, offset"], ALTERATIONS["JPEG 30-95"]
FAULTS = (
    Fault("same pixels twice", same, True, None, "duplicates", "exact_duplicates"),
    Fault("same pixels in two splits", same, True, "split", "leakage", "exact_duplicates"),
    Fault("same pixels, two labels", same, True, "label", "label_conflicts", None),
    Fault("relit copy in two splits", RELIT, True, "split", "near_leakage", "near_duplicates"),
    Fault("JPEG copy in two splits", JPEG, True, "split", "near_leakage", "near_duplicates"),
    Fault("dark", dark, False, None, None, "dark"),
    Fault("blurred", blurred, False, None, None, "blurry"),
)
OTHER = {"test": "train", "train": "test"} | {
    label: CLASSES[(index + 1) % len(CLASSES)] for index, label in enumerate(CLASSES)
}
#: These need no picture: the bytes are cut off, or the manifest names a file that is not there.
BROKEN = {"cut off": "undecodable", "named but missing": "missing_paths"}


@dataclass(frozen=True)
class Planted:
    folder: Path
    manifest: Path
    #: For each fault the files, relative to the folder, of which naming one is finding it.
    faults: dict[str, list[set[str]]]

    def found(self, fault: str, named: dict[str, list[str]], rule: str | None) -> str:
        """Return how many planted pictures of a fault a rule names."""
        files = set(named.get(rule, ())) if rule else set()
        return (
            str(sum(bool(either & files) for either in self.faults[fault])) if rule else "no rule"
        )


def plant(folder: Path, faces: list[Grey], rows: int, *, broken: bool) -> Planted:
    """Write ``rows`` PNGs and a manifest; some have a fault; ``broken``: some unreadable."""
    rng = np.random.default_rng(0)
    each = max(1, rows // FAULTY)
    kinds = len(FAULTS) + (len(BROKEN) if broken else 0)
    clean = rows - each * kinds
    files = [f"{index % 100:02d}/{index:07d}.png" for index in range(rows)]
    rows_of: list[dict[str, str]] = []
    pictures: list[Grey] = []
    for index in range(clean):
        pictures.append(np.roll(faces[index % len(faces)], 7 * (index // len(faces)), 1))
        split = "test" if index % 10 == 9 else "train"
        rows_of.append({"split": split, "label": CLASSES[index % len(CLASSES)]})
    faults: dict[str, list[set[str]]] = {}
    origins = iter(rng.permutation(clean))
    for fault in FAULTS:
        for _ in range(each):
            origin = next(origins)
            row = dict(rows_of[origin])
            if fault.differs:
                row[fault.differs] = OTHER[row[fault.differs]]
            here = {files[len(pictures)]} | ({files[origin]} if fault.copy else set())
            faults.setdefault(fault.name, []).append(here)
            rows_of.append(row)
            pictures.append(fault.alter(pictures[origin], rng))
    for name in BROKEN if broken else ():
        for _ in range(each):
            faults.setdefault(name, []).append({files[len(pictures)]})
            rows_of.append({"split": "train", "label": CLASSES[0]})
            pictures.append(pictures[next(origins)])
    for file, picture in zip(files, pictures, strict=True):
        path = folder / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    for (file,) in faults.get("cut off", ()):
        path = folder / "images" / file
        path.write_bytes(path.read_bytes()[:200])
    for (file,) in faults.get("named but missing", ()):
        (folder / "images" / file).unlink()
    manifest = folder / "manifest.csv"
    table = pl.DataFrame(rows_of).with_columns(
        pl.Series("image_path", files), source=pl.lit("peers")
    )
    table.write_csv(manifest)
    return Planted(folder / "images", manifest, faults)


def ours_here(folder: Path, manifest: Path) -> dict[str, list[str]]:
    """Return the files that each of our rules names, starting without remembered results."""
    from fer_ml.validation.report import validate_file

    with tempfile.TemporaryDirectory() as cache:
        found = validate_file(manifest, [folder], Path(cache))
    named: dict[str, list[str]] = {}
    for finding in found["findings"]:
        named.setdefault(finding["rule"], []).append(finding["image_path"])
    return named


def theirs_here(folder: Path, manifest: Path) -> dict[str, list[str]]:
    """Return the files that each CleanVision issue names, with its defaults."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder), verbose=False)
    lab.find_issues(verbose=False)
    kinds = [name[3:-6] for name in lab.issues.columns if name.startswith("is_")]
    return {
        kind: [
            str(Path(file).relative_to(folder))
            for file in lab.issues.index[lab.issues[f"is_{kind}_issue"]]
        ]
        for kind in kinds
    }


SIDES = {"ours": ours_here, "theirs": theirs_here}


def checked(side: str, planted: Planted) -> subprocess.CompletedProcess[str]:
    """Run one side's check in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--side", side]
    return subprocess.run(
        [*command, str(planted.folder), str(planted.manifest)],
        capture_output=True,
        text=True,
        check=False,
    )


def said(side: str, planted: Planted) -> dict[str, list[str]]:
    done = checked(side, planted)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def dataset_checks(faces: list[Grey], rows: int, rounds: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(Path(folder), faces, rows, broken=False)
        ours, theirs = said("ours", planted), said("theirs", planted)
        ratios = paired(lambda: said("ours", planted), lambda: said("theirs", planted), rounds)
        broken = plant(Path(folder) / "broken", faces, max(rows // 10, 400), broken=True)
        also = said("ours", broken)
        stopped = checked("theirs", broken)
    counts = [
        f"{fault.name} {planted.found(fault.name, ours, fault.ours)}, "
        f"{planted.found(fault.name, theirs, fault.theirs)}"
        for fault in FAULTS
    ]
    counts += [
        f"{name} {broken.found(name, also, rule)}, see below" for name, rule in BROKEN.items()
    ]
    each = len(planted.faults[FAULTS[0].name])
    few = len(broken.faults["cut off"])
    faulty = set().union(*(files for fault in planted.faults.values() for files in fault))
    unasked = {
        kind: len(set(theirs.get(kind, ())) - faulty)
        for kind in ("dark", "blurry", "near_duplicates", "grayscale")
    }
    end = (
        f"CleanVision ends with '{stopped.stderr.strip().splitlines()[-1].split('(')[0].strip()}'"
        if stopped.returncode
        else "CleanVision goes on without a word about them"
    )
    yield Figure.of(
        f"validating {rows:,} files in full",
        ratios,
        over="CleanVision, all its issues",
        at_most=1.0,
        note=(
            "not the same check. Ours judges a manifest (labels, splits, sources, paths, formats, "
            "photos and near-identical faces across splits) and decodes every file; it has no rule "
            "for dark or blurred pictures. CleanVision judges pictures (dark, light, blurred, odd "
            "size or shape, little information, grey, exact and near duplicates) and knows no "
            "labels, splits or manifests. Planted faults found, ours then CleanVision's, "
            f"of {each} each (of the last two {few}, in a second set): "
            + "; ".join(counts)
            + f". At the cut-off files {end}; it reads a folder, so a missing file is not in it. "
            "Files without a planted fault that CleanVision named: "
            + ", ".join(f"{number} {kind}" for kind, number in unasked.items())
        ),
    )


# -- altered copies ------------------------------------------------------------------------------


def hashes_of(faces: list[Grey], kind: str) -> np.ndarray:
    """Return imagehash's 64 bits of each face, as ``[N] uint64``."""
    import imagehash

    make = getattr(imagehash, kind)
    bits = np.array([make(Image.fromarray(face)).hash.reshape(-1) for face in faces])
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def within(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Return ``[M, 3]``: pairs of rows that differ in at most ``distance`` bits, and how many."""
    found = []
    for row in range(0, len(hashes), 512):
        bits = np.bitwise_count(hashes[row : row + 512, None] ^ hashes[None, row:])
        i, j = np.nonzero(bits <= distance)
        found.append(np.stack((row + i, row + j, bits[i, j]), 1)[i < j])
    return np.concatenate(found)


def ours_of(faces: list[Grey]) -> np.ndarray:
    """Return ``[N]``: the first row of each face's group."""
    return near_groups(np.array([thumb(face).reshape(-1) for face in faces])).first


def pairs_of(first: np.ndarray) -> np.ndarray:
    """Return all pairs within groups ``[M, 2]``, smaller index first."""
    found = [np.empty((0, 2), int)]
    for group in np.unique(first[first != np.arange(len(first))]):
        rows = np.flatnonzero(first == group)
        i, j = np.triu_indices(len(rows), 1)
        found.append(np.stack((rows[i], rows[j]), 1))
    return np.concatenate(found)


@dataclass(frozen=True)
class Score:
    recall: float
    precision: float

    @classmethod
    def of(cls, found: np.ndarray, true: set[tuple[int, int]]) -> "Score":
        hits = sum(tuple(pair) in true for pair in found[:, :2].tolist())
        return cls(hits / len(true), hits / len(found) if len(found) else 1.0)

    @property
    def f1(self) -> float:
        return 2 * self.recall * self.precision / max(self.recall + self.precision, 1e-9)


def copies(faces: list[Grey], rows: int, rounds: int) -> Iterator[Figure]:
    """Distinct faces and one altered copy of each of some: the truth is known.

    A set of real faces has twins of its own. Of those with the same two hashes one stays, which
    favours the peers, if anybody.
    """
    rng = np.random.default_rng(1)
    both = np.stack([hashes_of(faces[:rows], kind) for kind in KINDS], 1)
    _, distinct = np.unique(both, axis=0, return_index=True)
    held = [faces[index] for index in np.sort(distinct)[: rows * 3 // 4]]
    count = len(held)
    origins = rng.permutation(count)[: min(count, rows - count)]
    kinds = [list(ALTERATIONS)[index % len(ALTERATIONS)] for index in range(len(origins))]
    held += [
        ALTERATIONS[kind](held[origin], rng) for kind, origin in zip(kinds, origins, strict=True)
    ]
    true = {(int(origin), count + index) for index, origin in enumerate(origins)}

    def by_kind(found: np.ndarray) -> str:
        pairs = set(map(tuple, found[:, :2].tolist())) & true
        hit = {kinds[copy - count]: 0 for _, copy in true}
        for _, copy in pairs:
            hit[kinds[copy - count]] += 1
        return ", ".join(f"{kind} {hit[kind] / kinds.count(kind):.2f}" for kind in hit)

    mine = pairs_of(ours_of(held))
    score = Score.of(mine, true)
    about = f"{count:,} faces and {len(origins):,} altered copies"
    yield Figure(
        name="altered copies found, ours", measured=100 * score.recall, unit="%",
        note=f"{about}; by the rule of the profile ferplus. By kind: {by_kind(mine)}. "
        "Other twins among the faces count against every side; of those with equal phash and dhash "
        "one was left",
    )  # fmt: skip
    yield Figure(name="pairs that are copies, ours", measured=100 * score.precision, unit="%")
    for kind in KINDS:
        hashes = hashes_of(held, kind)
        found = within(hashes, max(DISTANCES))
        scores = {most: Score.of(found[found[:, 2] <= most], true) for most in DISTANCES}
        best = max(scores, key=lambda most: scores[most].f1)
        steps = "; ".join(
            f"{most} bits: {scores[most].recall:.2f} found, {scores[most].precision:.2f} right"
            for most in (0, 4, 8, 10)
        )
        yield Figure(
            name=f"altered copies found, {kind}", measured=100 * scores[best].recall, unit="%",
            note=f"at {best} bits, the distance of the best F1 when the truth is known; {steps}. "
            f"By kind at {best}: {by_kind(found[found[:, 2] <= best])}",
        )  # fmt: skip
        yield Figure(
            name=f"pairs that are copies, {kind}", measured=100 * scores[best].precision, unit="%"
        )
        yield Figure.of(
            f"finding copies among {len(held):,} pictures, ours and {kind}",
            paired(
                lambda: ours_of(held),
                lambda kind=kind, best=best: within(hashes_of(held, kind), best),  # type: ignore[misc]
                rounds,
            ),
            over=f"imagehash {kind}, all pairs by numpy",
            at_most=1.0,
        )


# -- calibration ---------------------------------------------------------------------------------


def calibration(rows: int, rounds: int) -> Iterator[Figure]:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = np.random.default_rng(2)
    y = rng.integers(0, len(CLASSES), rows)
    logits = 2 * rng.normal(size=(rows, len(CLASSES)))
    logits[np.arange(rows), y] += 1.5
    temperature = fit_temperature(logits, y)

    def theirs(probs: np.ndarray, truth: np.ndarray, bins: int = ECE_BINS) -> float:
        found, labels = torch.from_numpy(probs), torch.from_numpy(truth)
        return float(multiclass_calibration_error(found, labels, probs.shape[1], n_bins=bins))

    values = []
    for divisor in (1.0, temperature):
        probs = softmax(logits, divisor)
        values.append((expected_calibration_error(y, probs), theirs(probs, y)))
    yield Figure(
        name=f"calibration error of {rows:,} rows, difference",
        measured=max(abs(mine - their) for mine, their in values),
        unit="",
        over="torchmetrics",
        at_most=1e-6,
        note=f"before and after dividing by the fitted temperature {temperature:.3f}: "
        + "; ".join(f"ours {mine:.6f}, torchmetrics {their:.6f}" for mine, their in values)
        + f"; {ECE_BINS} bins, no probability on an edge. torchmetrics sums in float32, "
        "ours in float64; it fits no temperature",
    )
    edge, truth = np.array([[0.75, 0.25, 0, 0], [0.78, 0.22, 0, 0]]), np.array([0, 1])
    mine, their = expected_calibration_error(truth, edge, bins=4), theirs(edge, truth, bins=4)
    yield Figure(
        name="the same of two rows, one on the edge of a bin, difference",
        measured=abs(mine - their),
        unit="",
        over="torchmetrics",
        note=f"top probabilities 0.75 and 0.78, four bins: ours {mine:.3f}, torchmetrics "
        f"{their:.3f}. Our bins are closed on the right, so 0.75 ends the third; torchmetrics' "
        "are closed on the left, so it begins the fourth",
    )
    probs = softmax(logits)

    def often(work: Callable[[np.ndarray, np.ndarray], float], *given: np.ndarray) -> None:
        for _ in range(CALLS):
            work(*given)

    yield Figure.of(
        f"calibration error of {rows:,} rows, seconds of {CALLS} calls",
        paired(
            lambda: often(expected_calibration_error, y, probs),
            lambda: often(theirs, probs, y),
            3 * rounds,
        ),
        over="torchmetrics, arguments checked as by default",
        at_most=1.0,
    )


def installed() -> dict[str, str | None]:
    """Return the version of each peer; ``None`` if it is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("place", nargs="*", type=Path, help=argparse.SUPPRESS)
    json_option(parser)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side](*given.place)))
        return
    faces = faces_of(given.data)
    there = installed()
    figures: list[Figure] = []
    if there["cleanvision"]:
        figures += dataset_checks(faces, given.rows, given.rounds)
    if there["imagehash"]:
        figures += copies(faces, given.rows, given.rounds)
    if there["torchmetrics"]:
        figures += calibration(LOGITS, given.rounds)
    absent = [name for name, number in there.items() if number is None]
    data = (
        f"{'Real' if given.data else 'Drawn (synthetic)'} faces. "
        + ", ".join(f"{name} {number}" for name, number in there.items() if number)
        + (
            f". Not compared: {', '.join(absent)}, not installed (pip install -e '.[peers]')"
            if absent
            else ""
        )
        + ". timm stands beside our loop in the figures of training."
    )
    publish(Benchmark(title="Beside peers", data=data, figures=tuple(figures)), given.json)


if __name__ == "__main__":
    main()
