"""How the data stages that decode next to nothing grow with the rows: time, memory, exponent.

python benchmarks/growth.py [--rows 46628 466284 4662840] [--work DIR] [--json FILE]
                            [--docs FILE]

The rows are synthetic: seven sources in the shares of the interim report, each row a photo of its
own, one in fifty also in another source. Which faces are near-identical is given; that search has
its own benchmark (near_duplicates.py). 46,628,400 rows take over half an hour and 40 GB of disk;
``--docs`` writes the table into the section ``growth`` of that page.

- ``unify``: seven manifests become one, with groups, splits, twins and reports;
- ``curate``: the unified manifest becomes ``hq_train``, and a hundred faces
  of each source are decoded;
- ``judge``: a manifest is read line by line and judged by every rule, its looks being given;
- ``look``: as many faces, 5,000 in a picture, are looked at again, and no picture has changed.
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from fer_assets.stage import Given, Stage
from fer_assets.stages import classification_manifest, curated_manifest
from fer_ml.base.buckets import scratch
from fer_ml.base.labels import CLASSES
from fer_ml.figures.measurements import (
    Benchmark,
    Figure,
    json_option,
    part,
    publish,
    write_part,
)
from fer_ml.images.inspection import THUMB_SIZE
from fer_ml.manifests import groups
from fer_ml.manifests.cleaning import THUMBS_FILE, clean_report
from fer_ml.manifests.curation import ORDER, UNIFIED, looked_at, manifest_file, taken
from fer_ml.manifests.inspection import probe
from fer_ml.manifests.schema import BOX, SCHEMA, manifest_parts, write_manifest
from fer_ml.manifests.sorting import sorted_parts
from fer_ml.recipes.builtin import paper
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store

#: Rows of each source in the interim report.
SHARES = {
    "fer2013_uniform_7": 140_000,
    "ferplus": 138_526,
    "expw_full": 91_793,
    "affectnet_full_balanced": 71_764,
    "rafdb_basic": 15_339,
    "rafml_argmax": 4_908,
    "rafdb_compound_mapped": 3_954,
}
FACES_AT_ONCE = 1 << 18
STAGES = {
    "unify": "unify: groups, splits, twins, csv",
    "curate": "curate",
    "judge": "judge: read the csv, all rules",
    "look": "look: nothing has changed since the last one",
}
#: Stages that need something first, and what its command is called.
PREPARED, BEFORE = ("curate", "look"), "before "
FACES_A_PICTURE, SIDE = 5_000, 24


def write_sources(store: Store, rows: int) -> None:
    """Write the artifacts ``manifest/<source>``, and the given groups of near-identical faces."""
    rng = np.random.default_rng(0)
    text = rng.bytes(16 * rows).hex()
    ids = pl.Series([text[i : i + 32] for i in range(0, 32 * rows, 32)])
    total = sum(SHARES.values())
    start = 0
    for source, share in SHARES.items():
        end = rows if source == list(SHARES)[-1] else start + round(rows * share / total)
        place = np.arange(start, end)
        # Every fiftieth photo is one of another source.
        place[::50] = rng.integers(0, rows, len(place[::50]))
        start = end
        own = ids.gather(place)
        frame = pl.DataFrame(
            {
                "image_path": pl.select(
                    pl.format("cleaned/{}/train/{}.png", pl.lit(source), own)
                ).to_series(),
                "label": pl.Series(CLASSES).gather(place % 7),
                "split": pl.Series(["train"] * 7 + ["val", "test", "unassigned"]).gather(
                    place % 10
                ),
                "source": [source] * len(place),
                "orig_image": own,
                "sample_id": own,
                "group_id": own,
                "confidence": np.full(len(place), 90.0),
                "width": np.full(len(place), 48),
                "height": np.full(len(place), 48),
                "brightness": np.round(rng.uniform(60, 200, len(place)), 3),
            }
        )
        absent = [
            pl.lit(None, dtype).alias(n) for n, dtype in SCHEMA.items() if n not in frame.columns
        ]
        with store.begin(f"manifest/{source}") as run:
            write_manifest(frame.with_columns(absent), run.path(f"{source}.csv"))
            np.save(run.path(THUMBS_FILE), np.zeros((0, THUMB_SIZE), np.uint8))
            report = {"rows_in": len(place), "rows_kept": len(place)}
            run.write_json("clean_report.json", clean_report([report], {}))
    store.near_cache.mkdir(parents=True)
    known = pl.DataFrame({"sample_id": ids.sort(), "near": ids.sort()})
    groups._remember(known, store.near_cache, paper().near_rule)


def draw_faces(store: Store) -> None:
    """Write noise images for the faces whose colour is examined; all others are only names."""
    held = store.current(UNIFIED)
    assert held is not None
    csv = held.file(manifest_file(UNIFIED))
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)

    def taken_rows() -> Iterator[pl.DataFrame]:
        with scratch(store.scratch) as folder:
            rows = taken(lambda: manifest_parts(csv), paper().hq_train, "hq_train", folder, 0)
            yield from sorted_parts(rows, ORDER, folder)

    for _, _, seen in looked_at(taken_rows):
        for name in seen["image_path"]:
            path = store.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(path)


def faces_of(rows: int) -> Iterator[pl.DataFrame]:
    """Yield ``rows`` faces, picture by picture: each has a box of its own."""
    for picture in range(-(-rows // FACES_A_PICTURE)):
        number = np.arange(min(FACES_A_PICTURE, rows - picture * FACES_A_PICTURE))
        left, top = number % 100, number // 100
        boxes = dict(zip(BOX, (left, top, left + SIDE, top + SIDE), strict=True))
        yield pl.DataFrame({"image_path": [f"{picture}.png"] * len(number), **boxes})


def draw_pictures(store: Store, rows: int) -> None:
    """Write the pictures of ``faces_of``, and look at them once."""
    rng = np.random.default_rng(0)
    for faces in faces_of(rows):
        path = store.root / "pictures" / faces["image_path"][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE + 49, SIDE + 99), np.uint8)).save(path)
    look(store, rows)


def look(store: Store, rows: int) -> None:
    found = probe(lambda: faces_of(rows), store.root / "pictures", store.probe_cache, rows=rows)
    for start in range(0, rows, FACES_AT_ONCE):
        assert found.looks(start, FACES_AT_ONCE)["face"].null_count() == 0


def prepare(name: str, store: Store, rows: int) -> None:
    """Make what a stage needs and is not timed with it."""
    if name == "curate":
        draw_faces(store)
    elif name == "look":  # The last one, whose thumbs take as much of the disk as all before.
        shutil.rmtree(store.root)
        draw_pictures(store, rows)


def run_stage(name: str, store: Store, rows: int) -> None:
    if name == "judge":
        _judge(store)
        return
    if name == "look":
        look(store, rows)
        return
    profile = paper()
    made: list[Stage] = (classification_manifest if name == "unify" else curated_manifest).stages(
        Given(profile)
    )
    stage = made[0]  # Of the curated ones, ``hq_train`` is the first.
    inputs = {need.asset: store.current(need.asset) for need in stage.needs}
    recipe = stage.recipe(profile, None)
    job = Job(stage.asset, None, store, recipe, inputs, {})  # type: ignore[arg-type]
    with store.begin(stage.asset) as run:
        stage.build(run, job)


def _judge(store: Store) -> None:
    from fer_ml.recipes.profile import Near
    from fer_ml.validation.judging import judge_manifest
    from fer_ml.validation.report import gather_evidence, report
    from fer_ml.validation.table import Table, table_parts

    held = store.current(UNIFIED)
    assert held is not None
    csv, rows = held.file(manifest_file(UNIFIED)), held.record.summary["rows"]

    def parts() -> Iterator[tuple[Table, pl.DataFrame]]:
        for some in table_parts(csv):
            yield (
                some,
                some.frame.select(
                    pl.lit("ok").alias("state"),
                    pl.lit(None, pl.String).alias("detail"),
                    pl.lit("PNG").alias("format"),
                    pl.col("width").alias("image_width"),
                    pl.col("height").alias("image_height"),
                    pl.col("sample_id").alias("photo"),
                    pl.col("sample_id").alias("face"),
                    "brightness",
                ),
            )

    def faces() -> Iterator[pl.Series]:
        samples = pl.scan_parquet(csv.with_suffix(".parquet")).select("sample_id")
        for start in range(0, rows, FACES_AT_ONCE):
            yield samples.slice(start, FACES_AT_ONCE).collect()["sample_id"]

    evidence = gather_evidence(parts, faces, lambda rows: rows, store.near_cache, Near())
    verdict = judge_manifest(evidence, UNIFIED, store.scratch, rows=rows)
    found = report(verdict, asset=UNIFIED, manifest="", root="")
    assert found["passed"], found["rules"]


def measure(rows: int, work: Path) -> dict[str, dict[str, float]]:
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        subprocess.run([sys.executable, __file__, "--one", "write", folder, str(rows)], check=True)
        found = {}
        for stage in STAGES:
            command = [sys.executable, __file__, "--one", stage, str(folder), str(rows)]
            if stage in PREPARED:
                subprocess.run([*command[:3], f"{BEFORE}{stage}", *command[4:]], check=True)
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[stage] = json.loads(done.stdout)
            # They are a third of what lies on the disk, and nothing below reads them.
            shutil.rmtree(folder / "manifest", ignore_errors=True)
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one(stage: str, folder: Path, rows: int) -> None:
    store = Store(folder, "paper")
    if stage == "write":
        write_sources(store, rows)
        return
    if stage.startswith(BEFORE):
        prepare(stage.removeprefix(BEFORE), store, rows)
        return
    started = time.perf_counter()
    run_stage(stage, store, rows)
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    measured = {"s": seconds, "cpu": used.ru_utime + used.ru_stime, "gib": used.ru_maxrss / 2**20}
    print(json.dumps({name: round(value, 2) for name, value in measured.items()}))


def figures(sizes: list[int], measured: dict[int, dict[str, dict[str, float]]]) -> Iterator[Figure]:
    for stage, name in STAGES.items():
        for rows in sizes:
            yield Figure(
                name=f"{name}, {rows:,} rows", measured=measured[rows][stage]["s"], unit="s"
            )
        yield Figure(
            name=f"{name}: exponent of time over the last step",
            measured=exponent(sizes[-2:], [measured[rows][stage]["s"] for rows in sizes[-2:]]),
            unit="",
            at_most=1.05,
        )
        # Where it is below that of time, the difference is waiting for the disk.
        yield Figure(
            name=f"{name}: exponent of processor time over the last step",
            measured=exponent(sizes[-2:], [measured[rows][stage]["cpu"] for rows in sizes[-2:]]),
            unit="",
        )
        before, largest = (measured[rows][stage]["gib"] for rows in sizes[-2:])
        yield Figure(
            name=f"{name}: memory, {sizes[-1]:,} rows", measured=largest, unit="GiB", at_most=1.5
        )
        yield Figure(
            name=f"{name}: memory that a row adds over the last step",
            measured=max(0.0, largest - before) * 2**30 / (sizes[-1] - sizes[-2]),
            unit="B",
        )


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of log(value) over log(rows)."""
    return float(np.polyfit([math.log(n) for n in sizes], [math.log(v) for v in values], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[46_628, 466_284, 4_662_840])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--docs", type=Path)
    json_option(parser)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], Path(given.one[1]), int(given.one[2]))
        return
    measured = {rows: measure(rows, given.work) for rows in given.rows}
    benchmark = Benchmark(
        title="Growth of the data stages",
        data=f"Synthetic rows, {', '.join(f'{rows:,}' for rows in given.rows)}; a "
        "hundred faces of each source are decoded, and which are near-identical is given.",
        figures=tuple(figures(given.rows, measured)),
    )
    publish(benchmark, given.json)
    if given.docs:
        rows = " ".join(map(str, given.rows))
        write_part(given.docs, "growth", part(benchmark, f"growth.py --rows {rows}"))


if __name__ == "__main__":
    main()
