"""Full decoding of many images on a Ray cluster of this machine, as a ratio to the local engine.

fer bench ray_engine --faces DIR

The files are those of benchmarks/validation.py. Every image is looked at (read, decoded, hashed,
a thumb of it) by the local engine with one and with two processes, and by a cluster of one and of
two workers with one processor each, in turns. The start of a cluster is not counted. On a cold one
the workers' processes start and import the library, as local processes do each time; on a warm one
they are there. What was found must be the same each time. Its cluster is that of the tests, so it
finds the project on PYTHONPATH, where fer bench puts it.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from validation import write_files

from fer_ml.base.shards import map_shards
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.manifests import inspection as probe_module
from fer_ml.manifests.schema import BOX
from tests.ray_cluster import kill_worker, two_workers

#: What a look finds, but for when.
WHEN = ["decoded_at", "segment", "thumb", "checked"]


def look(folder: Path, manifest: Path, *, workers: int) -> tuple[float, pl.DataFrame]:
    """Examine all images with nothing remembered; return seconds and results."""
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


def measure(folder: Path, manifest: Path, rounds: int) -> Iterator[Figure]:
    """Yield the time of examining all images by engine and workers, as ratios."""
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
    for name, over, under, of, target in (
        ("cluster of two workers, warm", "ray_2", "local_2", "two processes", {"at_most": 1.2}),
        ("cluster of two workers, cold", "ray_2_cold", "local_2", "two processes", {}),
        ("cluster of one worker", "ray_1", "local_1", "one process", {"at_most": 1.2}),
        ("one worker", "ray_1", "ray_2", "two workers, warm", {"at_least": 1.8}),
    ):
        ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        yield Figure.of(
            name,
            ratios,
            over=of,
            note="The head, its dashboard and the process that hands out the shards share the two "
            "cores with the workers.",
            **target,
        )
    yield Figure.of("two processes of this machine, in seconds", seconds["local_2"], "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        manifest = write_files(work / "images", given.rows, given.data)
        figures = tuple(measure(work / "images", manifest, given.rounds))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    publish(
        Benchmark(
            title="Looking at images on a Ray cluster",
            data=f"{given.rows:,} {'real' if given.data else 'drawn'} faces of 48 px; a cluster of "
            "a head and one or two workers with one processor each, on this machine. Every way "
            "finds the same.",
            figures=figures,
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
