"""The import of runs of a packed training that were made elsewhere, after checks."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.base.reading import read_json, regular, sha256_file
from fer_ml.distillation.logits import (
    CENTRE_FILE,
    IN_SAMPLE_FILE,
    META_FILE,
    ROWS_FILE,
    VIEWS_FILE,
    Teacher,
    read_taught,
)
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.classification import classification_metrics
from fer_ml.packed.format import JOB_FILE, read_about, read_soft_targets, soft_file, step_folder
from fer_ml.packed.packing import load_faces
from fer_ml.packed.runner import LOGITS_FILE, TRAINING_FILE
from fer_ml.recipes.training import Distilling
from fer_ml.runs.logits import faces_to_label, finish_logits
from fer_ml.runs.parts import MANIFEST, SOFTLABELS, Labelled, Part, Trained, origin_of
from fer_ml.runs.softlabels import read_softlabels
from fer_ml.runs.trainings import take
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import predict


def step_of(folder: Path) -> dict[str, Any]:
    """Return the step that a finished run is of: its label, asset, partition and origin.

    ``FerError`` if ``folder`` is not a run of a packed training.
    """
    path = folder / JOB_FILE
    if not path.is_file():
        raise FerError(
            "not the results of a packed training: job.json missing",
            code="not-training-results",
            where=folder,
            fix="name a folder below --out of: python -m fer_ml.packed FOLDER --out RUNS",
        )
    about = read_about(path)
    for label, origin in about.items():
        if step_folder(label) == folder.name:
            return {"label": label, **origin}
    raise FerError(
        f"{folder.name} is no step of its job",
        code="unknown-step",
        where=path,
        allowed=", ".join(step_folder(label) for label in about),
    )


def take_in(run: RunFolder, part: Part, folder: Path) -> None:
    """Import a run that was made elsewhere, as the asset of ``part``.

    ``FerError`` if it was made from other inputs or by another recipe, if its weights do not
    reproduce its predictions, or if its predictions do not reproduce its metrics.
    """
    job, step = part.job, step_of(folder)
    origin = origin_of(job, [name for name in job.inputs if name not in step["inputs"]])
    for what in ("asset", "partition", "recipe", "inputs"):
        if step[what] != origin[what]:
            raise FerError(
                f"the run was made from other {what}: it has {step[what]}, not {origin[what]}",
                code="origin-mismatch",
                where=folder,
                fix="pack and train again; a run counts only for what it was made from",
            )
    if isinstance(part, Labelled):
        _take_logits(run, part, folder)
        return
    if not isinstance(part, Trained):
        raise FerError(
            "soft labels are not adopted: they are computed from the logits",
            code="not-adoptable",
            where=folder,
            fix='fer materialize --select "ensemble,softlabels"',
        )
    _check_start(part, step, folder)
    _check_taught(part, step, folder)
    _check_predictions(job, folder)
    take(run, part, folder)


def _take_logits(run: RunFolder, part: Labelled, folder: Path) -> None:
    """Import logits; ``FerError`` unless they are those of the imported checkpoints."""
    job = part.job
    meta = read_json(folder / META_FILE)
    main_teacher = Teacher.load(job.input("teacher", job.partition).folder)
    folds = [
        Teacher.load(artifact.folder)
        for label, artifact in job.inputs.items()
        if label.startswith("teacher_fold[")
    ]
    labellers = [meta["checkpoint_sha256"], *(fold["checkpoint_sha256"] for fold in meta["folds"])]
    checkpoints = [teacher.checkpoint_sha256 for teacher in (main_teacher, *folds)]
    if labellers != checkpoints:
        raise FerError(
            f"the logits come from the checkpoints {labellers}, but the profile has {checkpoints}",
            code="checkpoint-mismatch",
            where=folder,
            fix="adopt the teachers of the same packed job first",
        )
    train, others = faces_to_label(job, part.preprocess, part.folds)
    taught = read_taught(folder)
    if taught.centre.sample_ids != (*train.sample_ids, *others.sample_ids):
        raise FerError(
            "the logits belong to other faces",
            code="different-rows",
            where=folder,
            fix="pack and run again",
        )
    again = predict(
        main_teacher.network, replace(others, images=others.images[:AGAIN], y=others.y[:AGAIN])
    )
    away = float(np.abs(taught.centre.values[len(train) :][:AGAIN] - again).max())
    if not away <= FAR:
        raise FerError(
            f"the teacher does not give these logits: one differs by {away:.3g}",
            code="prediction-mismatch",
            where=folder,
            allowed=f"at most {FAR}",
            fix="copy the run folder again",
        )
    for name in (CENTRE_FILE, ROWS_FILE, VIEWS_FILE, IN_SAMPLE_FILE):
        if (folder / name).is_file():
            shutil.copyfile(regular(folder / name), run.path(name))
    finish_logits(run, job, meta)


def _check_taught(part: Trained, step: dict[str, Any], folder: Path) -> None:
    """Check that a student's soft labels, made in its own job, follow from the logits here."""
    job, recipe = part.job, part.training
    if not isinstance(recipe.task, Distilling) or SOFTLABELS in step["inputs"]:
        return
    name = soft_file(recipe.soft_labels)
    theirs = read_soft_targets(folder.parent / step_folder(SOFTLABELS) / name)
    frame = read_curated(job, MANIFEST).filter(pl.col("split") == "train")
    ours = read_softlabels(
        job.input(SOFTLABELS), job.input(MANIFEST), frame, part.preprocess, recipe
    )
    same_shape = theirs.logits.shape == ours.logits.shape
    away = float(np.abs(theirs.logits - ours.logits).max()) if same_shape else np.inf
    if not (
        away <= FAR
        and theirs.view_seed == ours.view_seed
        and abs(theirs.kd_temperature / ours.kd_temperature - 1) < 1e-3
    ):
        raise FerError(
            "the student was trained on other soft labels than the profile's: a logit differs by "
            f"{away:.3g}, T {theirs.kd_temperature:.4f} and {ours.kd_temperature:.4f}",
            code="soft-labels-mismatch",
            where=folder,
            fix="adopt teachers and teacher_logits of the same packed job, then: fer materialize "
            '--select "ensemble,softlabels"',
        )


def _check_start(part: Trained, step: dict[str, Any], folder: Path) -> None:
    """Check that a step started from the earlier step's weights that were imported here."""
    job, previous = part.job, part.previous
    facts = read_json(folder / TRAINING_FILE)
    if facts["init"] != "previous" or previous is None or previous in step["inputs"]:
        return
    start = job.input(previous).read_json(TRAINING_FILE)["best_weights_sha256"]
    if facts["init_sha256"] != start:
        raise FerError(
            f"the run started from weights {facts['init_sha256'][:12]}, not from {previous}: "
            f"{start[:12]}",
            code="start-mismatch",
            where=folder,
            fix=f"adopt {previous} of the same packed training first",
        )


#: Rows of val that are predicted again, and how far another machine's logits may lie.
AGAIN, FAR = 256, 0.05


def _check_predictions(job: Job[Any], folder: Path) -> None:
    checkpoint = load_checkpoint(folder / CHECKPOINT_FILE)
    frame = read_curated(job, MANIFEST).filter(pl.col("split") == "val")
    faces = load_faces(frame, job.store.root, checkpoint.preprocess, job.store.root / "cache")
    logits = read_npz(folder / LOGITS_FILE).get("val", np.empty(0))
    if logits.shape != (len(faces), len(CLASSES)):
        raise FerError(
            f"the run has logits of shape {logits.shape} for {len(faces)} val rows",
            code="prediction-mismatch",
            where=folder,
            fix="copy the run folder again",
        )
    some = replace(faces, images=faces.images[:AGAIN], y=faces.y[:AGAIN])
    away = float(np.abs(predict(checkpoint.network(), some) - logits[:AGAIN]).max())
    if not away <= FAR:
        raise FerError(
            f"best.pt does not give the run's own predictions: a logit differs by {away:.3g}",
            code="prediction-mismatch",
            where=folder,
            allowed=f"at most {FAR}",
            fix="copy the run folder again",
        )
    metrics = read_json(folder / "reliabilitymetrics.json")
    raw = classification_metrics(faces.y, logits)
    digest = sha256_file(folder / CHECKPOINT_FILE)
    if (
        metrics["checkpoint_sha256"] != digest
        or abs(metrics["raw"]["macro_f1"] - raw["macro_f1"]) > 1e-6
    ):
        raise FerError(
            "the metrics of the run do not match its predictions and its best.pt",
            code="metrics-mismatch",
            where=folder,
            fix="copy the run folder again",
        )
