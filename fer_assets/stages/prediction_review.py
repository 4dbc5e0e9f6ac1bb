"""Labels that the ensemble contradicts, on faces that its members never trained on."""

import numpy as np
import polars as pl

from fer_assets.stages.curated_manifest import read_curated
from fer_assets.stages.job import Job
from fer_assets.stages.label_review import prediction_disagreements, write_review
from fer_ml.distillation.logits import read_logits
from fer_ml.metrics.classification import log_softmax
from fer_ml.storage.store import RunFolder

#: Teachers train on ``train``; splits are drawn by group, so no twin of these faces is in it.
HELD_OUT = ("val", "calib", "test")


def build_prediction_review(run: RunFolder, job: Job) -> None:
    """The asset ``prediction_review``: held-out rows of ``hq_train``, the least likely first."""
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
