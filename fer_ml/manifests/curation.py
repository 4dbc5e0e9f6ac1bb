"""Select the rows of the unified manifest that a recipe takes."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.buckets import Buckets, RowValues, bucket_of, buckets_for, scratch
from fer_ml.base.errors import FerError
from fer_ml.base.frames import apart
from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import crop_face, is_grey, read_image
from fer_ml.manifests.schema import (
    SCHEMA,
    about_rows,
    boxes,
    manifest_parts,
    read_manifest,
    write_manifest,
)
from fer_ml.manifests.sorting import sorted_parts
from fer_ml.recipes.profile import Curation
from fer_ml.sources import ATTRIBUTES
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

UNIFIED = "classification_manifest"
TRAINED_ON = "hq_train_manifest"
COLOURS_FILE = "colours.json"
#: The order of a curated manifest.
ORDER = ("source", "image_path", "face_id", "bbox_left", "orig_image")
_OF_SOURCE = "source and splits"
Parts = Callable[[], Iterable[pl.DataFrame]]
#: A face and its label, as one text.
_LABELLED = pl.concat_str("sample_id", "label", separator=" ")
#: Training faces of each source whose colour is looked at.
LOOKED_AT = 100


def manifest_file(asset: str) -> str:
    """Return the csv name of a manifest asset; the first pipeline's names are kept."""
    if asset.startswith("manifest/"):
        return f"{asset.removeprefix('manifest/')}.csv"
    if asset in (UNIFIED, "test_all_sources_manifest"):
        return f"{asset.removesuffix('_manifest') if asset != UNIFIED else asset}.csv"
    return f"{UNIFIED}_{asset.removesuffix('_manifest')}.csv"


def taken(
    parts: Parts, recipe: Curation, name: str, folder: Path, rows: int
) -> Iterator[pl.DataFrame]:
    """Yield of each of ``parts()`` the rows that ``recipe`` takes.

    ``parts()`` yields a manifest of about ``rows`` rows, each time anew; ``folder`` is for scratch
    files. A source that matches no row is an error, raised when all parts are read. In the first
    pipeline such a filter trained the teachers without the data that its report names.
    """
    left, sources = Counter[tuple[str, str]](), set[str]()
    others = _labels_of(parts, (*recipe.agree_with, *recipe.votes_added))
    agreed = {name: _once_labelled(others, name) for name in recipe.agree_with}
    steps = {source: _filters(recipe, source, agreed) for source in recipe.sources}

    def chosen() -> Iterator[tuple[int, pl.DataFrame]]:
        start = 0
        for part in parts():
            sources.update(part["source"].unique())
            numbered = part.with_columns(pl.int_range(start, start + pl.len()).alias("row"))
            start += part.height
            for place, (source, filters) in enumerate(steps.items()):
                some = numbered
                for what, keep in filters.items():
                    some = some.filter(keep)
                    left[source, what] += some.height
                yield place, some
        for source, filters in steps.items():
            wanted = {what: left[source, what] for what in filters}
            _demand(name, recipe, source, wanted, sources)

    found: Iterator[pl.DataFrame]
    if recipe.one_per == "row":
        found = (part.drop("row") for _, part in chosen())
    else:
        found = _marked(parts, _first_rows(chosen(), recipe, folder, rows))
    yield from _with_votes(found, recipe, others)


def _marked(parts: Parts, first: RowValues) -> Iterator[pl.DataFrame]:
    start = 0
    for part in parts():
        yield part.filter(pl.Series(first.read(start, part.height)))
        start += part.height


def _labels_of(parts: Parts, sources: Collection[str]) -> pl.DataFrame:
    """Return ``source``, ``sample_id`` and ``label`` of all rows of some sources, or of none."""
    labels = pl.DataFrame(schema={name: SCHEMA[name] for name in ("source", "sample_id", "label")})
    if not sources:
        return labels
    of_these = pl.col("source").is_in(list(sources))
    chosen = (apart(part.filter(of_these).select(labels.columns)) for part in parts())
    return pl.concat([labels, *chosen])


def _with_votes(
    parts: Iterable[pl.DataFrame], recipe: Curation, others: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Add the votes of ``votes_added``; ``FerError`` where a source adds none to any row."""
    shares = {
        source: votes_of(others.filter(pl.col("source") == source), count)
        for source, count in recipe.votes_added.items()
    }
    added = dict.fromkeys(shares, 0)
    for part in parts:
        for source, by_face in shares.items():
            part, count = add_votes(part, by_face)
            added[source] += count
        yield part
    if not all(added.values()):
        raise FerError(
            "votes_added: no face has both votes and a label of this source",
            code="filter-without-rows",
            where=f"sources {', '.join(sorted(recipe.sources))}",
            fix="name a source that labels the same faces, in a manifest with votes",
        )


def votes_of(labelled: pl.DataFrame, count: float) -> pl.DataFrame:
    """Return by ``sample_id`` the votes of one more annotator for each class, ``+<class>``.

    ``labelled`` are the annotator's rows; several rows of one face share its ``count`` votes.
    """
    shares = labelled.select("sample_id", "label", share=count / pl.len().over("sample_id"))
    return shares.group_by("sample_id").agg(
        pl.col("share").filter(pl.col("label") == name).sum().alias(f"+{name}") for name in CLASSES
    )


def add_votes(rows: pl.DataFrame, by_face: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return ``rows`` whose ``votes`` hold those of ``votes_of`` too, and how many rows have both.

    With the votes v of a face and its label y the new votes are v_c + count [c = y]. Rows without
    votes, or without a row in ``by_face``, stay as they are.
    """
    both = rows.join(by_face, on="sample_id", how="left", maintain_order="left")
    held = pl.col("votes").str.split(";")
    sums = [
        # As publishers write them: whole numbers without a decimal point.
        (held.list.get(index, null_on_oob=True).cast(pl.Float64) + pl.col(f"+{name}"))
        .cast(pl.String)
        .str.replace(r"\.0$", "")
        for index, name in enumerate(CLASSES)
    ]
    votes = both.select(pl.concat_str(sums, separator=";")).to_series()
    return rows.with_columns(pl.coalesce(votes, "votes").alias("votes")), votes.count()


_FACE = np.dtype([("key", "u8"), ("more", "u8"), ("order", "i8")])
#: Bits of a row's number; the place of its source stands before it.
_ROW_BITS = 48


def _first_rows(
    parts: Iterable[tuple[int, pl.DataFrame]], recipe: Curation, folder: Path, rows: int
) -> RowValues:
    """Mark the first row of each face or group: by the place of its source, then by its number."""
    key = {"sample": "sample_id", "group": "group_id"}[recipe.one_per]
    buckets = Buckets(folder, "one_per", _FACE, buckets_for(rows))
    for place, part in parts:
        records = np.empty(part.height, _FACE)
        records["key"], records["more"] = (part[key].hash(seed).to_numpy() for seed in (0, 1))
        records["order"] = part["row"].to_numpy() + (place << _ROW_BITS)
        buckets.add(records, bucket_of(records["key"], buckets.count))
    first = RowValues(folder, "first", np.dtype(bool))
    for bucket in buckets:
        faces = pl.DataFrame({name: bucket[name] for name in ("key", "more", "order")})
        least = faces.group_by("key", "more").agg(pl.col("order").min())["order"].to_numpy()
        first.set(least & ((1 << _ROW_BITS) - 1), True)
    return first


def _demand(
    name: str, recipe: Curation, source: str, left: Mapping[str, int], sources: Collection[str]
) -> None:
    """Refuse a source of which the recipe, or a filter of it, leaves no row."""
    where = f"splits {list(recipe.splits)}"
    for what, rows in left.items():
        if not rows and what == _OF_SOURCE:
            raise FerError(
                f"{name}: source {source!r} matches no row",
                code="source-without-rows",
                where=where,
                allowed=f"sources with rows: {', '.join(sorted(sources))}",
                fix="correct this curation in the profile",
            )
        if not rows:
            raise FerError(
                f"{name}: {what} leaves no row of source {source!r}",
                code="filter-without-rows",
                where=where,
                fix="correct this filter in the profile",
            )


def shorter_side() -> pl.Expr:
    """Return the shorter side of each face in px: of its box, or else of its image."""
    return pl.min_horizontal(
        pl.coalesce(pl.col("bbox_right") - pl.col("bbox_left"), "width"),
        pl.coalesce(pl.col("bbox_bottom") - pl.col("bbox_top"), "height"),
    )


def _once_labelled(others: pl.DataFrame, source: str) -> pl.Series:
    """Return the faces with their label, as one list, of a source that gives each one label."""
    theirs = others.filter(pl.col("source") == source).filter(
        pl.col("label").n_unique().over("sample_id") == 1
    )
    return theirs.select(_LABELLED).to_series().implode()


def _filters(recipe: Curation, source: str, agreed: Mapping[str, pl.Series]) -> dict[str, pl.Expr]:
    """Return the recipe's filters on rows of one source, by their description, in their order.

    ``agreed`` has by source of ``agree_with`` what ``_once_labelled`` gives.
    """
    of_source = (pl.col("source") == source) & pl.col("split").is_in(list(recipe.splits))
    filters = {_OF_SOURCE: of_source}
    if recipe.labels:
        filters[f"labels {list(recipe.labels)}"] = pl.col("label").is_in(list(recipe.labels))
    if source in recipe.min_confidence:
        floor = recipe.min_confidence[source]
        filters[f"min_confidence {floor}"] = pl.col("confidence") >= floor
    if recipe.min_side:
        filters[f"min_side {recipe.min_side}"] = shorter_side() >= recipe.min_side
    if recipe.drop_twins:
        filters["drop_twins"] = (pl.col("split") != "test") | pl.col("twin_in").is_null()
    for other, labelled in agreed.items():
        filters[f"agree_with {other}"] = _LABELLED.is_in(labelled)
    return filters


def take(run: RunFolder, job: Job[Any], recipe: Curation) -> None:
    """Write the manifest of ``job`` by ``recipe``: the csv, ``curation.json``, ``classes.png``."""
    # Judging needs ``taken`` and no plots, which take a third of a second to import.
    from fer_ml.figures.charts import class_source_heatmap

    unified = job.input(UNIFIED)
    whole = unified.file(manifest_file(UNIFIED))
    counted, attributes = [], set[str]()
    in_part: list[int] = []

    def every() -> Iterator[pl.DataFrame]:
        in_part.clear()
        for part in manifest_parts(whole):
            in_part.append(part.height)
            yield part

    def noted(parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for part in parts:
            counted.append(part.group_by("source", "split", "label").len("rows"))
            attributes.update(name for name in ATTRIBUTES if part[name].count())
            yield part

    path = run.path(manifest_file(job.asset))
    with scratch(job.store.scratch) as folder:
        name = job.asset.removesuffix("_manifest")
        rows = taken(every, recipe, name, folder, about_rows(whole))
        ordered = sorted_parts(noted(rows), ORDER, folder)
        first = next(ordered)  # Now all rows are read and noted.
        write_manifest(itertools.chain([first], ordered), path, attributes)
    counts = pl.concat(counted).group_by("source", "split", "label").agg(pl.col("rows").sum())
    by_split = counts.group_by("source", "split").agg(pl.col("rows").sum()).sort("source", "split")
    rows_out = int(counts["rows"].sum())
    run.write_json(
        "curation.json",
        {
            "schema_version": 1,
            "recipe": recipe.model_dump(mode="json"),
            "from": {"manifest": UNIFIED, "sha256": unified.sha256},
            "rows_in": sum(in_part),
            "rows": rows_out,
            "by_source_split": by_split.to_dicts(),
        },
    )
    if job.asset == TRAINED_ON:
        found = colours(lambda: manifest_parts(path), job.store)
        run.write_json(COLOURS_FILE, {"schema_version": 1, "by_source": found})
    run.path("classes.png").write_bytes(class_source_heatmap(counts))
    in_split = dict(by_split.group_by("split").agg(pl.col("rows").sum()).iter_rows())
    run.summary.update(rows=rows_out, **{split: in_split.get(split, 0) for split in recipe.splits})


def colours(parts: Parts, store: Store) -> dict[str, dict[str, int]]:
    """Return by source: its training rows, how many were inspected, and how many are grey."""
    by_source = {}
    for source, count, seen in looked_at(parts):
        grey = sum(
            is_grey(crop_face(read_image(store.root / name), box))
            for name, box in zip(seen["image_path"], boxes(seen), strict=True)
        )
        by_source[source] = {"rows": count, "looked_at": seen.height, "grey": grey}
    return by_source


def looked_at(parts: Parts) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Yield each source, the number of its training rows, and the rows inspected for colour."""
    rows = Counter[str]()
    for part in _trained_on(parts):
        rows.update(dict(part["source"].value_counts().iter_rows()))
    drawn = {
        source: pl.int_range(count, eager=True).sample(min(LOOKED_AT, count), shuffle=True, seed=0)
        for source, count in sorted(rows.items())
    }
    seen: dict[str, list[pl.DataFrame]] = {source: [] for source in drawn}
    start = Counter[str]()
    for part in _trained_on(parts):
        for (source,), some in part.group_by("source", maintain_order=True):
            numbered = some.with_columns(pl.int_range(pl.len()).alias("row") + start[source])
            inspected = numbered.filter(pl.col("row").is_in(drawn[source].implode()))
            seen[source].append(apart(inspected))
            start[source] += some.height
    for source, found in seen.items():
        order = pl.DataFrame({"row": drawn[source]})
        chosen = order.join(pl.concat(found), on="row", maintain_order="left")
        yield source, rows[source], chosen


def _trained_on(parts: Parts) -> Iterator[pl.DataFrame]:
    return (part.filter(pl.col("split") == "train") for part in parts())


def read_curated(job: Job[Any], asset: str) -> pl.DataFrame:
    """Return a manifest among the inputs of ``job`` as a frame."""
    return read_manifest(job.input(asset).file(manifest_file(asset)))
