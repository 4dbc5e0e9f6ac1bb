"""All sources in one manifest, with every row's final split written down as data.

Splits are a property of the *group* (all faces of one photo and its identical copies in any
source): a group lies in one split, whatever the publishers say, or the benchmark measures memory.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import polars as pl

from fer_ml.errors import FerError
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.cleaning import clean_report, write_notes
from fer_ml.manifests.schema import read_manifest, write_manifest
from fer_ml.plots import class_chart
from fer_ml.profiles import SPLITS, Draw, Profile
from fer_ml.store import RunFolder

#: When a group is in several splits, it stays in the first of these and leaves the others.
PRECEDENCE = ("test", "calib", "val", "train")


def assign_splits(frame: pl.DataFrame, draw: Draw, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give every row of ``frame`` its final split.

    ``frame`` has source, label, group_id and the publishers' split (train, val, calib, test or
    unassigned). Returns ``(kept, leaking)``: leaking rows have a twin in a split that takes
    precedence, and a column ``twin`` that names it. Nothing else is dropped.

    1. a group that a publisher placed in several splits stays in the first of ``PRECEDENCE``; its
       rows elsewhere leak; unassigned rows of a placed group join it;
    2. unassigned groups are drawn into train and test, by source and class;
    3. sources without a val part give some train groups to val;
    4. a part of all val groups becomes calib.
    """
    home = _homes(frame)
    final: dict[str, str] = {}
    has_val = set(frame.filter(pl.col("split").is_in(["val", "calib"]))["source"].unique())
    strata: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for group, (split, source, label) in home.items():
        final[group] = split
        strata[(split, source, label)].append(group)

    def take(groups: Iterable[str], fraction: float, split: str, purpose: str) -> None:
        ranked = sorted(groups, key=lambda group: _rank(seed, purpose, group))
        count = round(fraction * len(ranked))
        if count == 0 and len(ranked) >= 5:
            count = 1  # A class of five groups or more is never absent from a drawn split.
        for group in ranked[:count]:
            final[group] = split

    for (split, _, _), groups in sorted(strata.items()):
        if split == "unassigned":
            final.update(dict.fromkeys(groups, "train"))
            take(groups, draw.test, "test", "test")
    for (split, source, _), groups in sorted(strata.items()):
        if split in ("train", "unassigned") and source not in has_val:
            take([g for g in groups if final[g] == "train"], draw.val, "val", "val")
    for label in CLASSES:
        val = [g for g, split in final.items() if split == "val" and home[g][2] == label]
        take(val, draw.calib, "calib", "calib")

    placed = frame.with_columns(
        pl.col("group_id").replace_strict(final, return_dtype=pl.String).alias("final"),
        pl.col("group_id")
        .replace_strict({g: h[0] for g, h in home.items()}, return_dtype=pl.String)
        .alias("home"),
    )
    leaks = (pl.col("split") != "unassigned") & (pl.col("split") != pl.col("home"))
    leaking = placed.filter(leaks).with_columns(pl.col("home").alias("twin")).drop("final", "home")
    kept = placed.filter(~leaks).with_columns(pl.col("final").alias("split")).drop("final", "home")
    return kept, leaking


def _homes(frame: pl.DataFrame) -> dict[str, tuple[str, str, str]]:
    """``{group_id: (split, source, label)}`` by precedence; source and label of its first row."""
    order = {split: index for index, split in enumerate((*PRECEDENCE, "unassigned"))}
    homes: dict[str, tuple[str, str, str]] = {}
    columns = ("group_id", "split", "source", "label")
    for group, split, source, label in frame.select(columns).iter_rows():
        old = homes.get(group)
        if old is None or order[split] < order[old[0]]:
            homes[group] = (split, source, label)
    return homes


def _rank(seed: int, purpose: str, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{purpose}:{group}".encode(), digest_size=8).digest()


def twin_counts(leaking: pl.DataFrame, kept: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """How many test rows of each source had a twin outside test: the number that matters.

    ``{source: {"test_rows", "with_twin", "share"}}``, before the leaking rows were taken out.
    """
    groups = leaking.filter(pl.col("twin") == "test")["group_id"].unique().implode()
    table = (
        kept.filter(pl.col("split") == "test")
        .group_by("source")
        .agg(
            pl.len().alias("test_rows"),
            pl.col("group_id").is_in(groups).sum().alias("with_twin"),
        )
        .sort("source")
    )
    return {
        source: {"test_rows": rows, "with_twin": twins, "share": round(twins / rows, 6)}
        for source, rows, twins in table.iter_rows()
    }


def overlaps(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Samples that two sources share, and how often their labels agree.

    A list of ``{"a", "b", "samples", "same_label", "share_of_smaller"}`` for each pair of sources
    with at least one common ``sample_id``.
    """
    first = frame.unique(["sample_id", "source"], keep="first", maintain_order=True)
    pairs = (
        first.join(first, on="sample_id", suffix="_b")
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
    parts = []
    for source in profile.sources:
        rows = frame.filter(pl.col("source") == source.name)
        if rows.is_empty():
            raise FerError(
                f"source {source.name} has no rows in the unified manifest",
                where=f"profile {profile.name}",
                fix="materialize its manifest, or take it out of the profile's sources",
            )
        parts.append(rows.with_columns(pl.col("split").replace(source.splits)))
    return pl.concat(parts)


def build_unified(run: RunFolder, job: Job) -> None:
    """Write ``classification_manifest.csv``, ``quarantine.csv`` and the merged reports."""
    frames, reports = [], []
    for artifact in job.inputs.values():
        source = artifact.record.asset.removeprefix("manifest/")
        frames.append(read_manifest(artifact.file(f"{source}.csv")))
        reports += artifact.read_json("clean_report.json")["reports"]
    frame = publisher_splits(pl.concat(frames), job.profile)
    kept, leaking = assign_splits(frame, job.profile.draw, job.profile.seed)
    write_manifest(kept, run.path("classification_manifest.csv"))
    notes = [
        {
            "source": row["source"],
            "where": row["orig_image"],
            "file": row["orig_image"],
            "native_label": row["label"],
            "split": row["split"],
            "rule": "leakage",
            "detail": f"{row['split']} row with a pixel-identical twin in {row['twin']}",
        }
        for row in leaking.iter_rows(named=True)
    ]
    write_notes(run, "quarantine.csv", notes)
    manifest = {
        "rows_in": frame.height,
        "rows": kept.height,
        "rows_quarantined": leaking.height,
        "manifest": "classification_manifest.csv",
        "counts": kept.group_by("source").len("rows").sort("source").to_dicts(),
    }
    run.write_json("clean_report.json", clean_report(reports, manifest))
    twins = twin_counts(leaking, kept)
    shared = overlaps(kept)
    run.write_json("leakage.json", {"schema_version": 1, "test_twins": twins, "overlaps": shared})
    run.path("classes.png").write_bytes(class_chart(kept))
    run.summary.update(
        rows=kept.height,
        rows_in=frame.height,
        quarantined=leaking.height,
        test_rows_with_a_twin_in_training=sum(t["with_twin"] for t in twins.values()),
        samples_in_two_sources=sum(pair["samples"] for pair in shared),
        **{split: kept.filter(pl.col("split") == split).height for split in SPLITS},
    )
