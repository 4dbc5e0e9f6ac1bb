"""Unifying with all rows at hand: the reference of what the platform does part by part."""

from typing import Any

import numpy as np
import polars as pl

from fer_ml.manifests.groups import bytes_of, first_rows, numbers_of
from fer_ml.manifests.splits import (
    PLACES,
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

PRECEDENCE = ("test", "calib", "val", "train")


def assign_splits(frame: pl.DataFrame, draw: Draw, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the kept rows with their splits, and the leaking ones."""
    place = frame["split"].replace_strict(_PLACES, return_dtype=pl.Int64).to_numpy()
    source, label = _number(frame["source"]), _number(frame["label"])
    number = numbers_of(frame["group_id"])
    # One whole number a row, so that the least one of a group says all of its home at once.
    labels, kinds = label.max() + 1, (source.max() + 1) * (label.max() + 1)
    pair = source * labels + label
    rarest_first = np.argsort(np.bincount(pair, minlength=kinds), kind="stable")
    rarity = np.argsort(rarest_first)
    stratum, splits = _by_group(number, place * kinds + rarity[pair], 1 << place)
    home = stratum // kinds
    stratum = home * kinds + rarest_first[stratum % kinds]
    test_rank, val_rank, calib_rank = _ranks(frame["group_id"].gather(first_rows(number)), seed)
    train = _PLACES["train"]
    final = np.where(home == _UNASSIGNED, train, home)
    final[_take(home == _UNASSIGNED, stratum, test_rank, draw.test)] = _PLACES["test"]
    with_val = np.unique(source[np.isin(place, [_PLACES["val"], _PLACES["calib"]])])
    lacks_val = ~np.isin(stratum % kinds // labels, with_val)
    candidates = (home >= train) & (final == train) & lacks_val
    final[_take(candidates, stratum, val_rank, draw.val)] = _PLACES["val"]
    final[_take(final == _PLACES["val"], stratum % labels, calib_rank, draw.calib)] = _PLACES[
        "calib"
    ]
    leaks = (place != _UNASSIGNED) & (place != home[number])
    kept, names = np.flatnonzero(~leaks), pl.Series([*PRECEDENCE, "unassigned"])
    others = _other_splits(splits, home)
    return (
        frame[kept].with_columns(
            names.gather(final[number[kept]]).alias("split"),
            others.gather(number[kept]).alias("twin_in"),
        ),
        frame.filter(leaks)
        .drop("twin_in", strict=False)
        .with_columns(names.gather(home[number[leaks]]).alias("twin")),
    )


def place(frame: pl.DataFrame, draw: Draw, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Place the rows of ``frame`` by ``splits.py``; return the kept ones and the leaking ones.

    A leaking row has a twin in the split ``twin``; ``twin_in`` lists the other places of a group.
    """
    rows = np.zeros(frame.height, ROW)
    rows["group"] = bytes_of(frame["group_id"])
    rows["place"] = frame["split"].replace_strict(PLACES, return_dtype=pl.UInt8).to_numpy()
    for name in ("source", "label"):
        rows[name] = _number(frame[name])
    kinds = _kinds_of(rows)
    number, groups = groups_of(rows, kinds)
    draws = Draws(lambda: [groups], kinds, draw, seed)
    given, home = rows["place"], groups["home"]
    leaks = (given != UNASSIGNED) & (given != home[number])
    kept = np.flatnonzero(~leaks)
    return (
        frame[kept].with_columns(
            split_names(draws.final(groups)[number[kept]]).alias("split"),
            joined_names(other_places(groups)[number[kept]]).alias("twin_in"),
        ),
        frame.filter(leaks)
        .drop("twin_in", strict=False)
        .with_columns(split_names(home[number[leaks]]).alias("twin")),
    )


def _kinds_of(rows: np.ndarray) -> Kinds:
    """Count rows (``ROW``) by kind."""
    shape = int(rows["source"].max()) + 1, int(rows["label"].max()) + 1
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, (rows["source"], rows["label"]), 1)
    has_val = np.zeros(shape[0], bool)
    has_val[rows["source"][np.isin(rows["place"], [VAL, PLACES["calib"]])]] = True
    return Kinds(counts, has_val)


_PLACES = {split: place for place, split in enumerate((*PRECEDENCE, "unassigned"))}
_UNASSIGNED = _PLACES["unassigned"]


def _number(values: pl.Series) -> np.ndarray:
    """Return numbers for a few different texts, in the texts' order."""
    known = values.unique().sort()
    numbers = {value: index for index, value in enumerate(known)}
    return values.replace_strict(numbers, return_dtype=pl.Int64).to_numpy()


def _by_group(
    number: np.ndarray, least: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return by group the minimum of ``least``, and the union of ``bits``."""
    order = np.argsort(number)
    ordered = number[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    return (
        np.minimum.reduceat(least[order], starts),
        np.bitwise_or.reduceat(bits[order], starts),
    )


def _other_splits(splits: np.ndarray, home: np.ndarray) -> pl.Series:
    """Return names of the set bits but the home's and 'unassigned', joined by '+', or null."""
    others = splits & ~(1 << home) & ~(1 << _UNASSIGNED)
    names = {
        bits: "+".join(split for split in PRECEDENCE if bits >> _PLACES[split] & 1) or None
        for bits in np.unique(others).tolist()
    }
    return pl.Series(others).replace_strict(names, return_dtype=pl.String)


def _ranks(groups: pl.Series, seed: int) -> np.ndarray:
    hashes = np.frombuffer(bytes.fromhex("".join(groups)), ">u8")[::2].astype(np.uint64)
    purposes = _mix(np.arange(3, dtype=np.uint64) + np.uint64(3 * seed))
    return _mix(hashes ^ purposes[:, None])


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _take(among: np.ndarray, strata: np.ndarray, rank: np.ndarray, fraction: float) -> np.ndarray:
    """Return the numbers of the groups drawn from each stratum: those of least rank."""
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((rank[rows], strata[rows]))]
    _, start, size = np.unique(strata[order], return_index=True, return_counts=True)
    count = np.rint(fraction * size)
    count[(count == 0) & (size >= 5)] = 1  # Five groups or more are never left out of a split.
    place = np.arange(len(order)) - np.repeat(start, size)
    return order[place < np.repeat(count, size)]


def twin_counts(kept: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Count the test rows of each source that have a twin outside test: the leakage avoided.

    ``{source: {"test_rows", "with_twin", "share"}}``, by the publishers' splits; the twins
    themselves were taken out of the other splits.
    """
    table = (
        kept.filter(pl.col("split") == "test")
        .group_by("source")
        .agg(pl.len().alias("test_rows"), pl.col("twin_in").count().alias("with_twin"))
        .sort("source")
    )
    return {
        source: {"test_rows": rows, "with_twin": twins, "share": round(twins / rows, 6)}
        for source, rows, twins in table.iter_rows()
    }


def overlaps(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Count the samples that two sources share, and how often their labels agree.

    A list of ``{"a", "b", "samples", "same_label", "share_of_smaller"}`` for each pair of sources
    with at least one common ``sample_id``. The first row of a sample in a source counts.
    """
    number = numbers_of(frame["sample_id"])
    source = _number(frame["source"])
    _, rows = np.unique(number * (source.max() + 1) + source, return_index=True)
    sizes = dict(frame["source"].gather(rows).value_counts().iter_rows())
    often = rows[np.bincount(number[rows])[number[rows]] > 1]
    shared = frame.select("source", "label")[often].with_columns(pl.Series("sample", number[often]))
    pairs = (
        shared.join(shared, on="sample", suffix="_b")
        .filter(pl.col("source") < pl.col("source_b"))
        .group_by("source", "source_b")
        .agg(pl.len().alias("samples"), (pl.col("label") == pl.col("label_b")).sum().alias("same"))
        .sort("source", "source_b")
    )
    return [
        {
            "a": a,
            "b": b,
            "samples": samples,
            "same_label": same,
            "share_of_smaller": round(samples / min(sizes[a], sizes[b]), 6),
        }
        for a, b, samples, same in pairs.iter_rows()
    ]


def twin_kinds(kept: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count test rows with a twin outside test, by source and by the twin's ``kind``."""
    table = (
        kept.filter((pl.col("split") == "test") & pl.col("twin_in").is_not_null())
        .group_by("source", "kind")
        .agg(pl.len().alias("rows"))
        .sort("source", "kind")
    )
    counts: dict[str, dict[str, int]] = {source: {} for source in sorted(kept["source"].unique())}
    for source, kind, rows in table.iter_rows():
        counts[source][kind] = rows
    return counts


def group_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Count the groups, those that join several photos, and the size of the largest.

    ``frame`` has group_id and photo.
    """
    group, photo = numbers_of(frame["group_id"]), numbers_of(frame["photo"])
    rows = np.bincount(group)
    photos = np.bincount(group[first_rows(photo)])  # A photo lies in one group.
    return {
        "photos": int(photos.sum()),
        "groups": len(photos),
        "joined_by_nearness": int((photos > 1).sum()),
        "largest_group_rows": int(rows.max(initial=0)),
        "largest_group_photos": int(photos.max(initial=0)),
    }
