"""Unify all sources into one manifest that stores every row's final split.

Splits belong to the *group* (all faces of one photo, and its identical and near-identical copies in
any source). A group lies in one split, whatever the publishers say; otherwise the benchmark would
measure memorisation.

What decides a row's place is read once and divided by group. Some groups at a time are in memory;
what was decided of each row is put back into the order of rows, in which the manifest is written.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from fer_ml.base.buckets import Buckets, RowValues, bucket_of, buckets_for, scratch
from fer_ml.base.errors import FerError
from fer_ml.base.npz import Stacked
from fer_ml.base.reading import open_file
from fer_ml.figures.charts import class_source_heatmap
from fer_ml.manifests.cleaning import (
    QUARANTINE_SCHEMA,
    THUMBS_FILE,
    append_notes,
    clean_report,
    read_thumbs,
    write_notes,
)
from fer_ml.manifests.curation import manifest_file
from fer_ml.manifests.groups import (
    Others,
    Thumbs,
    bytes_of,
    halves_of,
    join_by_part,
    near_by_part,
    number_hashes,
    texts_of,
)
from fer_ml.manifests.leakage import Leakage, twin_kinds, twin_pairs
from fer_ml.manifests.schema import attributes_of, manifest_parts, write_manifest
from fer_ml.manifests.splits import (
    GROUP,
    PLACES,
    ROW,
    UNASSIGNED,
    Draws,
    Kinds,
    groups_of,
    joined_names,
    other_places,
    split_names,
)
from fer_ml.recipes.profile import SPLITS, Draw, Near, Split
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

Meanings = Mapping[str, Mapping[str, Split]]
#: What is read of each row: hashes as bytes, and texts by numbers in the order in which they come.
_TEXTS = ("source", "label", "split")
_READ = np.dtype([("sample", "S16"), ("photo", "S16"), *((name, "u2") for name in _TEXTS)])
_AT_ONCE = 1 << 18
#: What was decided of a row: the place that it has, or that its twin has; bits of the other places
#: of its group; whether it leaks; and the number of its twin's kind.
_OTHERS_AT, _LEAKS_AT, _KIND_AT = 3, 7, 8


def unify(
    run: RunFolder, job: Job[Any], meanings: Meanings, near: Near, draw: Draw, seed: int
) -> None:
    """Write ``classification_manifest.csv``, ``quarantine.csv`` and the merged reports.

    ``job`` holds the sources' manifests and nothing else. ``meanings`` is passed to
    ``publisher_splits``, ``near`` to ``near_by_part``, ``draw`` and ``seed`` to ``Draws``.
    """
    files, thumbs, reports = [], [], []
    for artifact in job.inputs.values():
        files.append(artifact.file(manifest_file(artifact.record.asset)))
        thumbs.append(read_thumbs(artifact.file(THUMBS_FILE)))
        reports += artifact.read_json("clean_report.json")["reports"]
    path, pictures = run.path("classification_manifest.csv"), Stacked(thumbs).__getitem__
    with scratch(job.store.scratch) as folder:
        rows = _Rows(folder, files)
        samples = lambda: (texts_of(part["sample"]) for part in rows)  # noqa: E731
        close = near_by_part(samples, pictures, job.store.near_cache, near)
        pairs = ((part["photo"], close.of_bytes(part["sample"])) for part in rows)
        group_of = join_by_part(pairs, folder, rows.buckets)
        kinds = rows.kinds(publisher_splits(rows.counts, meanings))
        decided = _Decided(folder, rows, meanings, group_of)
        decided.decide(kinds, draw, seed, pictures, near)
        counted: list[pl.DataFrame] = []
        write_notes(run, "quarantine.csv", pl.DataFrame(schema=QUARANTINE_SCHEMA))
        with run.path("quarantine.csv").open("ab") as quarantine:
            whole = decided.whole_rows(files, counted, quarantine)
            write_manifest(whole, path, attributes_of(files))
    counts = pl.concat(counted).group_by("source", "split", "label").agg(pl.col("rows").sum())
    _report(run, reports, rows.height, counts, decided.leakage.document())


def _report(
    run: RunFolder,
    reports: list[dict[str, Any]],
    rows_in: int,
    counts: pl.DataFrame,
    leaks: dict[str, Any],
) -> None:
    rows = int(counts["rows"].sum())
    manifest = {
        "rows_in": rows_in,
        "rows": rows,
        "rows_quarantined": rows_in - rows,
        "manifest": "classification_manifest.csv",
        "counts": counts.group_by("source").agg(pl.col("rows").sum()).sort("source").to_dicts(),
    }
    run.write_json("clean_report.json", clean_report(reports, manifest))
    run.write_json("leakage.json", leaks)
    run.path("classes.png").write_bytes(class_source_heatmap(counts))
    in_split = dict(counts.group_by("split").agg(pl.col("rows").sum()).iter_rows())
    run.summary.update(
        rows=rows,
        rows_in=rows_in,
        quarantined=rows_in - rows,
        groups=leaks["groups"]["groups"],
        near_identical_groups=leaks["groups"]["joined_by_nearness"],
        test_rows_with_a_twin_in_training=sum(t["with_twin"] for t in leaks["test_twins"].values()),
        samples_in_two_sources=sum(pair["samples"] for pair in leaks["overlaps"]),
        **{split: in_split.get(split, 0) for split in SPLITS},
    )


class _Rows:
    """What decides the place of each row of all sources, on disk in their order.

    ``counts`` has the number of ``rows`` by source, label and publisher's split.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._file = folder / "rows"
        self.height, counted = 0, []
        codes: dict[str, dict[str, int]] = {name: {} for name in _TEXTS}
        with self._file.open("wb") as out:
            for part in itertools.chain.from_iterable(map(manifest_parts, files)):
                counted.append(part.group_by(_TEXTS).len("rows"))
                records = np.empty(part.height, _READ)
                for name, known in codes.items():
                    for value in part[name].unique():
                        known.setdefault(value, len(known))
                    records[name] = part[name].replace_strict(known, return_dtype=pl.UInt16)
                for name, column in (("sample", "sample_id"), ("photo", "group_id")):
                    records[name] = bytes_of(part[column])
                out.write(records.tobytes())
                self.height += part.height
        #: Texts in the order in which they came; their numbers in the order of texts.
        self.texts = {name: list(known) for name, known in codes.items()}
        self.ranks = {name: np.argsort(np.argsort(known)) for name, known in self.texts.items()}
        self.counts = pl.concat(counted).group_by(_TEXTS).agg(pl.col("rows").sum())
        self.buckets = buckets_for(self.height)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield some rows (``_READ``) at a time."""
        with open_file(self._file) as file:
            while data := file.read(_AT_ONCE * _READ.itemsize):
                yield np.frombuffer(data, _READ)

    def kinds(self, counts: pl.DataFrame) -> Kinds:
        """Return the kinds of rows by ``counts``, whose split is the final meaning."""
        if unknown := set(counts["split"]) - set(PLACES):
            raise FerError(
                f"the sources' manifests have unknown splits: {sorted(map(str, unknown))}",
                code="unknown-split",
                allowed=", ".join(PLACES),
                fix="make them again",
            )
        sources, labels = (sorted(self.texts[name]) for name in ("source", "label"))
        rows = np.zeros((len(sources), len(labels)), np.int64)
        has_val = np.zeros(len(sources), bool)
        for source, label, split, count in counts.select(*_TEXTS, "rows").iter_rows():
            rows[sources.index(source), labels.index(label)] += count
            has_val[sources.index(source)] |= split in ("val", "calib")
        return Kinds(rows, has_val)

    def places(self, meanings: Meanings) -> np.ndarray:
        """Return the place ``[sources, splits]`` that a publisher's split means, by their codes."""
        sources, splits = self.texts["source"], self.texts["split"]
        pairs = pl.DataFrame(
            {
                "source": [source for source in sources for _ in splits],
                "split": [*splits] * len(sources),
            }
        )
        # A word of another source may be no split here.
        places = pairs.select(_meant(meanings).replace_strict(PLACES, default=0))
        return places.to_series().to_numpy().reshape(len(sources), len(splits))


class _Decided:
    """Decides the place of each row, and counts what leaks."""

    def __init__(self, folder: Path, rows: _Rows, meanings: Meanings, group_of: Others) -> None:
        self._meant, self._group_of = _meant(meanings), group_of
        self._values = RowValues(folder, "decided", np.dtype(np.uint16))
        self._kind_names = [""]
        self._by_group = Buckets(folder, "by_group", ROW, rows.buckets)
        self._groups = Buckets(folder, "groups", GROUP, rows.buckets)
        self.leakage = Leakage(sorted(rows.texts["source"]))
        places, start = rows.places(meanings), 0
        for part in rows:
            records = np.empty(len(part), ROW)
            records["row"] = np.arange(start, start + len(part))
            records["sample"], records["photo"] = part["sample"], part["photo"]
            records["group"] = group_of.of_bytes(part["photo"])
            for name in ("source", "label"):
                records[name] = rows.ranks[name][part[name]]
            records["place"] = places[part["source"], part["split"]]
            self._by_group.add(records, bucket_of(halves_of(records["group"])[:, 0], rows.buckets))
            start += len(part)

    def decide(self, kinds: Kinds, draw: Draw, seed: int, thumbs: Thumbs, near: Near) -> None:
        """Draw the groups, then decide each row."""
        for index, rows in enumerate(self._by_group):
            number, groups = groups_of(rows, kinds)
            self._groups.add(groups, np.full(len(groups), index))
            self.leakage.count_groups(number, rows["photo"])
        draws = Draws(lambda: self._groups, kinds, draw, seed)
        for rows, groups in zip(self._by_group, self._groups, strict=True):
            number = number_hashes(rows["group"])
            final, home = draws.final(groups)[number], groups["home"][number]
            leaks = (rows["place"] != UNASSIGNED) & (rows["place"] != home)
            others = other_places(groups)[number]
            values = np.where(leaks, home, final) | others << _OTHERS_AT | leaks << _LEAKS_AT
            kept, test = ~leaks, final == PLACES["test"]
            self.leakage.count_twins(rows["source"][kept], test[kept], others[kept] != 0)
            self.leakage.count_overlaps(*(rows[n][kept] for n in ("sample", "source", "label")))
            some = np.flatnonzero(others)
            pairs = _pairs(rows[some], number[some], final[some], home[some], leaks[some])
            kind = twin_kinds(pairs, thumbs, near)
            at = np.searchsorted(rows["row"], pairs["row"].to_numpy())
            values[at] |= self._codes(kind) << _KIND_AT
            of_kept = kept[at]
            self.leakage.count_kinds(rows["source"][at[of_kept]], kind.filter(pl.Series(of_kept)))
            self._values.set(rows["row"], values)

    def _codes(self, kinds: pl.Series) -> np.ndarray:
        self._kind_names += sorted(set(kinds) - set(self._kind_names))
        codes = {name: code for code, name in enumerate(self._kind_names)}
        return kinds.replace_strict(codes, return_dtype=pl.Int64).to_numpy()

    def whole_rows(
        self, files: Sequence[Path], counted: list[pl.DataFrame], quarantine: BinaryIO
    ) -> Iterator[pl.DataFrame]:
        """Yield the kept rows with all of their columns, counted by source, split and label.

        The leaking ones are written to ``quarantine``.
        """
        start = 0
        for part in itertools.chain.from_iterable(map(manifest_parts, files)):
            values = self._values.read(start, part.height).astype(np.int64)
            start += part.height
            leaks = pl.Series(values >> _LEAKS_AT & 1, dtype=pl.Boolean)
            place = split_names(values & 7)
            group = texts_of(self._group_of.of_bytes(bytes_of(part["group_id"])))
            others = joined_names(values >> _OTHERS_AT & 15)
            kept = part.with_columns(
                place.alias("split"), group.alias("group_id"), others.alias("twin_in")
            ).filter(~leaks)
            counted.append(kept.group_by("source", "split", "label").len("rows"))
            if leaks.any():
                kind = pl.Series(self._kind_names).gather(values >> _KIND_AT)
                told = part.with_columns(
                    self._meant.alias("split"), place.alias("twin"), kind.alias("kind")
                )
                append_notes(quarantine, _leak_notes(told.filter(leaks)))
            yield kept


def _pairs(
    rows: np.ndarray, number: np.ndarray, final: np.ndarray, home: np.ndarray, leaks: np.ndarray
) -> pl.DataFrame:
    """Return ``twin_pairs`` of rows (``ROW``) whose groups are in several splits."""
    frame = pl.DataFrame(
        {
            "row": rows["row"],
            "sample_id": number_hashes(rows["sample"]),
            "group_id": number,
            "split": split_names(rows["place"].astype(np.int64)),
        }
    )
    # That it is not null is all that matters: the groups have other places.
    kept = frame.with_columns(split_names(final).alias("split"), pl.lit("").alias("twin_in"))
    leaking = frame.with_columns(split_names(home).alias("twin"))
    return twin_pairs(frame, kept.filter(pl.Series(~leaks)), leaking.filter(pl.Series(leaks)))


def _leak_notes(leaking: pl.DataFrame) -> pl.DataFrame:
    return leaking.with_columns(
        pl.col("orig_image").alias("where"),
        pl.col("orig_image").alias("file"),
        pl.col("label").alias("native_label"),
        pl.lit("leakage").alias("rule"),
        pl.format("{} row with a twin in {}: {}", "split", "twin", "kind").alias("detail"),
    )


def publisher_splits(frame: pl.DataFrame, meanings: Meanings) -> pl.DataFrame:
    """Replace the publisher's split by this platform's where ``meanings`` names one, by source.

    Every source of ``meanings`` must have rows: ``FerError`` names the first that has none.
    """
    sources = set(frame["source"].unique())
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
    return frame.with_columns(_meant(meanings).alias("split"))


def _meant(meanings: Meanings) -> pl.Expr:
    split = pl.col("split")
    for source, splits in meanings.items():
        if splits:
            of_source = pl.col("source") == source
            split = pl.when(of_source).then(pl.col("split").replace(splits)).otherwise(split)
    return split
