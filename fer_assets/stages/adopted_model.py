"""The asset ``adopted_model``: an adopted run's weights, measured on this platform's own rows."""

import shutil

import polars as pl

from fer_assets.stages.curated_manifest import read_curated
from fer_assets.stages.job import Job
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.calibration import T_BOUNDS
from fer_ml.metrics.predictions import write_predictions
from fer_ml.packed.format import SPLITS
from fer_ml.packed.packing import load_faces
from fer_ml.packed.runner import write_measures
from fer_ml.recipes.profiles import Profile
from fer_ml.storage.gates import Outcome, same
from fer_ml.storage.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.loop import predict
from fer_ml.training.ranks import choose_device

MANIFEST = "hq_train_manifest"


def build_adopted_model(run: RunFolder, job: Job) -> None:
    """Predictions on val and calib, a temperature from calib, and metrics of val.

    The files are those of a training's run folder, so that whatever reads one reads this.
    """
    adopted = job.input("adopted", job.partition)
    if CHECKPOINT_FILE not in adopted.record.files:
        raise FerError(
            f"{adopted.key} is a {adopted.record.summary['adopted']} without weights",
            where=adopted.folder,
            allowed="a run folder with its best.pt",
        )
    shutil.copyfile(adopted.file(CHECKPOINT_FILE), run.path(CHECKPOINT_FILE))
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


def gate_adopted_model(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the weights as measured here."""
    checkpoint = load_checkpoint(artifact.file(CHECKPOINT_FILE))
    metrics = artifact.read_json("reliabilitymetrics.json")
    calibration = artifact.read_json("calibration.json")
    digest = artifact.record.files[CHECKPOINT_FILE].sha256
    told = {item.asset: item for item in artifact.record.inputs}["adopted"]
    adopted = store.find("adopted", told.partition, told.sha256)
    given = adopted.record.files[CHECKPOINT_FILE].sha256 if adopted is not None else "gone"
    bad = sum(not bool(tensor.isfinite().all()) for tensor in checkpoint.model.values())
    return [
        same("class_order", list(checkpoint.classes), list(CLASSES)),
        same(
            "metrics_of_best",
            (metrics["checkpoint_sha256"], calibration["checkpoint_sha256"], given),
            (digest, digest, digest),
            "(in reliabilitymetrics.json, in calibration.json, of the adopted best.pt)",
        ),
        Outcome("finite_weights", bad == 0, bad, 0, "tensors with NaN or infinity"),
        Outcome(
            "temperature_in_bounds",
            calibration["inside_bounds"],
            calibration["global_temperature"],
            str(T_BOUNDS),
        ),
    ]
