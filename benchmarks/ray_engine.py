"""Full decoding of many images on a Ray cluster of this machine, as a ratio to the local engine.

python benchmarks/ray_engine.py --data DIR [--rows 100000] [--rounds 3] [--json FILE]

The files are those of benchmarks/validation.py. Every image is looked at (read, decoded, hashed,
a thumb of it) by the local engine with one and with two processes, and by a cluster of one and of
two workers with one processor each, in turns. The start of a cluster is not counted. On a cold one
the workers' processes start and import the library, as local processes do each time; on a warm one
they are there. What was found must be the same each time.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.validation import write_files
from fer_ml import probe as probe_module
from fer_ml.manifests.schema import BOX
from fer_ml.shards import map_shards
from tests.ray_cluster import kill_worker, two_workers

#: What a look finds, but for when.
WHEN = ["decoded_at", "segment", "thumb", "checked"]


def look(folder: Path, manifest: Path, *, workers: int) -> tuple[float, pl.DataFrame]:
    """Seconds, and what was found; nothing is remembered from before."""
    frame = pl.read_csv(manifest).select(
        "image_path", *(pl.lit(None, pl.Int64).alias(side) for side in BOX)
    )
    probe_module.map_shards = lambda function, shards, **_: map_shards(  # type: ignore[attr-defined]
        function, shards, workers=workers
    )
    cache = Path(tempfile.mkdtemp(dir=folder.parent))
    started = time.perf_counter()
    found = probe_module.probe(frame, folder, cache, label="")
    seconds = time.perf_counter() - started
    shutil.rmtree(cache)
    return seconds, found.looks.drop(WHEN)


def measure(folder: Path, manifest: Path, rounds: int) -> dict[str, float]:
    """Medians in seconds, by engine and workers, and their ratios."""
    seconds: dict[str, list[float]] = {}
    reference = look(folder, manifest, workers=1)[1]

    def once(name: str, workers: int) -> None:
        took, found = look(folder, manifest, workers=workers)
        assert found.equals(reference), name
        seconds.setdefault(name, []).append(took)

    for _ in range(rounds):
        once("local_1", 1)
        once("local_2", 2)
        with two_workers() as cluster:
            once("ray_2_cold", 2)
            once("ray_2", 2)
            kill_worker(cluster)
            time.sleep(10)
            once("ray_1", 2)
    ratios = {
        f"{over} / {under}": [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        for over, under in (
            ("ray_2_cold", "local_2"),
            ("ray_2", "local_2"),
            ("ray_1", "local_1"),
            ("ray_1", "ray_2"),
        )
    }
    return {
        **{f"{name}_s": round(statistics.median(held), 2) for name, held in seconds.items()},
        **{name: round(statistics.median(held), 3) for name, held in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        manifest = write_files(work / "images", given.rows, given.data)
        found = {
            "figure": "looking at every image on a Ray cluster / with the local engine",
            "target": "at most 1.2 with as many workers; one worker to two near 2",
            "rows": given.rows,
            **measure(work / "images", manifest, given.rounds),
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
