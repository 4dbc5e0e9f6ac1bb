"""Run directories of soft labels: their export, their reading with checks, and their gates."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.distillation.logits import Taught, read_taught
from fer_ml.distillation.sharpness import mean_entropy
from fer_ml.distillation.teaching import IN_SAMPLE, RAW, STANDARD, Soft, soften
from fer_ml.manifests.curation import manifest_file, read_curated
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.classification import classification_metrics, log_softmax
from fer_ml.packed.format import soft_file
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Training
from fer_ml.runs.logits import labels_of
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome, at_least, at_most, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from fer_ml.training.views import SoftTargets

TEMPERATURES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def export_softlabels(run: RunFolder, job: Job[Any], target: float, preprocess: Preprocess) -> None:
    """Write ``softlabels.npz`` and its companion files, for the training rows of hq_train.

    ``target`` is the mean entropy, in nats, from which the KD temperature follows.
    """
    ensemble, manifest = job.input("ensemble"), job.input("hq_train_manifest")
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "train")
    fused = ensemble.read_json("ensemble.json")
    members = [read_taught(job.input("teacher_logits", key).folder) for key in fused["members"]]
    weights = [fused["weights"][key] for key in fused["members"]]
    kinds = soften(members, weights, fused["fusion"], target)
    first = members[0]
    place = {sample_id: i for i, sample_id in enumerate(first.train_ids)}
    rows = [place[sample_id] for sample_id in frame["sample_id"]]
    y = labels_of(frame)
    _write_arrays(run, kinds, first, rows, frame, y)
    _write_index(run, frame, y, first.fold[rows])
    run.write_json("classorder.json", list(CLASSES))
    run.write_json("hash_manifest.json", _hashes(ensemble, manifest, fused, members))
    run.write_json(
        "sharpness.json",
        {
            "schema_version": 2,
            "kd_temperature": kinds[STANDARD].kd_temperature,
            "target_entropy": target,
            **_sharpness(kinds[STANDARD]),
            "kinds": {
                kind: {"kd_temperature": soft.kd_temperature, **_sharpness(soft)}
                for kind, soft in kinds.items()
            },
        },
    )
    run.write_json(
        "alignmentreport.json", _alignment(preprocess, manifest, fused, first.meta, len(y))
    )
    standard = kinds[STANDARD].logits[rows]
    metrics = classification_metrics(y, standard[:, 0], fused["temperature"])
    run.write_json(
        "ensemble_metrics.json",
        {
            "schema_version": 2,
            "split": "train",
            "out_of_fold": first.meta["out_of_fold"],
            "view": "first" if first.meta["views"] else "centre",
            **metrics,
        },
    )
    run.summary.update(
        rows=len(y),
        views=standard.shape[1],
        out_of_fold=first.meta["out_of_fold"],
        kd_temperature=kinds[STANDARD].kd_temperature,
        mean_entropy_at_1=mean_entropy(standard, 1.0),
        train_accuracy=metrics["accuracy"],
    )


def _write_arrays(
    run: RunFolder,
    kinds: dict[str, Soft],
    first: Taught,
    rows: list[int],
    frame: pl.DataFrame,
    y: np.ndarray,
) -> None:
    """Write the arrays of each kind of soft labels; ``rows`` are the indices of frame's rows."""
    for kind, soft in kinds.items():
        if kind == IN_SAMPLE and not first.meta["out_of_fold"]:
            continue
        views = first.meta["views"] if kind == STANDARD else None
        np.savez(
            run.path(soft_file(kind)),
            logits=soft.logits[rows].astype(np.float16),
            y=y.astype(np.uint8),
            sample_id=np.array(frame["sample_id"].to_list(), dtype="S32"),
            fold=np.full(len(rows), -1, np.int8) if kind in (IN_SAMPLE, RAW) else first.fold[rows],
            view_seed=np.int64(views["seed"] if views else -1),
        )


def _hashes(
    ensemble: Artifact, manifest: Artifact, fused: dict[str, Any], members: list[Taught]
) -> dict[str, Any]:
    """Return ``hash_manifest.json``: the hashes of everything the soft labels were made from."""
    meta = members[0].meta
    return {
        "schema_version": 2,
        "manifest": manifest_file("hq_train_manifest"),
        "sha256": manifest.record.files[manifest_file("hq_train_manifest")].sha256,
        "manifest_sha256": manifest.sha256,
        "ensemble_sha256": ensemble.sha256,
        "teachers": {
            key: {
                "sha256": fused["members"][key]["sha256"],
                "checkpoint_sha256": member.meta["checkpoint_sha256"],
                "folds": [fold["checkpoint_sha256"] for fold in member.meta["folds"]],
                "temperature": member.temperature,
                "fold_temperatures": [fold["temperature"] for fold in member.meta["folds"]],
            }
            for key, member in zip(fused["members"], members, strict=True)
        },
        "out_of_fold": meta["out_of_fold"],
        "views": meta["views"],
        "preprocess_sha256": fused["preprocess_sha256"],
    }


def _sharpness(soft: Soft) -> dict[str, Any]:
    return {
        "mean_max_probability": float(np.exp(log_softmax(soft.logits[:, 0])).max(axis=1).mean()),
        "by_temperature": [
            {"temperature": t, "mean_entropy": mean_entropy(soft.logits, t)} for t in TEMPERATURES
        ],
    }


def _write_index(run: RunFolder, frame: pl.DataFrame, y: np.ndarray, fold: np.ndarray) -> None:
    """Write ``softlabels_index.jsonl``: one line per row, with its fold, unseen by its teachers."""
    index = io.StringIO()
    for i, (path, source, sample_id) in enumerate(
        frame.select("image_path", "source", "sample_id").iter_rows()
    ):
        line = {
            "i": i,
            "image_path": path,
            "source": source,
            "y": int(y[i]),
            "sample_id": sample_id,
            "fold": int(fold[i]),
        }
        index.write(json.dumps(line, ensure_ascii=False) + "\n")
    run.write_text("softlabels_index.jsonl", index.getvalue())


def _alignment(
    preprocess: Preprocess,
    manifest: Artifact,
    fused: dict[str, Any],
    meta: dict[str, Any],
    rows: int,
) -> dict[str, Any]:
    """Return ``alignmentreport.json``, with the keys of the first pipeline."""
    return {
        "schema_version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": manifest.key,
        "manifest_sha256": manifest.sha256,
        "split": "train",
        "rows": rows,
        "image_size": preprocess.size,
        "use_clahe": preprocess.clahe_clip > 0,
        "clahe_clip": preprocess.clahe_clip,
        "clahe_tile": preprocess.tiles,
        "ensemble": {"weights": fused["weights"], "members": fused["members"]},
        "logits_kind": "fused",
        "ensemble_space": fused["fusion"],
        "note": "each row is labelled by teachers that never saw its group"
        if meta["out_of_fold"]
        else "the teachers were trained on these rows",
    }


def read_softlabels(
    artifact: Artifact,
    manifest: Artifact,
    train: pl.DataFrame,
    preprocess: Preprocess,
    recipe: Training,
) -> SoftTargets:
    """Read the soft labels for exactly these training rows.

    ``FerError`` names both sides of any mismatch in rows, manifest or preprocessing.
    """
    hashes = artifact.read_json("hash_manifest.json")
    _agree("manifest", hashes["manifest_sha256"], manifest.sha256, artifact)
    _agree("preprocessing", hashes["preprocess_sha256"], preprocess.digest(), artifact)
    _agree("class order", artifact.read_json("classorder.json"), list(CLASSES), artifact)
    kind = recipe.soft_labels
    arrays = read_npz(artifact.file(soft_file(kind)))
    logits, y = arrays["logits"].astype(np.float32), arrays["y"].astype(np.int64)
    ids = [value.decode() for value in arrays["sample_id"]]
    seed = int(arrays["view_seed"])
    _agree("rows", len(ids), train.height, artifact)
    wrong = sum(a != b for a, b in zip(ids, train["sample_id"], strict=True))
    _agree("rows out of place", wrong, 0, artifact)
    _agree("labels that differ", int((y != labels_of(train)).sum()), 0, artifact)
    views = hashes["views"] if kind == STANDARD else None
    if views:
        _agree("number of views", logits.shape[1], views["count"], artifact)
        _agree("view seed", seed, views["seed"], artifact)
        for field in ("augment", "strength", "erase"):
            _agree(field, views[field], getattr(recipe, field), artifact)
    temperature = artifact.read_json("sharpness.json")["kinds"][kind]["kd_temperature"]
    return SoftTargets(logits, temperature, seed if views else None)


def _agree(what: str, theirs: object, ours: object, artifact: Artifact) -> None:
    if theirs != ours:
        raise FerError(
            f"soft labels do not fit this training: {what}: soft labels {theirs}, training {ours}",
            code="soft-labels-mismatch",
            where=artifact.folder,
            fix="materialize softlabels again, after the manifest",
        )


def judge_softlabels(artifact: Artifact, store: Store) -> list[Outcome]:
    """Return the gates' outcomes: the export against the manifest and ensemble that it names."""
    hashes = artifact.read_json("hash_manifest.json")
    inputs = {item.asset: item.sha256 for item in artifact.record.inputs}
    manifest = store.find("hq_train_manifest", None, inputs["hq_train_manifest"])
    arrays = read_npz(artifact.file("softlabels.npz"))
    logits, y = arrays["logits"].astype(np.float32), arrays["y"].astype(np.int64)
    ids = [value.decode() for value in arrays["sample_id"]]
    wanted, labels = [], np.empty(0, dtype=np.int64)
    if manifest is not None:
        rows = read_manifest(manifest.file(manifest_file("hq_train_manifest")))
        rows = rows.filter(pl.col("split") == "train")
        wanted, labels = rows["sample_id"].to_list(), labels_of(rows)
    temperature = artifact.read_json("sharpness.json")["kd_temperature"]
    same_rows = len(y) == len(labels)
    return [
        same(
            "aligned_hashes",
            (hashes["manifest_sha256"], hashes["ensemble_sha256"]),
            (inputs["hq_train_manifest"], inputs["ensemble"]),
        ),
        Outcome(
            "covers_train",
            bool(wanted) and ids == wanted and len(logits) == len(ids),
            min(len(ids), len(logits)),
            len(wanted),
        ),
        same("class_order", artifact.read_json("classorder.json"), list(CLASSES)),
        at_most("labels_agree", int((y != labels).sum()) if same_rows else max(len(y), 1), 0),
        at_least(
            "soft_enough", mean_entropy(logits, temperature), 0.5, f"at T = {temperature:.2f}"
        ),
    ]
