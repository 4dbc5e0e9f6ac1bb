"""Measure an adopted run's weights on this platform's own rows."""

import shutil
from typing import Any

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.reading import regular
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.predictions import write_predictions
from fer_ml.packed.format import SPLITS
from fer_ml.packed.packing import load_faces
from fer_ml.packed.runner import write_measures
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import predict
from fer_ml.training.ranks import choose_device

MANIFEST = "hq_train_manifest"


def measure_adopted_model(run: RunFolder, job: Job[Any]) -> None:
    """Write predictions on val and calib, a temperature from calib, and metrics of val.

    The files are those of a training's run directory, so every reader of trainings can read them.
    Raises ``FerError`` when the adopted artifact in ``job`` has no weights.
    """
    adopted = job.input("adopted", job.partition)
    if CHECKPOINT_FILE not in adopted.record.files:
        raise FerError(
            f"{adopted.key} is a {adopted.record.summary['adopted']}, and has no weights",
            code="missing-weights",
            where=adopted.folder,
            allowed=f"a run folder with its {CHECKPOINT_FILE}",
        )
    shutil.copyfile(regular(adopted.file(CHECKPOINT_FILE)), run.path(CHECKPOINT_FILE))
    checkpoint = load_checkpoint(run.path(CHECKPOINT_FILE))
    device = choose_device(job.device)
    network = checkpoint.network().to(device)
    frame, logits, y = read_curated(job, MANIFEST), {}, {}
    for split in SPLITS[1:]:
        rows = frame.filter(pl.col("split") == split)
        root = job.store.root
        faces = load_faces(rows, root, checkpoint.preprocess, root / "cache")
        logits[split], y[split] = predict(network, faces, device=device), faces.y
        write_predictions(run.path(f"predictions_{split}.csv"), rows, logits[split])
    metrics = write_measures(run.folder, checkpoint, job.input(MANIFEST).sha256, logits, y)
    # Which rows chose the weights was decided elsewhere; these may be among them.
    run.splits.update(checkpoint="unknown", temperature="calib")
    run.summary.update(
        architecture=checkpoint.recipe.architecture,
        val_accuracy=metrics["raw"]["accuracy"],
        val_macro_f1=metrics["raw"]["macro_f1"],
        temperature=metrics["temperature_scaled"]["global_temperature"],
    )
