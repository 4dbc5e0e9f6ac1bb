"""Unify all sources into one manifest that stores every row's final split.

Splits belong to the *group* (all faces of one photo, and its identical and near-identical copies in
any source). A group lies in one split, whatever the publishers say; otherwise the benchmark would
measure memorisation.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.figures.charts import class_source_heatmap
from fer_ml.images.inspection import THUMB_SIZE
from fer_ml.manifests.cleaning import THUMBS_FILE, clean_report, read_thumbs, write_notes
from fer_ml.manifests.curation import manifest_file
from fer_ml.manifests.groups import first_rows, join_groups, near_of, numbers_of
from fer_ml.manifests.schema import DECIDED, attributes_of, read_manifest, write_manifest
from fer_ml.recipes.profile import SPLITS, Draw, Near, Split
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

#: When a group is in several splits, it stays in the first of these and leaves the others.
PRECEDENCE = ("test", "calib", "val", "train")


def assign_splits(frame: pl.DataFrame, draw: Draw, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Assign every row of ``frame`` its final split.

    ``frame`` has source, label, group_id (32 hexadecimal digits) and the publishers' split (train,
    val, calib, test or unassigned). Returns ``(kept, leaking)``. A leaking row has a twin in a
    split of higher precedence; its column ``twin`` names that split. No other row is dropped. For
    kept rows ``twin_in`` lists the other splits in which publishers have a face of their group.

    1. A group that a publisher placed in several splits stays in the first of ``PRECEDENCE``; its
       rows elsewhere leak; unassigned rows of a placed group join it.
    2. Unassigned groups are drawn into train and test, by source and class.
    3. Sources without a val part give some train groups to val.
    4. A part of all val groups becomes calib.

    A group that spans sources or classes is drawn with the rarest of them, so that each split has
    its share of a class that is rare under one publisher's labels.
    """
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
    """Return ``[3, groups] uint64``, the ranks by which groups are drawn into test, val and calib.

    A rank is the group's own hash, mixed with the seed and the purpose by SplitMix64 (Steele et al.
    2014). So it does not depend on the order of rows, nor on the other groups.
    """
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


def publisher_splits(
    frame: pl.DataFrame, meanings: Mapping[str, Mapping[str, Split]]
) -> pl.DataFrame:
    """Replace the publisher's split by this platform's where ``meanings`` names one, by source.

    Every source of ``meanings`` must have rows: ``FerError`` names the first that has none.
    """
    sources = set(frame["source"].unique())
    split = pl.col("split")
    for source, splits in meanings.items():
        if source not in sources:
            raise FerError(
                f"source {source} has no rows in the unified manifest",
                code="source-without-rows",
                where="sources of the profile",
                fix="materialize its manifest, or take it out of the profile's sources",
            )
        named = set(frame.filter(pl.col("source") == source)["split"].unique()) if splits else set()
        for theirs in sorted(set(splits) - named):
            raise FerError(
                f"source {source}: splits.{theirs} does nothing, since no row is in that split",
                code="unused-split",
                where="sources of the profile",
                allowed=", ".join(sorted(named)),
                fix="remove it; words that no adapter knows are in the source's quarantine.csv",
            )
        if splits:
            of_source = pl.col("source") == source
            split = pl.when(of_source).then(pl.col("split").replace(splits)).otherwise(split)
    return frame.with_columns(split.alias("split"))


#: Kinds of twins beside ``near.KINDS``: of equal pixels, and connected by a chain of other faces
#: alone. And pairs compared at once.
SAME_PIXELS, THROUGH_OTHERS = "identical pixels", "through others"
_PAIRS_AT_ONCE = 1024

#: What decides a row's place. The other columns are read again, source by source, for writing.
_DECIDING = ("source", "label", "split", "sample_id", "group_id", "orig_image")


def unify(
    run: RunFolder,
    job: Job[Any],
    meanings: Mapping[str, Mapping[str, Split]],
    near: Near,
    draw: Draw,
    seed: int,
) -> None:
    """Write ``classification_manifest.csv``, ``quarantine.csv`` and the merged reports.

    ``job`` holds the sources' manifests and nothing else. ``meanings`` is passed to
    ``publisher_splits``, ``near`` to ``near_of``, ``draw`` and ``seed`` to ``assign_splits``.
    """
    files, thumbs, reports = [], [], []
    for artifact in job.inputs.values():
        files.append(artifact.file(manifest_file(artifact.record.asset)))
        thumbs.append(read_thumbs(artifact.file(THUMBS_FILE)))
        reports += artifact.read_json("clean_report.json")["reports"]
    frame = pl.concat([read_manifest(file).select(_DECIDING) for file in files])
    stacked = Stacked(thumbs)
    close = near_of(frame["sample_id"], stacked, job.store.near_cache, near)
    frame = frame.with_columns(
        pl.int_range(pl.len()).alias("row"),
        pl.col("group_id").alias("photo"),
        join_groups(frame["group_id"], close).alias("group_id"),
    )
    frame = publisher_splits(frame, meanings)
    kept, leaking = _with_kinds(frame, *assign_splits(frame, draw, seed), stacked, near)
    path = run.path("classification_manifest.csv")
    write_manifest(_whole_rows(files, kept), path, attributes_of(files))
    write_notes(run, "quarantine.csv", _leak_notes(leaking))
    manifest = {
        "rows_in": frame.height,
        "rows": kept.height,
        "rows_quarantined": leaking.height,
        "manifest": "classification_manifest.csv",
        "counts": kept.group_by("source").len("rows").sort("source").to_dicts(),
    }
    run.write_json("clean_report.json", clean_report(reports, manifest))
    leaks = _leakage(frame, kept)
    run.write_json("leakage.json", {"schema_version": 3, **leaks})
    groups = leaks["groups"]
    run.path("classes.png").write_bytes(class_source_heatmap(kept))
    run.summary.update(
        rows=kept.height,
        rows_in=frame.height,
        quarantined=leaking.height,
        groups=groups["groups"],
        near_identical_groups=groups["joined_by_nearness"],
        test_rows_with_a_twin_in_training=sum(t["with_twin"] for t in leaks["test_twins"].values()),
        samples_in_two_sources=sum(pair["samples"] for pair in leaks["overlaps"]),
        **{split: kept.filter(pl.col("split") == split).height for split in SPLITS},
    )


def _whole_rows(files: Sequence[Path], kept: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the kept rows with all of their columns, by source; ``kept`` is sorted by row."""
    decided = kept.select("row", *DECIDED)
    start = 0
    for file in files:
        rows = read_manifest(file)
        decisions = decided.filter(
            pl.col("row").is_between(start, start + rows.height, closed="left")
        )
        chosen = rows[decisions["row"] - start].drop(DECIDED)
        yield pl.concat([chosen, decisions.drop("row")], how="horizontal")
        start += rows.height


class Stacked:
    """Several ``[rows, 576]`` arrays read as one, row by row."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the thumbs ``[len(rows), 576]`` of these rows."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        thumbs = np.empty((len(rows), THUMB_SIZE), np.uint8)
        for index in np.unique(part):
            mask = part == index
            thumbs[mask] = self.parts[index][rows[mask] - self.starts[index]]
        return thumbs


def _leak_notes(leaking: pl.DataFrame) -> pl.DataFrame:
    return leaking.with_columns(
        pl.col("orig_image").alias("where"),
        pl.col("orig_image").alias("file"),
        pl.col("label").alias("native_label"),
        pl.lit("leakage").alias("rule"),
        pl.format("{} row with a twin in {}: {}", "split", "twin", "kind").alias("detail"),
    )


def twin_pairs(frame: pl.DataFrame, kept: pl.DataFrame, leaking: pl.DataFrame) -> pl.DataFrame:
    """Return each row with a twin in another split (``row``), and one such twin (``other``).

    These are leaking rows, with a twin in the split of higher precedence, and kept test rows, with
    one outside test. A twin of the same pixels comes first, then the group's first row. ``same``
    says whether the pixels are the same.
    """
    placed = frame.select("row", "sample_id", "group_id", "split")
    test, rest = pl.col("split") == "test", ~pl.col("split").is_in(["test", "unassigned"])
    asked = kept.filter(test & pl.col("twin_in").is_not_null())
    pairs = []
    for rows, others in (
        (asked.with_columns(pl.lit("rest").alias("twin")), placed.filter(rest)),
        (leaking, placed),
    ):
        where = pl.lit("rest") if rows is not leaking else pl.col("split")
        others = others.select(pl.col("row").alias("other"), "sample_id", "group_id", where)
        others = others.rename({others.columns[-1]: "twin"})
        wanted = rows.select("row", "sample_id", "group_id", "twin")
        for key, name in (("sample_id", "same"), ("group_id", "first")):
            least = others.group_by(key, "twin").agg(pl.col("other").min().alias(name))
            wanted = wanted.join(least, on=[key, "twin"], how="left")
        pairs.append(wanted)
    return (
        pl.concat(pairs)
        .select(
            "row",
            pl.coalesce("same", "first").alias("other"),
            pl.col("same").is_not_null().alias("same"),
        )
        .sort("row")
    )


def _with_kinds(
    frame: pl.DataFrame,
    kept: pl.DataFrame,
    leaking: pl.DataFrame,
    thumbs: "Stacked",
    near: Near,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return kept and leaking rows with the kind of their twin in another split (``kind``)."""
    pairs = twin_pairs(frame, kept, leaking)
    kinds = pairs.select("row", _kinds(pairs, thumbs, near).alias("kind"))
    on = {"on": "row", "how": "left", "maintain_order": "left"}
    return kept.join(kinds, **on), leaking.join(kinds, **on)  # type: ignore[arg-type]


def _leakage(frame: pl.DataFrame, kept: pl.DataFrame) -> dict[str, Any]:
    return {
        "test_twins": twin_counts(kept),
        "test_twins_by_kind": twin_kinds(kept),
        "groups": group_counts(frame),
        "overlaps": overlaps(kept),
    }


def _kinds(pairs: pl.DataFrame, thumbs: "Stacked", near: Near) -> pl.Series:
    """Return the kind of each twin: same pixels, one of ``KINDS``, or near through other faces."""
    # Imported where it is needed: SciPy takes a third of a second.
    from fer_ml.manifests.near import kinds

    names = np.full(len(pairs), SAME_PIXELS, object)
    others = np.flatnonzero(~pairs["same"].to_numpy())
    row, other = (pairs[name].to_numpy() for name in ("row", "other"))
    for start in range(0, len(others), _PAIRS_AT_ONCE):
        some = others[start : start + _PAIRS_AT_ONCE]
        batch_kinds = kinds(thumbs(other[some]), thumbs(row[some]), near)
        names[some] = np.where(batch_kinds == "", THROUGH_OTHERS, batch_kinds)
    return pl.Series(names.tolist(), dtype=pl.String)


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
