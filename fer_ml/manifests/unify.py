"""All sources in one manifest, with every row's final split written down as data.

Splits are a property of the *group* (all faces of one photo, and its identical and near-identical
copies in any source): a group lies in one split, whatever the publishers say, or the benchmark
measures memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.errors import FerError
from fer_ml.job import Job
from fer_ml.look import THUMB_SIZE
from fer_ml.manifests.cleaning import THUMBS_FILE, clean_report, read_thumbs, write_notes
from fer_ml.manifests.groups import join_groups, near_of
from fer_ml.manifests.schema import read_manifest, write_manifest
from fer_ml.plots import class_source_heatmap
from fer_ml.profiles import SPLITS, Draw, Profile
from fer_ml.store import RunFolder

#: When a group is in several splits, it stays in the first of these and leaves the others.
PRECEDENCE = ("test", "calib", "val", "train")


def assign_splits(frame: pl.DataFrame, draw: Draw, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give every row of ``frame`` its final split.

    ``frame`` has source, label, group_id (32 hexadecimal digits) and the publishers' split (train,
    val, calib, test or unassigned). Returns ``(kept, leaking)``: leaking rows have a twin in a
    split that takes precedence, and a column ``twin`` that names it. Nothing else is dropped. Kept
    rows say in ``twin_in`` in which other splits publishers have a face of their group.

    1. a group that a publisher placed in several splits stays in the first of ``PRECEDENCE``; its
       rows elsewhere leak; unassigned rows of a placed group join it;
    2. unassigned groups are drawn into train and test, by source and class;
    3. sources without a val part give some train groups to val;
    4. a part of all val groups becomes calib.

    A group that spans sources or classes is drawn with the first of them in sorted order.
    """
    groups = _groups(frame)
    home, stratum = groups["home"].to_numpy(), groups["stratum"].to_numpy()
    test_rank, val_rank, calib_rank = _ranks(groups["group_id"], seed)
    open_, train = home == _UNASSIGNED, _PLACES["train"]
    final = np.where(open_, train, home)
    final[_take(open_, stratum, test_rank, draw.test)] = _PLACES["test"]
    with_val = frame.filter(pl.col("split").is_in(["val", "calib"]))["source"].unique()
    lacks_val = ~groups["source"].is_in(with_val.implode()).to_numpy()
    candidates = (home >= train) & (final == train) & lacks_val
    final[_take(candidates, stratum, val_rank, draw.val)] = _PLACES["val"]
    in_val = final == _PLACES["val"]
    label = groups["label"].rank("dense").to_numpy()
    final[_take(in_val, label, calib_rank, draw.calib)] = _PLACES["calib"]
    names = pl.Series([*PRECEDENCE, "unassigned"])
    placed = groups.select(
        "code",
        names.gather(final).alias("final"),
        names.gather(home).alias("twin"),
        _other_splits(groups["splits"].to_numpy(), home).alias("twin_in"),
    )
    placed = (
        frame.drop("twin_in", strict=False)
        .with_columns(_code("group_id").alias("code"))
        .join(placed, on="code", how="left", maintain_order="left")
        .drop("code")
    )
    leaks = (pl.col("split") != "unassigned") & (pl.col("split") != pl.col("twin"))
    leaking = placed.filter(leaks).drop("final", "twin_in")
    kept = placed.filter(~leaks).with_columns(pl.col("final").alias("split"))
    return kept.drop("final", "twin"), leaking


def _code(column: str) -> pl.Expr:
    """A number for each text: grouping half a million hashes takes four times as long."""
    return pl.col(column).cast(pl.Categorical).to_physical()


_PLACES = {split: place for place, split in enumerate((*PRECEDENCE, "unassigned"))}
_UNASSIGNED = _PLACES["unassigned"]


def _groups(frame: pl.DataFrame) -> pl.DataFrame:
    """One row for each group: its home by precedence, a bit for each split that it occurs in, and
    source and label of its first row there in sorted order."""
    sources = frame["source"].unique().sort()
    labels = frame["label"].unique().sort()
    size = sources.len() * labels.len()
    coded = frame.select(
        "group_id",
        _code("group_id").alias("code"),
        pl.col("split").replace_strict(_PLACES, return_dtype=pl.Int64).alias("place"),
        (_index("source", sources) * labels.len() + _index("label", labels)).alias("kind"),
    )
    groups = coded.group_by("code").agg(
        pl.col("group_id").first(),
        (pl.col("place") * size + pl.col("kind")).min().alias("stratum"),
        pl.lit(1).cast(pl.Int64).mul(2 ** pl.col("place")).unique().sum().alias("splits"),
    )
    kind = groups["stratum"] % size
    return groups.with_columns(
        (pl.col("stratum") // size).alias("home"),
        sources.gather(kind // labels.len()).alias("source"),
        labels.gather(kind % labels.len()).alias("label"),
    )


def _index(column: str, values: pl.Series) -> pl.Expr:
    numbers = {value: index for index, value in enumerate(values)}
    return pl.col(column).replace_strict(numbers, return_dtype=pl.Int64)


def _other_splits(splits: np.ndarray, home: np.ndarray) -> pl.Series:
    """Names of the set bits but the home's and 'unassigned', joined by '+'; null when none."""
    others = splits & ~(1 << home) & ~(1 << _UNASSIGNED)
    names = {
        bits: "+".join(split for split in PRECEDENCE if bits >> _PLACES[split] & 1) or None
        for bits in np.unique(others).tolist()
    }
    return pl.Series(others).replace_strict(names, return_dtype=pl.String)


def _ranks(groups: pl.Series, seed: int) -> np.ndarray:
    """``[3, groups] uint64`` by which groups are drawn into test, val and calib.

    The group's own hash, mixed with the seed and the purpose by SplitMix64 (Steele et al. 2014):
    so a group's place does not depend on the order of rows, nor on the other groups.
    """
    own = np.frombuffer(bytes.fromhex("".join(groups)), ">u8")[::2].astype(np.uint64)
    purposes = _mix(np.arange(3, dtype=np.uint64) + np.uint64(3 * seed))
    return _mix(own ^ purposes[:, None])


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _take(among: np.ndarray, strata: np.ndarray, rank: np.ndarray, fraction: float) -> np.ndarray:
    """Row numbers of the groups that are drawn from each stratum: those of least rank."""
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((rank[rows], strata[rows]))]
    _, start, size = np.unique(strata[order], return_index=True, return_counts=True)
    count = np.rint(fraction * size)
    count[(count == 0) & (size >= 5)] = 1  # Five groups or more are never left out of a split.
    place = np.arange(len(order)) - np.repeat(start, size)
    return order[place < np.repeat(count, size)]


def twin_counts(kept: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """How many test rows of each source have a twin outside test: the number that matters.

    ``{source: {"test_rows", "with_twin", "share"}}``, by what publishers have; the twins themselves
    were taken out of the other splits.
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
    """Samples that two sources share, and how often their labels agree.

    A list of ``{"a", "b", "samples", "same_label", "share_of_smaller"}`` for each pair of sources
    with at least one common ``sample_id``. The first row of a sample in a source counts.
    """
    rows = frame.select("source", "label", _code("sample_id").alias("sample"))
    first = rows.unique(["sample", "source"], keep="first", maintain_order=True)
    shared = first.filter(pl.len().over("sample") > 1)
    pairs = (
        shared.join(shared, on="sample", suffix="_b")
        .filter(pl.col("source") < pl.col("source_b"))
        .group_by("source", "source_b")
        .agg(pl.len().alias("samples"), (pl.col("label") == pl.col("label_b")).sum().alias("same"))
        .sort("source", "source_b")
    )
    sizes = dict(first.group_by("source").len().iter_rows())
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


def publisher_splits(frame: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Replace the publisher's split by the profile's meaning of it, where the profile names one."""
    held = set(frame["source"].unique())
    split = pl.col("split")
    for source in profile.sources:
        if source.name not in held:
            raise FerError(
                f"source {source.name} has no rows in the unified manifest",
                where=f"profile {profile.name}",
                fix="materialize its manifest, or take it out of the profile's sources",
            )
        if source.splits:
            here = pl.col("source") == source.name
            split = pl.when(here).then(pl.col("split").replace(source.splits)).otherwise(split)
    return frame.with_columns(split.alias("split"))


#: What decides a row's place. The other columns are read again, source by source, for writing.
_DECIDING = ("source", "label", "split", "sample_id", "group_id", "orig_image")


def build_unified(run: RunFolder, job: Job) -> None:
    """Write ``classification_manifest.csv``, ``quarantine.csv`` and the merged reports."""
    files, thumbs, reports = [], [], []
    for artifact in job.inputs.values():
        source = artifact.record.asset.removeprefix("manifest/")
        files.append(artifact.file(f"{source}.csv"))
        thumbs.append(read_thumbs(artifact.file(THUMBS_FILE)))
        reports += artifact.read_json("clean_report.json")["reports"]
    frame = pl.concat([read_manifest(file).select(_DECIDING) for file in files])
    near = near_of(frame["sample_id"], Stacked(thumbs), job.store.near_cache)
    frame = frame.with_columns(
        pl.int_range(pl.len()).alias("row"),
        pl.col("group_id").alias("photo"),
        join_groups(frame["group_id"], near).alias("group_id"),
    )
    frame = publisher_splits(frame, job.profile)
    kept, leaking = assign_splits(frame, job.profile.draw, job.profile.seed)
    write_manifest(_whole_rows(files, kept), run.path("classification_manifest.csv"))
    write_notes(run, "quarantine.csv", _leak_notes(leaking, kept))
    manifest = {
        "rows_in": frame.height,
        "rows": kept.height,
        "rows_quarantined": leaking.height,
        "manifest": "classification_manifest.csv",
        "counts": kept.group_by("source").len("rows").sort("source").to_dicts(),
    }
    run.write_json("clean_report.json", clean_report(reports, manifest))
    twins, groups, shared = twin_counts(kept), group_counts(frame), overlaps(kept)
    run.write_json(
        "leakage.json",
        {"schema_version": 2, "test_twins": twins, "groups": groups, "overlaps": shared},
    )
    run.path("classes.png").write_bytes(class_source_heatmap(kept))
    run.summary.update(
        rows=kept.height,
        rows_in=frame.height,
        quarantined=leaking.height,
        groups=groups["groups"],
        near_identical_groups=groups["joined_by_nearness"],
        test_rows_with_a_twin_in_training=sum(t["with_twin"] for t in twins.values()),
        samples_in_two_sources=sum(pair["samples"] for pair in shared),
        **{split: kept.filter(pl.col("split") == split).height for split in SPLITS},
    )


def _whole_rows(files: Sequence[Path], kept: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The kept rows with all of their columns, source by source; ``kept`` is sorted by row."""
    decided = kept.select("row", "split", "group_id", "twin_in")
    start = 0
    for file in files:
        rows = read_manifest(file)
        here = decided.filter(pl.col("row").is_between(start, start + rows.height, closed="left"))
        chosen = rows[here["row"] - start].drop("split", "group_id", "twin_in")
        yield pl.concat([chosen, here.drop("row")], how="horizontal")
        start += rows.height


class Stacked:
    """Several ``[rows, 576]`` arrays as one, read row by row."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The thumbs ``[len(rows), 576]`` of these rows."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        found = np.empty((len(rows), THUMB_SIZE), np.uint8)
        for index in np.unique(part):
            here = part == index
            found[here] = self.parts[index][rows[here] - self.starts[index]]
        return found


def _leak_notes(leaking: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    photos = kept["photo"].unique().implode()
    how = pl.when(pl.col("photo").is_in(photos)).then(pl.lit("pixel")).otherwise(pl.lit("nearly"))
    return leaking.with_columns(
        pl.col("orig_image").alias("where"),
        pl.col("orig_image").alias("file"),
        pl.col("label").alias("native_label"),
        pl.lit("leakage").alias("rule"),
        pl.format("{} row with a {}-identical twin in {}", "split", how, "twin").alias("detail"),
    )


def group_counts(frame: pl.DataFrame) -> dict[str, int]:
    """How many groups there are, how many join several photos, and how large they get.

    ``frame`` has group_id and photo.
    """
    rows = frame.select(_code("group_id").alias("group"), _code("photo").alias("photo"))
    sizes = rows.group_by("group").len("rows")
    photos = rows.unique().group_by("group").len("photos")
    return {
        "photos": int(photos["photos"].sum()),
        "groups": photos.height,
        "joined_by_nearness": photos.filter(pl.col("photos") > 1).height,
        "largest_group_rows": int(sizes["rows"].max() or 0),  # type: ignore[arg-type]
        "largest_group_photos": int(photos["photos"].max() or 0),  # type: ignore[arg-type]
    }
