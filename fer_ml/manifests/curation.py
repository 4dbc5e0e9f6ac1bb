"""Select the rows of the unified manifest that a recipe takes."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import crop_face, is_grey, read_image
from fer_ml.manifests.schema import boxes, read_manifest, write_manifest
from fer_ml.recipes.profile import Curation
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

UNIFIED = "classification_manifest"
TRAINED_ON = "hq_train_manifest"
COLOURS_FILE = "colours.json"
#: Training faces of each source whose colour is looked at.
LOOKED_AT = 100
#: A face and its label, as one text.
_LABELLED = pl.concat_str("sample_id", "label", separator=" ")


def manifest_file(asset: str) -> str:
    """Return the csv name of a manifest asset; the first pipeline's names are kept."""
    if asset.startswith("manifest/"):
        return f"{asset.removeprefix('manifest/')}.csv"
    if asset in (UNIFIED, "test_all_sources_manifest"):
        return f"{asset.removesuffix('_manifest') if asset != UNIFIED else asset}.csv"
    return f"{UNIFIED}_{asset.removesuffix('_manifest')}.csv"


def curate(frame: pl.DataFrame, recipe: Curation, name: str) -> pl.DataFrame:
    """Return the rows of ``frame`` that ``recipe`` takes, sorted.

    A source that matches no row is an error. In the first pipeline such a filter trained the
    teachers without the data that its report names.
    """
    parts = []
    for source in recipe.sources:
        rows = frame.filter(
            (pl.col("source") == source) & pl.col("split").is_in(list(recipe.splits))
        )
        for what, keep in _filters(recipe, source, frame).items():
            if rows.is_empty():
                break
            rows = rows.filter(keep)
            if rows.is_empty():
                raise FerError(
                    f"{name}: {what} leaves no row of source {source!r}",
                    code="filter-without-rows",
                    where=f"splits {list(recipe.splits)}",
                    fix="correct this filter in the profile",
                )
        if rows.is_empty():
            raise FerError(
                f"{name}: source {source!r} matches no row",
                code="source-without-rows",
                where=f"splits {list(recipe.splits)}",
                allowed=f"sources with rows: {', '.join(sorted(frame['source'].unique()))}",
                fix="correct this curation in the profile",
            )
        parts.append(rows)
    rows = pl.concat(parts)
    if recipe.one_per != "row":
        key = {"sample": "sample_id", "group": "group_id"}[recipe.one_per]
        rows = rows.unique(key, keep="first", maintain_order=True)
    for source, count in recipe.votes_added.items():
        rows = add_votes(rows, frame.filter(pl.col("source") == source), count)
    return rows.sort("source", "image_path", "face_id", "bbox_left", "orig_image")


def add_votes(rows: pl.DataFrame, labelled: pl.DataFrame, count: float) -> pl.DataFrame:
    """Return ``rows`` whose ``votes`` hold the labels of one more annotator, ``count`` votes each.

    ``labelled`` are the annotator's rows; several rows of one face share the ``count`` votes. With
    the votes v of a face and its label y the new votes are v_c + count [c = y]. Rows without votes,
    or without a row in ``labelled``, stay as they are. ``FerError`` if no row has both.
    """
    shares = labelled.select("sample_id", "label", share=count / pl.len().over("sample_id"))
    by_face = shares.group_by("sample_id").agg(
        pl.col("share").filter(pl.col("label") == name).sum().alias(f"+{name}") for name in CLASSES
    )
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
    if votes.null_count() == rows.height:
        raise FerError(
            "votes_added: no face has both votes and a label of this source",
            code="filter-without-rows",
            where=f"sources {', '.join(sorted(rows['source'].unique()))}",
            fix="name a source that labels the same faces, in a manifest with votes",
        )
    return rows.with_columns(pl.coalesce(votes, "votes").alias("votes"))


def shorter_side() -> pl.Expr:
    """Return the shorter side of each face in px: of its box, or else of its image."""
    return pl.min_horizontal(
        pl.coalesce(pl.col("bbox_right") - pl.col("bbox_left"), "width"),
        pl.coalesce(pl.col("bbox_bottom") - pl.col("bbox_top"), "height"),
    )


def _filters(recipe: Curation, source: str, frame: pl.DataFrame) -> dict[str, pl.Expr]:
    """Return the recipe's filters on rows of one source of ``frame``, by their description."""
    filters = {}
    if recipe.labels:
        filters[f"labels {list(recipe.labels)}"] = pl.col("label").is_in(list(recipe.labels))
    if source in recipe.min_confidence:
        floor = recipe.min_confidence[source]
        filters[f"min_confidence {floor}"] = pl.col("confidence") >= floor
    if recipe.min_side:
        filters[f"min_side {recipe.min_side}"] = shorter_side() >= recipe.min_side
    if recipe.drop_twins:
        filters["drop_twins"] = (pl.col("split") != "test") | pl.col("twin_in").is_null()
    for other in recipe.agree_with:
        theirs = frame.filter(
            pl.col("source") == other, pl.col("label").n_unique().over("sample_id") == 1
        )
        filters[f"agree_with {other}"] = _LABELLED.is_in(
            theirs.select(_LABELLED).to_series().implode()
        )
    return filters


def take(run: RunFolder, job: Job[Any], recipe: Curation) -> None:
    """Write the manifest of ``job`` by ``recipe``: the csv, ``curation.json``, ``classes.png``."""
    # Judging needs ``curate`` and no plots, which take a third of a second to import.
    from fer_ml.figures.charts import class_source_heatmap

    unified = job.input(UNIFIED)
    frame = read_manifest(unified.file(manifest_file(UNIFIED)))
    rows = curate(frame, recipe, job.asset.removesuffix("_manifest"))
    write_manifest(rows, run.path(manifest_file(job.asset)))
    run.write_json(
        "curation.json",
        {
            "schema_version": 1,
            "recipe": recipe.model_dump(mode="json"),
            "from": {"manifest": UNIFIED, "sha256": unified.sha256},
            "rows_in": frame.height,
            "rows": rows.height,
            "by_source_split": rows.group_by("source", "split")
            .len("rows")
            .sort("source", "split")
            .to_dicts(),
        },
    )
    if job.asset == TRAINED_ON:
        run.write_json(COLOURS_FILE, {"schema_version": 1, "by_source": colours(rows, job.store)})
    run.path("classes.png").write_bytes(class_source_heatmap(rows))
    run.summary.update(
        rows=rows.height,
        **{split: rows.filter(pl.col("split") == split).height for split in recipe.splits},
    )


def colours(rows: pl.DataFrame, store: Store) -> dict[str, dict[str, int]]:
    """Return by source: its training rows, how many were inspected, and how many are grey."""
    by_source = {}
    for source, count, seen in looked_at(rows):
        grey = sum(
            is_grey(crop_face(read_image(store.root / name), box))
            for name, box in zip(seen["image_path"], boxes(seen), strict=True)
        )
        by_source[source] = {"rows": count, "looked_at": seen.height, "grey": grey}
    return by_source


def looked_at(rows: pl.DataFrame) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Yield each source, the number of its training rows, and the rows inspected for colour."""
    trained_on = rows.filter(pl.col("split") == "train")
    for (source,), part in trained_on.group_by("source", maintain_order=True):
        seen = part.sample(min(LOOKED_AT, part.height), shuffle=True, seed=0)
        yield str(source), part.height, seen


def read_curated(job: Job[Any], asset: str) -> pl.DataFrame:
    """Return a manifest among the inputs of ``job`` as a frame."""
    return read_manifest(job.input(asset).file(manifest_file(asset)))
