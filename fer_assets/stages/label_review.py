"""``label_review``: faces that two rows of the unified manifest label differently."""

from fer_assets.stage import Given, Recipe, Stage, needs
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "review.csv": (
        "the most suspicious first: the row in doubt (`sample_id`, `image_path`, `source_a`, "
        "`label_a`), its witness (`source_b`, `label_b`), `votes`, `support_a`, `support_b`, "
        "`score`"
    ),
    "review.html": "the first 200 rows with faces, in one file without scripts",
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Rank the disagreements, the most suspicious first."""
    import polars as pl

    from fer_ml.manifests.curation import UNIFIED, read_curated
    from fer_ml.validation.review import source_disagreements, write_review

    table = source_disagreements(read_curated(job, UNIFIED))
    write_review(run, table, job.store.root, "Labels that two sources see differently")
    run.summary.update(rows=table.height, unanimous=table.filter(pl.col("score") == 1).height)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``label_review``, the same for every profile."""
    return [
        Stage(
            asset="label_review",
            group="manifests",
            kinds=("csv", "html"),
            describe="Faces that two rows label differently, the most suspicious first: by "
            "annotators' votes where there are some. `review.csv`, and `review.html` with faces.",
            needs=needs("classification_manifest"),
            holds=HOLDS,
            build=build,
        )
    ]
