"""``prediction_review``: labels that the ensemble contradicts, on held-out faces."""

from fer_assets.stage import Given, Recipe, Stage, needs
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

#: Teachers train on ``train``; splits are drawn by group, so no twin of these faces is in it.
HELD_OUT = ("val", "calib", "test")


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "review.csv": (
        "the least likely first: the row, `predicted`, `self_confidence`, `normalised_margin`, "
        "`likely_error`"
    ),
    "review.html": "the first 200 rows with faces, in one file without scripts",
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Rank the held-out rows of ``hq_train``; the row with the least likely label comes first."""
    import numpy as np
    import polars as pl

    from fer_ml.distillation.logits import read_logits
    from fer_ml.manifests.curation import read_curated
    from fer_ml.metrics.classification import log_softmax
    from fer_ml.validation.review import prediction_disagreements, write_review

    ensemble = job.input("ensemble")
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split").is_in(list(HELD_OUT)))
    frame = frame.unique("sample_id", keep="first", maintain_order=True)
    ids = frame["sample_id"].to_list()
    temperature = ensemble.read_json("ensemble.json")["temperature"]
    probs = np.exp(log_softmax(read_logits(ensemble.folder).of(ids), temperature))
    table = prediction_disagreements(frame, ids, probs, held_out=np.ones(len(ids), dtype=bool))
    write_review(run, table, job.store.root, "Labels that the teachers contradict")
    run.summary.update(
        rows=table.height,
        held_out_rows=len(ids),
        likely_errors=table.filter(pl.col("likely_error")).height,
    )


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``prediction_review``, the same for every profile."""
    return [
        Stage(
            asset="prediction_review",
            group="distillation",
            kinds=("csv", "html"),
            describe="Labels that the ensemble contradicts, on faces that its members never "
            "trained on; the least likely label comes first. `review.csv`, and `review.html` with "
            "faces.",
            needs=needs("ensemble", "hq_train_manifest"),
            holds=HOLDS,
            build=build,
        )
    ]
