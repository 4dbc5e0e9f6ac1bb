"""Finding copies of one photo: recall on altered copies, time and memory.

python benchmarks/near_duplicates.py [--rows 36000 155428 466284] [--data DIR] [--json FILE]
                                     [--docs FILE]
python benchmarks/near_duplicates.py --fit --data DIR

DIR holds grey faces as PNG at any depth (FER+ as published). Without it, pictures are synthesised
from noise with the same spectrum. A set of up to 1.2 times their number consists of these faces and
altered copies of some; a larger one of blends of two faces and of twins of some. Each search runs
in a process of its own. ``--fit`` fits the axes of the codes (``fer_ml/manifests/likeness.npz``) on
every second one of the first 28,558 faces, FER+'s training part; no copy is made of these.
``--docs`` writes the table into the section ``near`` of that page.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from alterations import ALTERATIONS, Grey, Rng, cropped, jpeg, relit, resized, shifted, turned

from fer_ml.figures.measurements import Benchmark, Figure, json_option, part, publish, write_part
from fer_ml.images.inspection import THUMB_SIZE, thumb
from fer_ml.manifests import likeness
from fer_ml.manifests.near import near_groups
from fer_ml.manifests.neighbours import NEAREST, Neighbours, Search
from fer_ml.recipes.profile import Near

ROWS = (36_000, 155_428, 466_284)
DRAWN = 4000
#: Faces whose neighbours are also found by sorting all.
ASKED = 500
BLOCK = 2000
#: A blend has this much of its first face, so that two blends of it stay apart.
FIRST = (0.7, 0.95)
#: FER+'s training faces: codes are fitted on every second one.
FITTED = 28_558
#: Greys as they lie, alone: nothing that was moved.
GREYS = Near(detail=1.0)


@dataclass
class Made:
    """A set of thumbs, its planted pairs ``[P, 2]``, and the alteration of each pair."""

    file: Path
    planted: np.ndarray
    kinds: np.ndarray

    @property
    def thumbs(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r")


def faces_of(data: Path | None, drawn: int = DRAWN) -> list[Grey]:
    """Return the grey faces in the folder, or ``drawn`` synthetic pictures."""
    if data is not None:
        files = sorted(data.rglob("*.png"))
        if not files:
            sys.exit(f"no PNG below {data}")
        return [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
    # Noise by its frequency has detail of every size, as photos have. Drawn faces share their few
    # shapes, and are as alike as copies.
    rng = np.random.default_rng(0)
    waves = np.maximum(np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96))), 1 / 60)
    faces = []
    for _ in range(drawn):
        grey = np.fft.ifft2(np.fft.fft2(rng.normal(size=(96, 96))) / waves**1.2).real[:48, :48]
        scaled = 128 + 45 * (grey - grey.mean()) / grey.std()
        faces.append(np.clip(scaled, 0, 255).astype(np.uint8))
    return faces


def unit(thumbs: np.ndarray) -> np.ndarray:
    """Return ``[N, 576] float64`` with zero mean and unit norm; 0 for thumbs without contrast."""
    centred = thumbs - thumbs.mean(1, keepdims=True, dtype=float)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1)


def altered(faces: list[Grey], rows: int, file: Path, rng: Rng) -> Made:
    """Return faces, followed by altered copies of some that the codes were not fitted on."""
    held = [thumb(face).reshape(-1) for face in faces[:rows]]
    place = np.arange(len(faces))
    free = rng.permutation(place[(place >= FITTED) | (place % 2 == 1)])
    origins = free[np.arange(rows - len(held)) % len(free)]
    kinds = np.array([list(ALTERATIONS)[index % len(ALTERATIONS)] for index in range(len(origins))])
    for kind, origin in zip(kinds, origins, strict=True):
        held.append(thumb(ALTERATIONS[kind](faces[origin], rng)).reshape(-1))
    np.save(file, np.array(held))
    copies = np.arange(rows - len(origins), rows)
    return Made(file, np.stack((origins, copies), 1), kinds)


def fit(faces: list[Grey]) -> None:
    """Fit the axes of the codes and write them."""
    rng = np.random.default_rng(2)
    own = faces[:FITTED:2]
    copies = []
    for face in own:
        copy = face
        for change, share in ((cropped, 0.5), (shifted, 0.6), (turned, 0.5), (relit, 1.0)):
            copy = change(copy, rng) if rng.random() < share else copy
        copies.append((jpeg if rng.random() < 0.5 else resized)(copy, rng))
    thumbs = (np.array([thumb(face).reshape(-1) for face in each]) for each in (own, copies))
    np.savez_compressed(likeness.AXES_FILE, **likeness.fit(*thumbs))


def blended(faces: list[Grey], rows: int, file: Path, rng: Rng) -> Made:
    """Return blends of two similarly lit faces; every twentieth row is a twin of an earlier row.

    Both faces are close along a random direction among the three in which faces differ most, so
    that a blend keeps the strong light and shade of a face and is as far from other faces.
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
        planted.append(np.stack((origins, twins), 1))
    out.flush()
    pairs = np.concatenate(planted)
    return Made(file, pairs, np.full(len(pairs), "light, shade and noise"))


def twin(thumbs: np.ndarray, rng: Rng) -> np.ndarray:
    """Return thumbs with other light, contrast, shade and noise; most correlate 0.98 to 1."""
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
    """Search in a new process; return time and memory, first rows, and the number of pairs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "first.npy"
        command = [sys.executable, __file__, "--search", str(file), str(out)]
        if workers:
            command += ["--workers", str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout)
        return report, np.load(out), report.pop("pairs")


def search_here(file: Path, out: Path, workers: int | None) -> None:
    """Run the search inside the new process."""
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
    """Return the anonymous memory (not backed by files) of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def closeness(thumbs: np.ndarray) -> list[float]:
    """Return the share of random pairs with a correlation of at least 0.4, 0.6, 0.8, 0.9."""
    rows = np.sort(np.random.default_rng(0).choice(len(thumbs), min(6000, len(thumbs)), False))
    scaled = unit(thumbs[rows]).astype(np.float32)
    table = (scaled @ scaled.T)[np.triu_indices(len(rows), 1)]
    return [float(f"{(table >= least).mean():.3g}") for least in (0.4, 0.6, 0.8, 0.9)]


def measure(faces: list[Grey], rows: int, rounds: int, workers: int | None) -> dict[str, Any]:
    """Measure one row of the table."""
    rng = np.random.default_rng(rows)
    large = rows > 1.2 * len(faces)
    with tempfile.TemporaryDirectory() as folder:
        made = (blended if large else altered)(faces, rows, Path(folder) / "thumbs.npy", rng)
        runs = [search(made.file, workers) for _ in range(rounds)]
        first, pairs = runs[0][1:]
        if any((other != first).any() for _, other, _ in runs):
            sys.exit("two searches of one set found different groups")
        best = min((report for report, _, _ in runs), key=lambda report: report["seconds"])
        line: dict[str, Any] = {
            "rows": rows,
            "made_of": "blends" if large else "faces and altered copies",
            **{key: round(value, 2) for key, value in best.items()},
            "pairs": pairs,
            "random_pairs_share": dict(
                zip((0.4, 0.6, 0.8, 0.9), closeness(made.thumbs), strict=True)
            ),
            "found": found_by_kind(made, first),
            "neighbours": neighbours_found(made.thumbs, workers or os.cpu_count() or 1),
        }
        if not large:
            own = int(made.planted[:, 1].min(initial=rows))
            thumbs = np.array(made.thumbs)
            for name, rule in (("ours", Near()), ("greys as they lie", GREYS)):
                every = first if name == "ours" else near_groups(thumbs, rule=rule).first
                alone = near_groups(thumbs[:own], rule=rule).first
                # A copy that is taken for another photo's joins groups that were two.
                wrong = len(np.unique(alone)) - len(np.unique(every[:own]))
                hits = int((every[made.planted[:, 0]] == every[made.planted[:, 1]]).sum())
                line[name] = {"found": hits, "of": len(made.planted), "wrong": wrong}
    return line


def neighbours_found(thumbs: np.ndarray, workers: int) -> tuple[int, int]:
    """Return the neighbours of some faces that the cells find, and those that sorting all finds."""
    held = [likeness.codes(thumbs[start : start + BLOCK]) for start in range(0, len(thumbs), BLOCK)]
    codes, count, rule = np.concatenate(held), len(thumbs), Near()
    least = rule.code * likeness.CODE_LENGTH**2
    rng = np.random.default_rng(0)
    some = rng.choice(count, min(ASKED, count), replace=False)
    asked = np.isin(np.arange(count), some)
    index = Neighbours(
        codes, np.arange(count), rng.permutation(count).astype(np.uint64), workers=workers
    )
    search = Search(asked, np.arange(count), least)
    pairs = np.concatenate([index.of_task(task, search) for task in index.tasks])
    alike = (codes[pairs[:, 0]].astype(int) * codes[pairs[:, 1] % count]).sum(1)
    plain, wide = pairs[:, 1] < count, codes.astype(np.float32)
    hits = expected = 0
    for row in some:
        others = wide @ wide[row]
        others[row] = -np.inf
        best = np.sort(others[others >= least])[::-1][:NEAREST]
        # Equally similar ones are as good.
        found = alike[plain & (pairs[:, 1] == row)] >= best.min(initial=np.inf)
        hits += int(found.sum())
        expected += len(best)
    return hits, expected


def found_by_kind(made: Made, first: np.ndarray) -> dict[str, list[int]]:
    """Return, by alteration, the copies found in their original's group, and all copies."""
    joined = first[made.planted[:, 0]] == first[made.planted[:, 1]]
    return {
        str(kind): [int(joined[made.kinds == kind].sum()), int((made.kinds == kind).sum())]
        for kind in dict.fromkeys(made.kinds)
    }


#: Seconds for what the first pipeline had, and for all of its rows and sources.
LIMITS_S = {36_000: 60.0, 466_284: 600.0}


def figures(line: dict[str, Any]) -> Iterator[Figure]:
    """Yield the figures in one row of the table, with their targets."""
    rows = f"{line['rows']:,} rows"
    yield Figure(
        name=f"the search, {rows}",
        measured=line["seconds"],
        unit="s",
        at_most=LIMITS_S.get(line["rows"]),
    )
    if "growth" in line:
        yield Figure(
            name=f"exponent of its time up to {rows}",
            measured=line["growth"],
            unit="",
            at_most=1.1,
        )
    yield Figure(name=f"memory that it adds, {rows}", measured=line["extra_mb"], unit="MB")
    hits, count = line["neighbours"]
    yield Figure(
        name=f"most similar codes found, {rows}",
        measured=hits / max(count, 1),
        unit="",
        note=f"Of the up to {NEAREST} of each of {ASKED:,} faces that sorting all faces finds.",
    )
    for kind, (hits, count) in line["found"].items():
        yield Figure(
            name=f"copies found: {kind}, {rows}",
            measured=hits / count,
            unit="",
            note=f"of {count:,}",
        )
    for name in ("ours", "greys as they lie"):
        if name in line:
            told = line[name]
            targets = {"at_least": 0.95} if name == "ours" else {}
            yield Figure(
                name=f"recall, {name}, {rows}", measured=told["found"] / told["of"], unit="",
                note=f"{told['found']:,} of {told['of']:,} copies.", **targets,
            )  # fmt: skip
            targets = {"at_least": 0.99} if name == "ours" else {}
            right = told["found"] / max(told["found"] + told["wrong"], 1)
            yield Figure(
                name=f"precision, {name}, {rows}", measured=right, unit="",
                note=f"{told['wrong']:,} copies joined two groups that were apart without them.",
                **targets,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--docs", type=Path)
    json_option(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--fit", action="store_true", help="fit the axes of the codes")
    parser.add_argument("--search", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.search:
        file, out = arguments.search
        search_here(file, out, arguments.workers)
        return
    if arguments.fit:
        fit(faces_of(arguments.data))
        return
    faces = faces_of(arguments.data, min(DRAWN, *arguments.rows))
    lines: list[dict[str, Any]] = []
    for rows in sorted(arguments.rows):
        line = measure(faces, rows, arguments.rounds, arguments.workers)
        if lines and lines[-1]["made_of"] == line["made_of"]:
            ratio = line["seconds"] / lines[-1]["seconds"]
            line["growth"] = round(math.log(ratio) / math.log(rows / lines[-1]["rows"]), 2)
        lines.append(line)
    benchmark = Benchmark(
        title="Near-identical faces",
        data=f"Made of {len(faces):,} {'real' if arguments.data else 'made'} faces; larger sets "
        "are synthetic blends of two. Each face is compared with the faces of the most similar "
        "codes.",
        figures=tuple(figure for line in lines for figure in figures(line)),
    )
    publish(benchmark, arguments.json)
    if arguments.docs:
        rows = " ".join(map(str, arguments.rows))
        data = " --data FACES" if arguments.data else ""
        command = f"near_duplicates.py --rows {rows} --rounds {arguments.rounds}{data}"
        write_part(arguments.docs, "near", part(benchmark, command))


if __name__ == "__main__":
    main()
