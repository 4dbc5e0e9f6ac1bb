"""Finding near-identical faces: time, memory, and what is found, against comparing each pair.

python benchmarks/near_duplicates.py [--rows 36000 466284 4662840] [--data DIR] [--json FILE]

DIR holds grey faces as PNG at any depth (FER+ as published). Without it faces are drawn. A set of
up to 1.2 times their number is made of these faces and altered copies of some. A larger one is made
of blends of two faces and of twins of some; blends are as near to each other as the faces are, or
nearer (see the table of random pairs). Each search runs in a process of its own.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fer_ml.base.labels import CLASSES
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.images.inspection import THUMB_SIZE, thumb
from fer_ml.manifests.near import THRESHOLD, near_groups
from fer_ml.sample.pictures import draw_face
from fer_ml.sample.styles import STYLES, random_camera, random_face, random_weights

ROWS = (36_000, 466_284, 4_662_840)
DRAWN = 4000
BLOCK = 2000
#: A blend has this much of its first face, so that two blends of it stay apart.
FIRST = (0.7, 0.95)
#: Rows of a large set that are compared with all others.
SAMPLED = 500
BANDS = (0.98, 0.985, 0.99, 0.995, 1.01)

Rng = np.random.Generator
Grey = np.ndarray


@dataclass
class Made:
    """A set of thumbs and its planted pairs ``[P, 2]``, all with a correlation >= 0.98."""

    file: Path
    planted: np.ndarray
    #: For each kind of alteration: copies, and those of them that are near-identical.
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def thumbs(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r")


def jpeg(face: Grey, rng: Rng) -> Grey:
    data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def resized(face: Grey, rng: Rng) -> Grey:
    side = max(face.shape) * 5 // 6
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, face.shape[::-1], interpolation=cv2.INTER_LINEAR)


def relit(face: Grey, rng: Rng) -> Grey:
    changed = face * rng.uniform(0.6, 1.3) + rng.uniform(-30, 30)
    return np.clip(changed, 0, 255).astype(np.uint8)


def moved(face: Grey, shift: np.ndarray, degrees: float) -> Grey:
    height, width = face.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    turn[:, 2] += shift
    return cv2.warpAffine(face, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def shifted(face: Grey, rng: Rng) -> Grey:
    return moved(face, rng.permutation([0, rng.choice([-1, 1])]), 0)


def turned(face: Grey, rng: Rng) -> Grey:
    return moved(face, np.zeros(2), rng.uniform(-4, 4))


def mirrored(face: Grey, rng: Rng) -> Grey:
    return face[:, ::-1].copy()


ALTERATIONS: dict[str, Callable[[Grey, Rng], Grey]] = {
    "JPEG 30-95": jpeg,
    "resized 5/6 and back": resized,
    "light and contrast": relit,
    "shifted 1 px": shifted,
    "turned up to 4 degrees": turned,
    "mirrored": mirrored,
}


def faces_of(data: Path | None, drawn: int = DRAWN) -> list[Grey]:
    """Grey faces from the folder, or so many drawn ones."""
    if data is not None:
        files = sorted(data.rglob("*.png"))
        if not files:
            sys.exit(f"no PNG below {data}")
        return [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
    rng = np.random.default_rng(0)
    styles = list(STYLES.values())
    faces = []
    for index in range(drawn):
        style = styles[index % len(styles)]
        weights = random_weights(rng, CLASSES[index % len(CLASSES)], style)
        picture = draw_face(random_face(rng, weights, style), random_camera(rng, style), 48)
        faces.append(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    return faces


def unit(thumbs: np.ndarray) -> np.ndarray:
    """``[N, 576] float64`` of zero mean and unit norm; 0 where there is no contrast."""
    centred = thumbs - thumbs.mean(1, keepdims=True, dtype=float)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1)


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of each row with the same row of the other."""
    return np.einsum("ij,ij->i", unit(one), unit(other))


def altered(faces: list[Grey], rows: int, file: Path, rng: Rng) -> Made:
    """Faces, and behind them altered copies of some."""
    held = [thumb(face).reshape(-1) for face in faces[:rows]]
    origins, names = [], []
    for index in range(rows - len(held)):
        name = list(ALTERATIONS)[index % len(ALTERATIONS)]
        origin = int(rng.integers(len(faces)))
        held.append(thumb(ALTERATIONS[name](faces[origin], rng)).reshape(-1))
        origins.append(origin)
        names.append(name)
    thumbs = np.array(held)
    np.save(file, thumbs)
    copies = np.arange(rows - len(origins), rows)
    near = likeness(thumbs[origins], thumbs[copies]) >= THRESHOLD
    kinds = {
        name: (names.count(name), int(near[np.array(names) == name].sum())) for name in ALTERATIONS
    }
    return Made(file, np.stack((origins, copies), 1)[near].astype(int), kinds)


def blended(faces: list[Grey], rows: int, file: Path, rng: Rng) -> Made:
    """Blends of two faces that are lit alike, every twentieth row a twin of an earlier one.

    Both faces lie close together along a random direction among the three that faces differ in
    most, so that the blend keeps the strong light and shade of a face and is as far from others.
    """
    thumbs = np.unique([thumb(face).reshape(-1) for face in faces], axis=0).astype(np.float32)
    mean, deviation = thumbs.mean(1, keepdims=True), thumbs.std(1, keepdims=True)
    scaled = (thumbs - mean) / deviation
    average = scaled.mean(0)
    scaled -= average
    axes = np.linalg.eigh(np.cov(scaled.T))[1][:, -3:]
    place = scaled @ axes
    out = np.lib.format.open_memmap(file, "w+", np.uint8, (rows, THUMB_SIZE))
    planted = []
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        order = np.argsort(place @ (rng.normal(size=3) * place.std(0)))
        first = rng.integers(0, len(order), count)
        second = first + rng.integers(1, max(2, len(order) // 100), count)
        i, j = order[first], order[np.minimum(second, len(order) - 1)]
        share = rng.uniform(*FIRST, (count, 1)).astype(np.float32)
        face = average + share * scaled[i] + np.sqrt(1 - share**2) * scaled[j]
        face -= face.mean(1, keepdims=True)
        face *= 0.95 * deviation[i] / face.std(1, keepdims=True)
        out[start : start + count] = np.clip(np.rint(face + mean[i]), 0, 255)
        twins = start + np.arange(19, count, 20)
        origins = np.sort(rng.integers(0, start + 19, len(twins)))
        copies = twin(np.array(out[origins]), rng)
        out[twins] = copies
        planted.append(np.stack((origins, twins), 1)[likeness(out[origins], copies) >= THRESHOLD])
    out.flush()
    return Made(file, np.concatenate(planted))


def twin(thumbs: np.ndarray, rng: Rng) -> np.ndarray:
    """Other light, contrast and smooth shade, and noise, most with a correlation of 0.98 to 1."""
    count = len(thumbs)
    coarse = rng.normal(0, 1, (count, 4, 4)).astype(np.float32)
    shade = np.array([cv2.resize(c, (24, 24), interpolation=cv2.INTER_CUBIC) for c in coarse])
    noise = rng.normal(0, 1, (count, THUMB_SIZE))
    deviation = thumbs.std(1, keepdims=True)
    change = shade.reshape(count, THUMB_SIZE) * rng.uniform(0, 0.2, (count, 1))
    change += noise * rng.uniform(0, 0.12, (count, 1))
    light = rng.uniform(0.7, 1.1, (count, 1))
    return np.clip(np.rint(thumbs * light + change * deviation), 0, 255).astype(np.uint8)


def search(file: Path, workers: int | None) -> tuple[dict[str, float], np.ndarray, int]:
    """Time, memory, first rows and number of pairs of a search in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "first.npy"
        command = [sys.executable, __file__, "--search", str(file), str(out)]
        if workers:
            command += ["--workers", str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout)
        return report, np.load(out), report.pop("pairs")


def search_here(file: Path, out: Path, workers: int | None) -> None:
    """What the fresh process does."""
    before, peak, stop = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    thumbs = np.load(file, mmap_mode="r")
    started, worked = time.perf_counter(), time.process_time()
    found = near_groups(thumbs, workers=workers)
    took = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - worked}
    stop.set()
    watcher.join()
    np.save(out, found.first)
    print(json.dumps({**took, "extra_mb": peak[0] - before, "pairs": len(found.pairs)}))


def anonymous_mb() -> float:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def near_pairs(rows: np.ndarray, thumbs: np.ndarray, above: int = 0) -> Iterator[np.ndarray]:
    """Pairs ``[M, 3]`` (row, later row from ``above`` on, correlation >= 0.98), by products."""
    here = unit(thumbs[rows])
    for start in range(above, len(thumbs), BLOCK):
        table = here.astype(np.float32) @ unit(thumbs[start : start + BLOCK]).astype(np.float32).T
        i, j = np.nonzero(table >= THRESHOLD - 1e-5)
        exact = likeness(thumbs[rows[i]], thumbs[start + j])
        pairs = np.stack((rows[i], start + j, exact), 1)
        yield pairs[(exact >= THRESHOLD) & (rows[i] != start + j)]


def brute_force(thumbs: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds, and all near pairs ``[M, 3]``. The rows are scaled once, then multiplied."""
    started = time.perf_counter()
    scaled = unit(thumbs).astype(np.float32)
    pairs = []
    for start in range(0, len(scaled), BLOCK):
        table = scaled[start : start + BLOCK] @ scaled[start:].T
        i, j = np.nonzero(table >= THRESHOLD - 1e-5)
        pairs.append(start + np.stack((i, j), 1)[i < j])
    found = np.concatenate(pairs)
    exact = likeness(thumbs[found[:, 0]], thumbs[found[:, 1]])
    near = exact >= THRESHOLD
    return time.perf_counter() - started, np.c_[found[near], exact[near]]


def recall(first: np.ndarray, pairs: np.ndarray) -> dict[str, list[int]]:
    """Found and all of ``pairs``, by band of their correlation."""
    joined = first[pairs[:, 0].astype(int)] == first[pairs[:, 1].astype(int)]
    bands = {}
    for low, high in pairwise(BANDS):
        inside = (pairs[:, 2] >= low) & (pairs[:, 2] < high)
        bands[f"{low:g}..{min(high, 1):g}"] = [int(joined[inside].sum()), int(inside.sum())]
    return bands


def same_groups(first: np.ndarray, pairs: np.ndarray) -> tuple[int, int]:
    """How many of the true groups of two or more were found just so; how many there are."""
    count = len(first)
    edges = coo_array((np.ones(len(pairs)), pairs[:, :2].astype(int).T), shape=(count, count))
    groups, label = connected_components(edges, directed=False)
    size = np.bincount(label, minlength=groups)
    # Equal when the true group lies in one found group and the found one has no other rows.
    lowest, highest = np.full(groups, count), np.zeros(groups, int)
    np.minimum.at(lowest, label, first)
    np.maximum.at(highest, label, first)
    found_size = np.bincount(first, minlength=count)[lowest]
    return int(((lowest == highest) & (found_size == size) & (size > 1)).sum()), int(
        (size > 1).sum()
    )


def closeness(thumbs: np.ndarray) -> list[float]:
    """Share of random pairs whose correlation is at least 0.4, 0.6, 0.8, 0.9."""
    rows = np.sort(np.random.default_rng(0).choice(len(thumbs), min(6000, len(thumbs)), False))
    scaled = unit(thumbs[rows]).astype(np.float32)
    table = (scaled @ scaled.T)[np.triu_indices(len(rows), 1)]
    return [float(f"{(table >= least).mean():.3g}") for least in (0.4, 0.6, 0.8, 0.9)]


def measure(faces: list[Grey], rows: int, rounds: int, workers: int | None) -> dict[str, Any]:
    """One line of the table."""
    rng = np.random.default_rng(rows)
    large = rows > 1.2 * len(faces)
    with tempfile.TemporaryDirectory() as folder:
        made = (blended if large else altered)(faces, rows, Path(folder) / "thumbs.npy", rng)
        thumbs = made.thumbs
        runs = [search(made.file, workers) for _ in range(rounds)]
        first, pairs = runs[0][1:]
        if any((other != first).any() for _, other, _ in runs):
            sys.exit("two searches of one set found different groups")
        best = min((report for report, _, _ in runs), key=lambda report: report["seconds"])
        found = (first[made.planted[:, 0]] == first[made.planted[:, 1]]).sum()
        line: dict[str, Any] = {
            "rows": rows,
            "made_of": "blends" if large else "faces and altered copies",
            **{key: round(value, 2) for key, value in best.items()},
            "pairs": pairs,
            "planted": [int(found), len(made.planted)],
            "random_pairs_share": dict(zip((0.4, 0.6, 0.8, 0.9), closeness(thumbs), strict=True)),
        }
        if large:
            some = np.sort(rng.choice(rows, SAMPLED, replace=False))
            line["sampled"] = recall(first, np.concatenate(list(near_pairs(some, thumbs))))
        else:
            seconds, true = brute_force(np.array(thumbs))
            line |= {
                "brute_s": round(seconds, 2),
                "brute_ratio": round(seconds / best["seconds"], 1),
                "recall": recall(first, true),
                "same_groups": same_groups(first, true),
                "alterations": made.kinds,
            }
    return line


#: Seconds for what the first pipeline had, and for all of its rows and sources.
LIMITS_S = {36_000: 60.0, 466_284: 600.0}


def figures(line: dict[str, Any]) -> Iterator[Figure]:
    """What one line of the table says, with its targets."""
    rows = f"{line['rows']:,} rows"
    yield Figure(
        name=f"the search, {rows}",
        measured=line["seconds"],
        unit="s",
        at_most=LIMITS_S.get(line["rows"]),
    )
    if "brute_ratio" in line:
        yield Figure(
            name=f"how many times as fast as comparing each pair, {rows}",
            measured=line["brute_ratio"],
            over="the search",
        )
    if "growth" in line:
        yield Figure(
            name=f"exponent of its time up to {rows}",
            measured=line["growth"],
            unit="",
            at_most=1.04,
            note="In the same space, ten times the faces have more neighbours.",
        )
    yield Figure(name=f"memory that it adds, {rows}", measured=line["extra_mb"], unit="MB")
    hits, planted = line["planted"]
    yield Figure(
        name=f"planted twins found, {rows}",
        measured=hits / planted if planted else 1.0,
        unit="",
        at_least=1,
        note=f"{hits:,} of {planted:,}.",
    )
    bands = line.get("recall", line.get("sampled", {})).values()
    found, pairs = (sum(band[side] for band in bands) for side in (0, 1))
    yield Figure(
        name=f"pairs found of those that comparing finds, {rows}",
        measured=found / pairs if pairs else 1.0,
        unit="",
        at_least=1,
        note=f"{found:,} of {pairs:,}"
        + ("." if "recall" in line else f" of {SAMPLED} rows against all others."),
    )


def show(lines: list[dict[str, Any]]) -> None:
    console = Console(width=140)
    table = Table("rows", "of", "seconds", "cpu s", "x brute", "extra MB", "pairs")
    for name in ("planted found", "near pairs found", "groups the same", "growth"):
        table.add_column(name)
    for line in lines:
        bands = list(line.get("recall", line.get("sampled", {})).values())
        hits, total = (sum(band[side] for band in bands) for side in (0, 1))
        table.add_row(
            f"{line['rows']:,}",
            line["made_of"],
            f"{line['seconds']:.2f}",
            f"{line['cpu_s']:.2f}",
            f"{line['brute_ratio']:.0f}" if "brute_ratio" in line else "",
            f"{line['extra_mb']:.0f}",
            f"{line['pairs']:,}",
            "{:,} of {:,}".format(*line["planted"]),
            f"{hits:,} of {total:,}" + ("" if "recall" in line else f" of {SAMPLED} rows"),
            "{:,} of {:,}".format(*line["same_groups"]) if "same_groups" in line else "",
            f"rows^{line['growth']:.2f}" if "growth" in line else "",
        )
    console.print(table)
    for line in lines:
        console.print(f"{line['rows']:,} rows; random pairs: {line['random_pairs_share']}")
        for key in ("recall", "sampled", "alterations"):
            if key in line:
                console.print(f"  {key}: {line[key]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--data", type=Path)
    json_option(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--search", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.search:
        file, out = arguments.search
        search_here(file, out, arguments.workers)
        return
    faces = faces_of(arguments.data, min(DRAWN, *arguments.rows))
    lines: list[dict[str, Any]] = []
    for rows in sorted(arguments.rows):
        line = measure(faces, rows, arguments.rounds, arguments.workers)
        if lines and lines[-1]["made_of"] == line["made_of"]:
            ratio = line["seconds"] / lines[-1]["seconds"]
            line["growth"] = round(math.log(ratio) / math.log(rows / lines[-1]["rows"]), 2)
        lines.append(line)
    show(lines)
    publish(
        Benchmark(
            title="Near-identical faces",
            data=f"Made of {len(faces):,} {'real' if arguments.data else 'drawn'} faces; larger "
            "sets are synthetic blends of two. The search is exact.",
            figures=tuple(figure for line in lines for figure in figures(line)),
        ),
        arguments.json,
    )


if __name__ == "__main__":
    main()
