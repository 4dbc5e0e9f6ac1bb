"""Run directories of teachers and students: training, and the import of its results."""

import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.base.reading import read_json, regular
from fer_ml.figures.charts import confusion_chart, curves_chart, reliability_chart
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.classification import confusion_matrix, reliability_bins, softmax
from fer_ml.metrics.predictions import write_predictions
from fer_ml.packed.format import JOB_FILE, SPLITS
from fer_ml.packed.packing import folds_of
from fer_ml.packed.runner import LOGITS_FILE, TRAINING_FILE, run_job
from fer_ml.runs.parts import MANIFEST, Trained, pack
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE
from fer_ml.training.ranks import Ranks, choose_device

#: What a step leaves that belongs into the run folder as it is.
TAKEN = (
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "classorder.json",
    "environment.json",
    TRAINING_FILE,
)


def train(run: RunFolder, part: Trained) -> None:
    """Train ``part``, and write its run directory.

    A stopped training has left its state in ``unfinished/``; it resumes from there if its inputs
    and recipe are unchanged.
    """
    job = part.job
    work = job.kept(run)
    packed = work / "job"
    if not (packed / JOB_FILE).is_file():
        shutil.rmtree(packed, ignore_errors=True)
        pack([part], packed)
    if job.processes > 1:
        from fer_ml.packed.launch import launch  # The launcher takes a while to import.

        (folder,) = launch(packed, work / "runs", job.device, job.processes)
    else:
        (folder,) = run_job(packed, work / "runs", Ranks(0, 1, choose_device(job.device)))
    take(run, part, folder)


def take(run: RunFolder, part: Trained, folder: Path) -> None:
    """Copy a training's results from ``folder`` to the run directory; add tables and plots.

    ``FerError`` if the training in ``folder`` is not finished.
    """
    job = part.job
    missing = [name for name in (*TAKEN, LOGITS_FILE) if not (folder / name).is_file()]
    if missing:
        raise FerError(
            f"the folder does not hold a finished training: {', '.join(missing)} missing",
            code="unfinished-training",
            where=folder,
            fix="run it to its end: python -m fer_ml.packed FOLDER --out RUNS",
        )
    for stage in sorted(folder.glob("stage_*")):
        for name in TAKEN:
            shutil.copyfile(regular(stage / name), run.path(f"{stage.name}/{name}"))
    for name in TAKEN:
        shutil.copyfile(regular(folder / name), run.path(name))
    facts = read_json(run.path(TRAINING_FILE))
    machine = read_json(run.path("environment.json"))
    facts["baseline"] = _baseline(job.input(part.previous)) if part.previous else None
    run.write_json(TRAINING_FILE, facts)
    manifest = job.input(MANIFEST)
    frame = read_curated(job, MANIFEST)
    rows = {split: frame.filter(pl.col("split") == split) for split in SPLITS}
    if part.fold is not None:
        folds = folds_of(rows["train"]["group_id"], part.folds)
        rows["train"] = rows["train"].filter(pl.Series(folds != part.fold))
    arrays = read_npz(folder / LOGITS_FILE)
    logits = {split: arrays[split] for split in SPLITS[1:]}
    for split, values in logits.items():
        write_predictions(run.path(f"predictions_{split}.csv"), rows[split], values)
    history = read_json(run.path("history.json"))
    run.write_json("alignmentreport.json", _alignment(part, manifest, rows))
    run.path("curves.png").write_bytes(curves_chart(history, facts["best_epoch"]))
    metrics = read_json(run.path("reliabilitymetrics.json"))
    temperature = metrics["temperature_scaled"]["global_temperature"]
    _write_plots(run, job.label, rows["val"], logits["val"], temperature)
    run.splits.update(checkpoint="val", temperature="calib")
    run.summary.update(
        architecture=part.training.architecture,
        rows=rows["train"].height,
        steps=facts["steps"],
        epochs=facts["epochs_run"],
        best_epoch=facts["best_epoch"],
        coverage=facts["coverage"],
        device=facts["device"],
        precision=facts["precision"],
        instruction_set=machine.get("instruction_set"),
        threads=machine["threads"],
        val_accuracy=metrics["raw"]["accuracy"],
        val_macro_f1=metrics["raw"]["macro_f1"],
        val_ece_scaled=metrics["temperature_scaled"]["ece"],
        temperature=temperature,
    )


def _write_plots(
    run: RunFolder, label: str, rows: pl.DataFrame, logits: np.ndarray, temperature: float
) -> None:
    y = np.array([CLASSES.index(name) for name in rows["label"]])
    probs = softmax(logits)
    matrix = confusion_matrix(y, probs.argmax(axis=1), len(CLASSES))
    run.path("confusion.png").write_bytes(confusion_chart(matrix, f"{label}, val, n={len(y)}"))
    run.path("reliability.png").write_bytes(
        reliability_chart(
            reliability_bins(y, probs),
            reliability_bins(y, softmax(logits, temperature)),
            f"{label}, val",
        )
    )


def _baseline(previous: Artifact) -> dict[str, Any]:
    """Return the previous student as the baseline, with its macro-F1 on the same val rows."""
    metrics = previous.read_json("reliabilitymetrics.json")
    return {
        "asset": previous.key,
        "sha256": previous.sha256,
        "split": metrics["split"],
        "manifest_sha256": metrics["manifest_sha256"],
        "macro_f1": metrics["raw"]["macro_f1"],
    }


def _alignment(part: Trained, manifest: Artifact, rows: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """Return ``alignmentreport.json``: the run's inputs, with the keys of the first pipeline."""
    recipe = part.training
    everything = pl.concat(rows.values())
    return {
        "schema_version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "paths": {"manifest": manifest.key, "manifest_sha256": manifest.sha256},
        "seed": part.seed if recipe.seed is None else recipe.seed,
        "model": {
            "name": recipe.architecture,
            "pretrained": recipe.init in ("imagenet", "package"),
            "image_size": recipe.size or part.preprocess.size,
            "network_size": recipe.network_size,
        },
        "data": {
            **{f"{split}_rows": part.height for split, part in rows.items()},
            "class_counts": dict(rows["train"].group_by("label").len().sort("label").iter_rows()),
            "source_counts_after_filter": dict(
                everything.group_by("source").len().sort("source").iter_rows()
            ),
        },
        "protocol": asdict(recipe.task),
        "optim": {
            key: getattr(recipe, key)
            for key in ("optimiser", "lr", "weight_decay", "warmup_epochs", "min_lr", "clip_norm")
        },
        "batching": {
            key: getattr(recipe, key) for key in ("batch_size", "accumulate", "drop_last")
        },
        "aug": {
            "kind": recipe.augment,
            "strength": recipe.strength,
            "clahe_clip": part.preprocess.clahe_clip,
        },
        "calibration": {"mode": "global", "fitted_on": "calib"},
        "init": {"init": recipe.init},
    }
