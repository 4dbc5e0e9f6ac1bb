"""Run folders of teachers and students: train, save, then measure the saved bytes."""

import importlib.metadata
import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from fer_ml.distillation.softlabels import read_softlabels
from fer_ml.errors import FerError
from fer_ml.evaluation.calibration import search_temperature
from fer_ml.evaluation.metrics import (
    classification_metrics,
    confusion_matrix,
    reliability_bins,
    softmax,
)
from fer_ml.evaluation.predictions import write_predictions
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import read_curated
from fer_ml.plots import confusion_chart, curves_chart, reliability_chart
from fer_ml.profiles import DKD, KD, STUDENTS, Training
from fer_ml.store import Artifact, RunFolder, sha256_file
from fer_ml.training.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
)
from fer_ml.training.faces import FaceSet, load_faces
from fer_ml.training.loop import predict, train
from fer_ml.training.models import build_model
from fer_ml.training.tasks import make_task

MANIFEST = "hq_train_manifest"


def build_teacher(run: RunFolder, job: Job) -> None:
    """One teacher: the asset ``teacher[backbone]``."""
    assert job.partition is not None
    recipe = job.profile.teachers.get(job.partition)
    if recipe is None:
        raise FerError(
            f"profile {job.profile.name} trains no teacher {job.partition}",
            allowed=", ".join(job.profile.teachers),
            fix=f"add teachers.{job.partition} to the profile",
        )
    torch.manual_seed(job.profile.seed)
    _train_run(run, job, recipe, build_model(recipe), init=None)


def build_student(run: RunFolder, job: Job) -> None:
    """One student: ``student_ce``, ``student_kd`` or ``student_dkd``."""
    stage = job.asset.removeprefix("student_")
    recipe = job.profile.students[stage]
    torch.manual_seed(job.profile.seed)
    model = build_model(recipe)
    previous = _previous(job, stage)
    if recipe.init == "previous":
        assert previous is not None
        model.load_state_dict(load_checkpoint(previous.file(CHECKPOINT_FILE)).model)
    _train_run(run, job, recipe, model, init=previous)


def _previous(job: Job, stage: str) -> Artifact | None:
    index = STUDENTS.index(stage)
    return job.input(f"student_{STUDENTS[index - 1]}") if index else None


def _train_run(
    run: RunFolder, job: Job, recipe: Training, model: nn.Module, *, init: Artifact | None
) -> None:
    manifest = job.input(MANIFEST)
    frame = read_curated(job, MANIFEST)
    rows = {split: frame.filter(pl.col("split") == split) for split in ("train", "val", "calib")}
    faces = {
        split: load_faces(part, job.store.root, job.profile.preprocess, job.store.root / "cache")
        for split, part in rows.items()
    }
    teacher, temperature = _soft_labels(job, recipe, manifest, faces["train"])
    before = weights_hash(model.state_dict())
    trained = train(
        model,
        make_task(recipe.task, temperature),
        recipe,
        faces["train"],
        faces["val"],
        seed=job.profile.seed,
        teacher=teacher,
        name=job.label,
    )
    checkpoint = Checkpoint(
        trained.state, recipe, job.profile.preprocess, CLASSES, trained.best_epoch
    )
    save_checkpoint(run.path(CHECKPOINT_FILE), checkpoint)
    # From here on only the saved bytes are measured: the metrics are those of best.pt.
    saved = load_checkpoint(run.path(CHECKPOINT_FILE))
    metrics = _measure(run, job, manifest, saved, rows, faces)
    run.write_json("history.json", trained.history)
    run.write_json(
        "training.json",
        {
            "schema_version": 1,
            "steps": trained.steps,
            "epochs_planned": recipe.epochs,
            "epochs_run": len(trained.history),
            "best_epoch": trained.best_epoch,
            "coverage": trained.history[-1]["coverage"],
            "init": recipe.init,
            "init_from": init.as_input().model_dump()
            if recipe.init == "previous" and init
            else None,
            "baseline": _baseline(init),
            "initial_weights_sha256": before,
            "best_weights_sha256": weights_hash(saved.model),
            "kd_temperature": temperature,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    )
    run.write_json("classorder.json", list(CLASSES))
    run.write_json("alignmentreport.json", _alignment(job, recipe, manifest, rows))
    run.write_json("environment.json", environment())
    run.path("curves.png").write_bytes(curves_chart(trained.history, trained.best_epoch))
    run.splits.update(checkpoint="val", temperature="calib")
    run.summary.update(
        rows=rows["train"].height,
        steps=trained.steps,
        epochs=len(trained.history),
        best_epoch=trained.best_epoch,
        **metrics,
    )


def _soft_labels(
    job: Job, recipe: Training, manifest: Artifact, faces: FaceSet
) -> tuple[np.ndarray | None, float | None]:
    if not isinstance(recipe.task, KD | DKD):
        return None, None
    labels = read_softlabels(job.input("softlabels"), manifest, faces)
    return labels.logits, recipe.task.temperature or labels.kd_temperature


def _baseline(previous: Artifact | None) -> dict[str, Any] | None:
    """The student before this one, and its macro-F1 on the same val rows."""
    if previous is None:
        return None
    found = previous.read_json("reliabilitymetrics.json")
    return {
        "asset": previous.key,
        "sha256": previous.sha256,
        "split": found["split"],
        "manifest_sha256": found["manifest_sha256"],
        "macro_f1": found["raw"]["macro_f1"],
    }


def _measure(
    run: RunFolder,
    job: Job,
    manifest: Artifact,
    checkpoint: Checkpoint,
    rows: dict[str, pl.DataFrame],
    faces: dict[str, FaceSet],
) -> dict[str, float]:
    """Predictions, temperature and metrics of the saved checkpoint."""
    network = checkpoint.network()
    logits = {split: predict(network, faces[split]) for split in ("val", "calib")}
    for split, values in logits.items():
        write_predictions(run.path(f"predictions_{split}.csv"), rows[split], values)
    digest = sha256_file(run.path(CHECKPOINT_FILE))
    # A fit on its bound must not cost the training: it is recorded, and a gate refuses the run.
    temperature, inside = search_temperature(logits["calib"], faces["calib"].y)
    raw = classification_metrics(faces["val"].y, logits["val"])
    scaled = classification_metrics(faces["val"].y, logits["val"], temperature)
    run.write_json(
        "calibration.json",
        {
            "schema_version": 1,
            "mode": "global",
            "global_temperature": temperature,
            "inside_bounds": inside,
            "fitted_on": "calib",
            "n": len(faces["calib"]),
            "checkpoint_sha256": digest,
            "manifest_sha256": manifest.sha256,
        },
    )
    run.write_json(
        "reliabilitymetrics.json",
        {
            "schema_version": 1,
            "epoch": checkpoint.epoch,
            "split": "val",
            "n": len(faces["val"]),
            "checkpoint_sha256": digest,
            "manifest_sha256": manifest.sha256,
            "raw": raw,
            "temperature_scaled": {"mode": "global", "global_temperature": temperature, **scaled},
        },
    )
    y, probs = faces["val"].y, softmax(logits["val"])
    run.path("confusion.png").write_bytes(
        confusion_chart(
            confusion_matrix(y, probs.argmax(axis=1), len(CLASSES)), f"{job.label}, val, n={len(y)}"
        )
    )
    run.path("reliability.png").write_bytes(
        reliability_chart(
            reliability_bins(y, probs),
            reliability_bins(y, softmax(logits["val"], temperature)),
            f"{job.label}, val",
        )
    )
    return {
        "val_accuracy": raw["accuracy"],
        "val_macro_f1": raw["macro_f1"],
        "val_ece_scaled": scaled["ece"],
        "temperature": temperature,
    }


def _alignment(
    job: Job, recipe: Training, manifest: Artifact, rows: dict[str, pl.DataFrame]
) -> dict[str, Any]:
    """``alignmentreport.json``: what the run was aligned to, in the first pipeline's keys."""
    everything = pl.concat(rows.values())
    return {
        "schema_version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "paths": {"manifest": manifest.key, "manifest_sha256": manifest.sha256},
        "seed": job.profile.seed,
        "model": {
            "name": recipe.architecture,
            "pretrained": recipe.init == "imagenet",
            "image_size": job.profile.preprocess.size,
        },
        "data": {
            "train_rows": rows["train"].height,
            "val_rows": rows["val"].height,
            "calib_rows": rows["calib"].height,
            "class_counts": dict(rows["train"].group_by("label").len().sort("label").iter_rows()),
            "source_counts_after_filter": dict(
                everything.group_by("source").len().sort("source").iter_rows()
            ),
        },
        "protocol": recipe.task.model_dump(mode="json"),
        "optim": {
            "name": recipe.optimiser,
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
            "warmup_epochs": recipe.warmup_epochs,
            "min_lr": recipe.min_lr,
            "clip_norm": recipe.clip_norm,
        },
        "batching": {"batch_size": recipe.batch_size, "drop_last": recipe.drop_last},
        "aug": {"strength": recipe.augment, "clahe_clip": job.profile.preprocess.clahe_clip},
        "calibration": {"mode": "global", "fitted_on": "calib"},
        "init": {"init": recipe.init},
    }


def environment() -> dict[str, Any]:
    """Versions and threads of this process, for the record."""
    packages = ("torch", "timm", "numpy", "opencv-python", "polars", "onnxruntime", "dagster")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
