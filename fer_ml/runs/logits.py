"""Run directories of teachers' logits: each teacher labels every face that is needed later."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.base.npz import read_npy
from fer_ml.distillation.logits import (
    IN_SAMPLE_FILE,
    META_FILE,
    VIEWS_FILE,
    Teacher,
    label_faces,
    read_logits,
)
from fer_ml.manifests.curation import manifest_file, read_curated
from fer_ml.manifests.schema import read_manifest
from fer_ml.packed.packing import folds_of, load_faces
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Views
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome, at_most, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE
from fer_ml.training.ranks import choose_device
from fer_ml.training.views import FaceSet

TRAINED_ON = "hq_train_manifest"


def manifests_in(job: Job[Any]) -> list[str]:
    """Return the names of the inputs that are manifests: for training, and for evaluation."""
    return [asset for asset in job.inputs if asset.endswith("_manifest")]


def faces_needed(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return each distinct face of several manifests once, in order of first appearance."""
    return pl.concat(frames).unique("sample_id", keep="first", maintain_order=True)


def label_all(
    run: RunFolder, job: Job[Any], preprocess: Preprocess, views: Views | None, folds: int
) -> None:
    """Write one teacher's logits on every face; see ``distillation.logits.label_faces``.

    ``folds`` is the number of folds, by group, for out-of-fold labels of the training rows; with 0
    the teacher labels them all.
    """
    teacher = job.input("teacher", job.partition)
    others_of = [other for label, other in job.inputs.items() if label.startswith("teacher_fold[")]
    train, others = faces_to_label(job, preprocess, folds)
    meta = label_faces(
        run.folder,
        Teacher.load(teacher.folder),
        [Teacher.load(fold.folder) for fold in others_of],
        train,
        others,
        views,
        keep=job.kept(run),
        device=choose_device(job.device),
    )
    finish_logits(run, job, meta)


def finish_logits(run: RunFolder, job: Job[Any], meta: dict[str, Any]) -> None:
    """Write ``logits.json``: what the logits were made from."""
    run.write_json(
        META_FILE,
        {
            **meta,
            "teacher": job.input("teacher", job.partition).as_input().model_dump(),
            "manifests": {asset: job.input(asset).sha256 for asset in manifests_in(job)},
        },
    )
    run.summary.update(
        rows=meta["rows"],
        train_rows=meta["train_rows"],
        views=meta["views"]["count"] if meta["views"] else 0,
        folds=len(meta["folds"]),
    )


def other_faces(job: Job[Any]) -> pl.DataFrame:
    """Return each distinct face of the curated manifests that is not a training row."""
    frames = [read_curated(job, asset) for asset in manifests_in(job)]
    return faces_needed([frame.filter(pl.col("split") != "train") for frame in frames])


def faces_to_label(job: Job[Any], preprocess: Preprocess, folds: int) -> tuple[FaceSet, FaceSet]:
    """Return the training rows with their folds, and all other faces that are needed later."""
    rows = read_curated(job, TRAINED_ON).filter(pl.col("split") == "train")
    train, others = (
        load_faces(part, job.store.root, preprocess, job.store.root / "cache")
        for part in (rows, other_faces(job))
    )
    return replace(train, fold=folds_of(rows["group_id"], folds) if folds else None), others


def _checkpoints(artifact: Artifact, store: Store) -> list[str | None]:
    """Return the hashes of the expected checkpoints: the teacher's, then those of its folds."""
    hashes = []
    for item in artifact.record.inputs:
        if item.asset in ("teacher", "teacher_fold"):
            made = store.find(item.asset, item.partition, item.sha256)
            hashes.append(made.record.files[CHECKPOINT_FILE].sha256 if made else None)
    return hashes


def labels_of(frame: pl.DataFrame) -> np.ndarray:
    """Return the class indices ``[N] int64`` of a manifest's rows."""
    return np.array([CLASS_INDEX[label] for label in frame["label"]], dtype=np.int64)


def judge_logits(artifact: Artifact, store: Store) -> list[Outcome]:
    """Return the gates' outcomes for the run directory of one teacher's logits."""
    meta = artifact.read_json(META_FILE)
    logits = read_logits(artifact.folder)
    wanted, gone = set[str](), list[str]()
    for asset, digest in meta["manifests"].items():
        manifest = store.find(asset, None, digest)
        if manifest is None:
            gone.append(asset)
        else:
            rows = read_manifest(manifest.file(manifest_file(asset)))
            if asset != TRAINED_ON:  # Nothing learns from the training rows of an evaluation set.
                rows = rows.filter(pl.col("split") != "train")
            wanted |= set(rows["sample_id"])
    labelled = [VIEWS_FILE] * bool(meta["views"]) + [IN_SAMPLE_FILE] * bool(meta["folds"])
    values = [logits.values, *(read_npy(artifact.file(name)) for name in labelled)]
    lengths = [len(logits.sample_ids), *(meta["train_rows"] for _ in labelled)]
    short = [len(value) for value in values] != lengths
    bad = sum(int((~np.isfinite(value)).sum()) for value in values)
    labellers = [meta["checkpoint_sha256"], *(fold["checkpoint_sha256"] for fold in meta["folds"])]
    return [
        same("answered_by_inputs", labellers, _checkpoints(artifact, store)),
        Outcome(
            "covers_manifests",
            not gone and not short and wanted <= set(logits.sample_ids),
            len(set(logits.sample_ids) & wanted),
            len(wanted),
            f"no longer here: {', '.join(gone)}"
            if gone
            else "an array has another number of rows than faces that it is of" * short,
        ),
        same("class_order", meta["classes"], list(CLASSES)),
        at_most("finite", bad, 0),
    ]
