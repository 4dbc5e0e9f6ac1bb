"""Validating a manifest in full, as a ratio to a bare read-and-decode of the same files.

python benchmarks/validation.py [--rows 466284] [--data DIR] [--work DIR] [--rounds 3] [--json FILE]

Writes ``--rows`` files, each with pixels of its own, into 100 folders: real faces (48x48 PNGs below
``--data``) or, without any, drawn ones, and blends of two of them. Then, in the same run and over
the same files:

- the floor: read and decode every file, in as many processes as there are processors, no more;
- ``fer validate`` in full: every row judged by every rule, every image decoded and hashed (which
  faces are near-identical is given: that search has its own benchmark, near_duplicates.py);
- ``fer validate`` again with nothing changed, and with 1% of the files replaced.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from near_duplicates import DRAWN, faces_of

from fer_ml.base.labels import CLASSES
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish

FOLDERS = 100
CHUNK = 1000
#: Shares of a blend's two faces, whose squares sum to 1, and how far apart the faces lie.
FIRST, SECOND, STRIDE = 0.8, 0.6, 101
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "train", "val", "test")


def blends(base: list[np.ndarray]) -> Callable[[int], np.ndarray]:
    """Return a function of a number that gives a face of its own: of ``base``, then blends of two.

    What both faces share, the average face, is in a blend once, so that it is no nearer to others
    than a face is; shifted copies would all be near copies.
    """
    faces = np.array([cv2.resize(face, (48, 48)) for face in base], np.float32)
    average = faces.mean(0)
    faces -= average

    def face(index: int) -> np.ndarray:
        step, which = divmod(index, len(faces))
        if not step:
            return base[which]
        both = FIRST * faces[which] + SECOND * faces[(which + STRIDE * step) % len(faces)]
        return np.clip(np.rint(average + both), 0, 255).astype(np.uint8)

    return face


def write_files(folder: Path, rows: int, data: Path | None) -> Path:
    """Write ``rows`` PNGs in 100 folders and their manifest; return the manifest."""
    base = [face for face in faces_of(data, min(rows, DRAWN)) if face.std() > 0]
    face, names = blends(base), []
    for index in range(rows):
        name = f"{index % FOLDERS:02d}/{index:07d}.png"
        path = folder / name
        if index < FOLDERS:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Stored, not compressed, as the real files are.
        png = cv2.imencode(".png", face(index), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
        path.write_bytes(png.tobytes())
        names.append(name)
    manifest = folder.parent / "manifest.csv"
    pl.DataFrame(
        {
            "image_path": names,
            "label": [CLASSES[i % 7] for i in range(rows)],
            "split": [SPLITS[i % len(base) % 10] for i in range(rows)],
            "source": [f"source_{i % 7}" for i in range(rows)],
        }
    ).write_csv(manifest)
    return manifest


def decode_chunk(paths: list[str]) -> int:
    """Read and decode files and do nothing else: the work of the floor."""
    cv2.setNumThreads(1)
    done = 0
    for path in paths:
        with open(path, "rb") as file:
            done += cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR) is not None
    return done


def bare(folder: Path, manifest: Path) -> float:
    """Return the seconds of the floor, run in a process without threads, because it forks."""
    command = [sys.executable, __file__, "--bare", str(folder), str(manifest)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bare_here(folder: Path, manifest: Path) -> float:
    """Return the seconds to read and decode every file in two processes, their start included."""
    with manifest.open(encoding="utf-8", newline="") as file:
        paths = [f"{folder}/{row['image_path']}" for row in csv.DictReader(file)]
    started = time.perf_counter()
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        assert sum(pool.map(decode_chunk, chunks)) == len(paths)
    return time.perf_counter() - started


def pss_bytes(pid: int) -> int:
    """Return the memory (bytes) of a process and its descendants; shared pages count once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (OSError, StopIteration):
        return 0
    return own * 1024 + sum(pss_bytes(int(child)) for child in children)


def validate(folder: Path, manifest: Path, *, full: bool) -> dict[str, float]:
    """Validate once in a new process: seconds, peak memory of all processes, rows decoded."""
    command = [sys.executable, __file__, "--one", str(folder), str(manifest)]
    process = subprocess.Popen([*command, *(["--full"] if full else [])], stdout=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, pss_bytes(process.pid))
        time.sleep(0.25)
    assert process.stdout is not None
    found: dict[str, float] = json.loads(process.stdout.read())
    return {**found, "peak_gib": peak / 2**30}


def one(folder: Path, manifest: Path, full: bool) -> None:
    """Do the work of ``fer validate``, timed from the inside, imports included."""
    started = time.perf_counter()
    from fer_ml.validation.report import validate_file

    report = validate_file(
        manifest, [folder], folder.parent / "cache", since=time.time() if full else 0.0
    )
    red = [
        rule for rule, held in report["rules"].items() if held["blocking"] and not held["passed"]
    ]
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "decoded": report["checked"]["decoded"],
                "red": len(red),
            }
        )
    )


def remember_near(folder: Path, manifest: Path) -> None:
    """Note that no face is near-identical to another, without a search."""
    from fer_ml.manifests import groups
    from fer_ml.manifests.inspection import probe
    from fer_ml.manifests.schema import BOX
    from fer_ml.recipes.profile import Near

    cache = folder.parent / "cache"
    named = pl.read_csv(manifest).select(
        "image_path", *(pl.lit(None, pl.Int64).alias(edge) for edge in BOX)
    )
    looks = probe(lambda: [named], folder, cache / "probe", rows=named.height)
    ids = looks.looks()["face"].unique().sort()
    (cache / "near").mkdir(parents=True)
    groups._remember(pl.DataFrame({"sample_id": ids, "near": ids}), cache / "near", Near())


def replace_some(folder: Path, manifest: Path, share: float) -> int:
    """Replace the files of some rows by files with other pixels; return how many."""
    names = pl.read_csv(manifest)["image_path"].gather_every(round(1 / share))
    for name in names:
        path = folder / name
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        png = cv2.imencode(".png", image[::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
        path.unlink()
        path.write_bytes(png.tobytes())
    return len(names)


def measure(folder: Path, manifest: Path, rounds: int) -> Iterator[Figure]:
    known = [sys.executable, __file__, "--near", str(folder), str(manifest)]
    subprocess.run(known, check=True)
    floors, fulls = [], []
    for _ in range(rounds):
        floors.append(bare(folder, manifest))
        fulls.append(validate(folder, manifest, full=True))
    yield Figure.of(
        "every row judged, every image decoded and hashed",
        [full["seconds"] / floor for floor, full in zip(floors, fulls, strict=True)],
        over="bare read and decode in as many processes",
        at_most=1.3,
        note="Beyond decoding it pays for the rules, the hashes and thumbs, and the table of what "
        "was seen.",
    )
    yield Figure.of("the bare read and decode", floors, "s")
    yield Figure.of("the same in full, in seconds", [f["seconds"] for f in fulls], "s", at_most=33)
    yield Figure(
        name="peak memory of all its processes",
        measured=max(f["peak_gib"] for f in fulls),
        unit="GiB",
        at_most=1,
    )
    again = [validate(folder, manifest, full=False) for _ in range(rounds)]
    yield Figure.of("again, nothing changed", [a["seconds"] for a in again], "s", at_most=3)
    changed = replace_some(folder, manifest, 0.01)
    some = validate(folder, manifest, full=False)
    assert some["decoded"] == changed, (some["decoded"], changed)
    yield Figure(name="again, 1% of the files replaced", measured=some["seconds"], unit="s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=466_284)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--near", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.near:
        remember_near(*given.near)
        return
    if given.bare:
        print(bare_here(*given.bare))
        return
    if given.one:
        one(*given.one, given.full)
        return
    work = Path(tempfile.mkdtemp(dir=given.work))
    try:
        started = time.perf_counter()
        manifest = write_files(work / "images", given.rows, given.data)
        print(f"{given.rows:,} files written in {time.perf_counter() - started:.0f} s")
        kind = "real 48x48 faces" if given.data else "synthetic faces"
        benchmark = Benchmark(
            title="Validating a manifest",
            data=f"{given.rows:,} files: {kind} and blends of two, each with pixels of its own.",
            figures=tuple(measure(work / "images", manifest, given.rounds)),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    publish(benchmark, given.json)


if __name__ == "__main__":
    main()
