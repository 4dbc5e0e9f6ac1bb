"""From seven raw layouts to the unified manifest, as a ratio to a plain loop with the csv module.

python benchmarks/unify.py [--scale 1.0] [--rounds 3] [--json FILE]

Both ways do the same work on the layouts of ``listing.py`` (466,284 rows): list every source, map
labels, splits and votes, leave out what is excluded, look up each face's identity (given: nothing
is decoded), draw splits by group, take twins out of the splits that give way, and write the csv.
They must agree on every row.
"""

import argparse
import csv
import hashlib
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from listing import SOURCES, plain_rows, write_layouts

from fer_ml.base.buckets import Buckets, RowValues, bucket_of, buckets_for, scratch
from fer_ml.base.labels import CLASSES
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.manifests.groups import bytes_of, halves_of, number_hashes
from fer_ml.manifests.splits import (
    GROUP,
    PLACES,
    PRECEDENCE,
    ROW,
    UNASSIGNED,
    VAL,
    Draws,
    Kinds,
    groups_of,
    joined_names,
    other_places,
    split_names,
)
from fer_ml.recipes.profile import Draw
from fer_ml.sources import get_adapter

COLUMNS = ("file", "label", "split", "source", "confidence", "face_id", "group_id", "twin_in")
SEED = 1337
_MASK = (1 << 64) - 1


def identities(folder: Path) -> dict[tuple[str, str], str]:
    """Return the face identity that cleaning would find per image; one in fifty is shared."""
    known: dict[tuple[str, str], str] = {}
    for index, row in enumerate(plain_rows(folder, look=False)):
        key = (row["source"], row["file"])
        what = str(index // 50 * 7919 % 400_000) if index % 50 == 0 else "/".join(key)
        known.setdefault(key, hashlib.blake2b(what.encode(), digest_size=16).hexdigest())
    return known


def ours(folder: Path, known: dict[str, pl.DataFrame], out: Path) -> float:
    """Write the unified manifest; return the share of the time that listing the sources takes."""
    frames, started = [], time.perf_counter()
    for source, (adapter, _) in SOURCES.items():
        rows = get_adapter(adapter).listing(folder / source)
        rows = rows.filter(pl.col("label").is_not_null()).with_columns(
            pl.lit(source).alias("source")
        )
        frames.append(rows.join(known[source], on="file", maintain_order="left"))
    listed = time.perf_counter() - started
    with scratch(folder / "scratch") as work:
        values = decide(frames, work)
        with out.open("wb") as file:
            file.write(pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String)).write_csv().encode())
            start = 0
            for frame in frames:
                value = values.read(start, frame.height).astype(np.int64)
                start += frame.height
                kept = frame.with_columns(
                    split_names(value & 7).alias("split"),
                    joined_names(value >> 3 & 15).alias("twin_in"),
                ).filter(pl.Series(value >> 7 == 0))
                kept.select(COLUMNS).write_csv(file, include_header=False)
    return listed / (time.perf_counter() - started)


def decide(frames: list[pl.DataFrame], work: Path) -> RowValues:
    """Decide the place of each row as the stage does: by group, some groups at a time."""
    height = sum(frame.height for frame in frames)
    count = buckets_for(height)
    by_group, all_groups = (
        Buckets(work, n, d, count) for n, d in (("rows", ROW), ("groups", GROUP))
    )
    labels, start = sorted(CLASSES), 0
    kinds = Kinds(np.zeros((len(SOURCES), len(labels)), np.int64), np.zeros(len(SOURCES), bool))
    ranks = np.argsort(np.argsort(list(SOURCES)))
    for rank, frame in zip(ranks, frames, strict=True):
        rows = np.zeros(frame.height, ROW)
        rows["row"] = np.arange(start, start + frame.height)
        rows["group"], rows["source"] = bytes_of(frame["group_id"]), rank
        for name, numbers in (("label", {w: n for n, w in enumerate(labels)}), ("place", PLACES)):
            column = frame["split" if name == "place" else name]
            rows[name] = column.replace_strict(numbers, return_dtype=pl.UInt16)
        kinds.rows[rank] = np.bincount(rows["label"], minlength=len(labels))
        kinds.has_val[rank] = np.isin(rows["place"], [VAL, PLACES["calib"]]).any()
        by_group.add(rows, bucket_of(halves_of(rows["group"])[:, 0], count))
        start += frame.height
    for index, rows in enumerate(by_group):
        groups = groups_of(rows, kinds)[1]
        all_groups.add(groups, np.full(len(groups), index))
    draws = Draws(lambda: all_groups, kinds, Draw(), SEED)
    values = RowValues(work, "decided", np.dtype(np.uint16))
    for rows, groups in zip(by_group, all_groups, strict=True):
        number = number_hashes(rows["group"])
        leaks = (rows["place"] != UNASSIGNED) & (rows["place"] != groups["home"][number])
        value = (draws.final(groups) | other_places(groups) << 3)[number]
        values.set(rows["row"], value | leaks << 7)
    return values


# The plain way of doing it, in one piece.
def plain(folder: Path, known: dict[tuple[str, str], str], out: Path) -> None:  # noqa: C901
    draw, rows = Draw(), []
    for row in plain_rows(folder, look=False):
        if row.get("label") is not None:
            row["group_id"] = known[row["source"], row["file"]]
            rows.append(row)
    order = {split: place for place, split in enumerate((*PRECEDENCE, "unassigned"))}
    # Of the sources and labels of a group the rarest decides.
    rows_of = Counter((row["source"], row["label"]) for row in rows)
    home: dict[str, tuple[int, int, str, str]] = {}
    places: dict[str, set[str]] = defaultdict(set)
    with_val = set()
    for row in rows:
        group, split = row["group_id"], row["split"]
        pair = (row["source"], row["label"])
        kind = (order[split], rows_of[pair], *pair)
        if group not in home or kind < home[group]:
            home[group] = kind
        places[group].add(split)
        if split in ("val", "calib"):
            with_val.add(row["source"])
    final = {group: (*PRECEDENCE, "train")[kind[0]] for group, kind in home.items()}

    def take(strata: dict[Any, list[str]], purpose: int, fraction: float, split: str) -> None:
        for groups in strata.values():
            ranked = sorted(groups, key=lambda group: _rank(group, purpose))
            count = round(fraction * len(ranked))
            if count == 0 and len(ranked) >= 5:
                count = 1
            for group in ranked[:count]:
                final[group] = split

    def strata(wanted: Any, key: Any) -> dict[Any, list[str]]:
        found: dict[Any, list[str]] = defaultdict(list)
        for group, kind in home.items():
            if wanted(group, kind):
                found[key(kind)].append(group)
        return found

    open_ = order["unassigned"]
    take(strata(lambda g, k: k[0] == open_, lambda k: k), 0, draw.test, "test")
    take(
        strata(
            lambda g, k: k[0] >= 3 and final[g] == "train" and k[2] not in with_val, lambda k: k
        ),
        1,
        draw.val,
        "val",
    )
    take(strata(lambda g, k: final[g] == "val", lambda k: k[3]), 2, draw.calib, "calib")
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            group = row["group_id"]
            at_home = (*PRECEDENCE, "unassigned")[home[group][0]]
            if row["split"] not in ("unassigned", at_home):
                continue
            others = places[group] - {at_home, "unassigned"}
            row["split"] = final[group]
            row["twin_in"] = "+".join(s for s in PRECEDENCE if s in others) or None
            writer.writerow(row)


def _rank(group: str, purpose: int) -> int:
    return _mix(int(group[:16], 16) ^ _mix(purpose + 3 * SEED))


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def require_same(one: Path, two: Path) -> int:
    """Return the number of rows; both must agree except in order and number format."""
    key = ["source", "file", "face_id", "label", "split", "group_id", "twin_in"]
    a, b = (
        pl.read_csv(path, infer_schema=False).select(key).sort(key, nulls_last=True)
        for path in (one, two)
    )
    if not a.equals(b):
        raise SystemExit("the two ways disagree")
    return a.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, a, b = Path(temporary), Path(temporary, "a.csv"), Path(temporary, "b.csv")
        listed = sum(write_layouts(folder, given.scale).values())
        known = identities(folder)
        tables = {}
        for source in SOURCES:
            of = [(file, group) for (name, file), group in known.items() if name == source]
            tables[source] = pl.DataFrame(of, schema=["file", "group_id"], orient="row")
        times: list[tuple[float, float]] = []
        shares: list[float] = []
        for _ in range(given.rounds):
            started = time.perf_counter()
            plain(folder, known, b)
            middle = time.perf_counter()
            shares.append(ours(folder, tables, a))
            times.append((middle - started, time.perf_counter() - middle))
        written = require_same(a, b)
    publish(
        Benchmark(
            title="From seven raw layouts to the unified manifest",
            data=f"{listed:,} synthetic rows listed, {written:,} written; identities are given and "
            "nothing is decoded. Both ways agree on every row.",
            figures=(
                Figure.of(
                    "how many times as fast as a plain loop with the csv module",
                    [theirs / mine for theirs, mine in times],
                    over="ours",
                    at_least=8,
                    note="Both ways list the same folders; the share of our time is given below.",
                ),
                Figure.of("the plain loop", [t[0] for t in times], "s"),
                Figure.of("ours", [t[1] for t in times], "s"),
                Figure.of("the share of it that lists the sources", shares, ""),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
