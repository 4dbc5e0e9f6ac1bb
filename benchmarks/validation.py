"""Validating a manifest in full, as a ratio to a bare read-and-decode of the same files.

python benchmarks/validation.py [--rows 466284] [--data DIR] [--work DIR] [--rounds 3] [--json FILE]

Writes ``--rows`` files, each with pixels of its own, into 100 folders: real faces (48x48 PNGs below
``--data``) or, without any, drawn ones, each shifted cyclically for its copies. Then, in the same
run and over the same files:

- the floor: read and decode every file, in as many processes as there are processors, no more;
- ``fer validate`` in full: every row judged by every rule, every image decoded, hashed and
  compared (which faces are near-identical is remembered from a first pass and timed apart);
- ``fer validate`` again with nothing changed, and with 1% of the files replaced.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from fer_ml.labels import CLASSES

FOLDERS = 100
CHUNK = 1000
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "train", "val", "test")


def faces(data: Path | None) -> list[np.ndarray]:
    """Distinct 48x48 greys: the real ones below ``data``, or drawn ones."""
    if data is not None:
        return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(data.rglob("*.png"))]
    from fer_ml.sample.faces import draw_face

    return [cv2.resize(draw_face(i), (48, 48), interpolation=cv2.INTER_AREA) for i in range(2000)]


def shifted(base: list[np.ndarray], index: int) -> np.ndarray:
    """Face ``index``: later rounds through ``base`` are shifted cyclically, so none repeats."""
    step, which = divmod(index, len(base))
    return np.roll(base[which], (6 * (step // 8), 6 * (step % 8)), axis=(0, 1))


def write_files(folder: Path, rows: int, data: Path | None) -> Path:
    """``rows`` PNGs in 100 folders and their manifest; returns the manifest."""
    base = [face for face in faces(data) if face is not None and face.std() > 0]
    names = []
    for index in range(rows):
        name = f"{index % FOLDERS:02d}/{index:07d}.png"
        path = folder / name
        if index < FOLDERS:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Stored, not compressed, as the real files are.
        png = cv2.imencode(".png", shifted(base, index), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
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
    """The floor's work: read, decode, nothing else."""
    cv2.setNumThreads(1)
    done = 0
    for path in paths:
        with open(path, "rb") as file:
            done += cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR) is not None
    return done


def bare(folder: Path, manifest: Path) -> float:
    """Seconds to read and decode every file in two processes, their start included."""
    paths = [f"{folder}/{name}" for name in pl.read_csv(manifest)["image_path"]]
    started = time.perf_counter()
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        assert sum(pool.map(decode_chunk, chunks)) == len(paths)
    return time.perf_counter() - started


def pss_bytes(pid: int) -> int:
    """Memory of a process and all below it; pages that several share count once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):
        return 0
    return own * 1024 + sum(pss_bytes(int(child)) for child in children)


def validate(folder: Path, manifest: Path, *, full: bool) -> dict[str, float]:
    """One validation in a process of its own: seconds, peak memory of all, rows decoded."""
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
    """What ``fer validate`` does, timed from the inside, its imports included."""
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


def replace_some(folder: Path, manifest: Path, share: float) -> int:
    """Replace the files of some rows by others with other pixels; returns how many."""
    names = pl.read_csv(manifest)["image_path"].gather_every(round(1 / share))
    for name in names:
        path = folder / name
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        png = cv2.imencode(".png", image[::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
        path.unlink()
        path.write_bytes(png.tobytes())
    return len(names)


def measure(folder: Path, manifest: Path, rounds: int) -> Iterator[tuple[str, object]]:
    first = validate(folder, manifest, full=False)
    yield "first_pass_s", round(first["seconds"], 1)
    floors, fulls = [], []
    for _ in range(rounds):
        floors.append(bare(folder, manifest))
        fulls.append(validate(folder, manifest, full=True))
    ratios = [full["seconds"] / floor for floor, full in zip(floors, fulls, strict=True)]
    floor = statistics.median(floors)
    yield "bare_read_and_decode_s", round(floor, 2)
    yield "full_validation_s", round(statistics.median(f["seconds"] for f in fulls), 2)
    yield "ratio_median", round(statistics.median(ratios), 3)
    yield "ratio_min", round(min(ratios), 3)
    yield "ratio_max", round(max(ratios), 3)
    yield "peak_memory_gib", round(max(f["peak_gib"] for f in fulls), 2)
    again = [validate(folder, manifest, full=False) for _ in range(rounds)]
    yield "nothing_changed_s", round(statistics.median(a["seconds"] for a in again), 2)
    changed = replace_some(folder, manifest, 0.01)
    some = validate(folder, manifest, full=False)
    assert some["decoded"] == changed, (some["decoded"], changed)
    yield "one_percent_changed_s", round(some["seconds"], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=466_284)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.full)
        return
    work = Path(tempfile.mkdtemp(dir=given.work))
    try:
        started = time.perf_counter()
        manifest = write_files(work / "images", given.rows, given.data)
        print(f"{given.rows:,} files written in {time.perf_counter() - started:.0f} s")
        found = {
            "figure": "validating a manifest in full / bare read and decode in two processes",
            "target": "ratio at most 1.3, under 33 s and 1 GiB; nothing changed under 5 s",
            "rows": given.rows,
            "faces": "real" if given.data else "synthetic",
            **dict(measure(work / "images", manifest, given.rounds)),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
        }
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = json.dumps(found, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
