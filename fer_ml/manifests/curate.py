"""Curated manifests: the rows of the unified one that a recipe takes."""

import polars as pl

from fer_ml.errors import FerError
from fer_ml.job import Job
from fer_ml.manifests.schema import read_manifest, write_manifest
from fer_ml.plots import class_chart
from fer_ml.profiles import Curation
from fer_ml.store import RunFolder

#: Asset, field of the profile, file. The file names are the first pipeline's.
CURATED: dict[str, tuple[str, str]] = {
    "hq_train_manifest": ("hq_train", "classification_manifest_hq_train.csv"),
    "eval_only_manifest": ("eval_only", "classification_manifest_eval_only.csv"),
    "test_all_sources_manifest": ("test_all_sources", "test_all_sources.csv"),
}
#: Every manifest that is validated, with its file.
MANIFEST_FILES: dict[str, str] = {
    "classification_manifest": "classification_manifest.csv",
    **{asset: file for asset, (_, file) in CURATED.items()},
}


def curate(frame: pl.DataFrame, recipe: Curation, name: str) -> pl.DataFrame:
    """The rows of ``frame`` that ``recipe`` takes, sorted.

    A source that matches no row is an error: a filter that silently selects nothing trained the
    first pipeline's teachers without the data that its report names.
    """
    parts = []
    for source in recipe.sources:
        floor = recipe.min_confidence.get(source)
        rows = frame.filter(
            (pl.col("source") == source) & pl.col("split").is_in(list(recipe.splits))
        )
        if floor is not None:
            rows = rows.filter(pl.col("confidence") >= floor)
        if rows.is_empty():
            raise FerError(
                f"{name}: source {source!r} matches no row",
                where=f"splits {list(recipe.splits)}, minimum confidence {floor}",
                allowed=f"sources with rows: {', '.join(sorted(frame['source'].unique()))}",
                fix="correct this curation in the profile",
            )
        parts.append(rows)
    rows = pl.concat(parts)
    if recipe.unique:
        rows = rows.unique("sample_id", keep="first", maintain_order=True)
    return rows.sort("source", "image_path", "face_id", "bbox_left")


def build_curated(run: RunFolder, job: Job) -> None:
    """One curated manifest, with what it came from in ``curation.json``."""
    field, file = CURATED[job.asset]
    recipe: Curation = getattr(job.profile, field)
    unified = job.input("classification_manifest")
    frame = read_manifest(unified.file("classification_manifest.csv"))
    rows = curate(frame, recipe, field)
    write_manifest(rows, run.path(file))
    run.write_json(
        "curation.json",
        {
            "schema_version": 1,
            "recipe": recipe.model_dump(mode="json"),
            "from": {"manifest": "classification_manifest", "sha256": unified.sha256},
            "rows_in": frame.height,
            "rows": rows.height,
            "by_source_split": rows.group_by("source", "split")
            .len("rows")
            .sort("source", "split")
            .to_dicts(),
        },
    )
    run.path("classes.png").write_bytes(class_chart(rows))
    run.summary.update(
        rows=rows.height,
        **{split: rows.filter(pl.col("split") == split).height for split in recipe.splits},
    )


def read_curated(job: Job, asset: str) -> pl.DataFrame:
    """A manifest among the inputs of ``job``, as a frame."""
    return read_manifest(job.input(asset).file(MANIFEST_FILES[asset]))
