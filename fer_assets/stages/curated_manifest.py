"""Curated manifests: the rows of the unified one that a recipe takes."""

import polars as pl

from fer_assets.stages.job import Job
from fer_ml.manifests.curation import UNIFIED, curate, manifest_file
from fer_ml.manifests.schema import read_manifest, write_manifest
from fer_ml.recipes.profiles import Profile
from fer_ml.storage.store import RunFolder


def curated_assets(profile: Profile) -> tuple[str, ...]:
    """The curated manifests of a profile, as assets."""
    return tuple(f"{name}_manifest" for name in profile.curated)


def build_curated(run: RunFolder, job: Job) -> None:
    """One curated manifest, with what it came from in ``curation.json``."""
    # Judging needs ``curate`` and no plots, which take a third of a second to import.
    from fer_ml.figures.charts import class_source_heatmap

    name = job.asset.removesuffix("_manifest")
    recipe = job.profile.curated[name]
    unified = job.input(UNIFIED)
    frame = read_manifest(unified.file(manifest_file(UNIFIED)))
    rows = curate(frame, recipe, name)
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
    run.path("classes.png").write_bytes(class_source_heatmap(rows))
    run.summary.update(
        rows=rows.height,
        **{split: rows.filter(pl.col("split") == split).height for split in recipe.splits},
    )


def read_curated(job: Job, asset: str) -> pl.DataFrame:
    """A manifest among the inputs of ``job``, as a frame."""
    return read_manifest(job.input(asset).file(manifest_file(asset)))
