"""Every model on every evaluation set, from stored predictions; numbers carry what they are of."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fer_ml.distillation.teacher_logits import labels_of
from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import classification_metrics
from fer_ml.evaluation.predictions import write_predictions
from fer_ml.gates import Outcome
from fer_ml.job import Job
from fer_ml.manifests.curate import read_curated
from fer_ml.profiles import STUDENTS, Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.logits import Logits, read_logits
from fer_ml.training.loop import predict
from fer_ml.training.packing import load_faces

#: Evaluation set, its manifest, the split that is scored.
SETS: tuple[tuple[str, str, str], ...] = (
    ("hq_train_val", "hq_train_manifest", "val"),
    ("test_all_sources", "test_all_sources_manifest", "test"),
    ("eval_only", "eval_only_manifest", "test"),
)


@dataclass(frozen=True)
class Model:
    """A model to be scored: its artifact, its calibrated T, and which splits chose what."""

    name: str
    artifact: Artifact
    temperature: float
    chosen: dict[str, str]


def build_benchmark(run: RunFolder, job: Job) -> None:
    """Predictions of every model on every set, and one matrix of metrics."""
    frames = {
        name: read_curated(job, asset).filter(pl.col("split") == split)
        for name, asset, split in SETS
    }
    every = pl.concat(frames.values()).unique("sample_id", keep="first", maintain_order=True)
    entries: dict[str, dict[str, Any]] = {}
    table = []
    for model in _models(job):
        logits = _logits(job, model, every)
        entries[model.name] = {}
        for name, asset, split in SETS:
            frame = frames[name]
            values = logits.of(frame["sample_id"].to_list())
            write_predictions(run.path(f"predictions/{model.name}__{name}.csv"), frame, values)
            entry = _entry(job, model, frame, values, asset, split)
            entries[model.name][name] = entry
            table.append(_row(model.name, name, entry))
    run.write_json("benchmark.json", {"schema_version": 1, "entries": entries})
    buffer = io.BytesIO()
    pl.DataFrame(table).write_csv(buffer)
    run.path("benchmark.csv").write_bytes(buffer.getvalue())
    best = max(STUDENTS, key=lambda s: _macro_f1(entries, f"student_{s}"))
    run.summary.update(
        models=len(entries),
        predictions=sum(f.height for f in frames.values()) * len(entries),
        **{f"{name}_test_macro_f1": _macro_f1(entries, name) for name in entries},
        best_student=f"student_{best}",
    )


def _macro_f1(entries: dict[str, dict[str, Any]], name: str) -> float:
    return entries[name]["test_all_sources"]["raw"]["macro_f1"]


def _models(job: Job) -> Iterator[Model]:
    for key in job.profile.teachers:
        teacher = job.input("teacher_logits", key)
        yield Model(
            f"teacher_{key}",
            teacher,
            teacher.read_json("logits.json")["temperature"],
            {"checkpoint": "val", "temperature": "calib"},
        )
    ensemble = job.input("ensemble")
    held = ensemble.read_json("ensemble.json")
    yield Model("ensemble", ensemble, held["temperature"], dict(ensemble.record.splits))
    for stage in STUDENTS:
        student = job.input(f"student_{stage}")
        temperature = student.read_json("calibration.json")["global_temperature"]
        yield Model(f"student_{stage}", student, temperature, dict(student.record.splits))


def _logits(job: Job, model: Model, frame: pl.DataFrame) -> Logits:
    if model.name.startswith("student_"):
        checkpoint = load_checkpoint(model.artifact.file(CHECKPOINT_FILE))
        faces = load_faces(frame, job.store.root, checkpoint.preprocess, job.store.root / "cache")
        return Logits(predict(checkpoint.network(), faces), faces.sample_ids)
    return read_logits(model.artifact.folder)


def _entry(
    job: Job, model: Model, frame: pl.DataFrame, logits: np.ndarray, asset: str, split: str
) -> dict[str, Any]:
    """One cell of the matrix, with the key that says what it may be compared with."""
    y = labels_of(frame)
    if len(y) != frame.height:
        raise FerError(f"{model.name}: {len(y)} predictions for {frame.height} rows of {asset}")
    by_source = {}
    for source in sorted(frame["source"].unique()):
        rows = (frame["source"] == source).to_numpy()
        found = classification_metrics(y[rows], logits[rows])
        by_source[source] = {key: found[key] for key in ("n", "accuracy", "macro_f1")}
    return {
        "model_sha256": model.artifact.sha256,
        "manifest": asset,
        "manifest_sha256": job.input(asset).sha256,
        "split": split,
        "n": len(y),
        "preprocess_sha256": job.profile.preprocess.digest(),
        "views": "centre",
        "chosen_on": model.chosen,
        "selection_split": split in model.chosen.values(),
        "temperature": model.temperature,
        "raw": classification_metrics(y, logits),
        "temperature_scaled": classification_metrics(y, logits, model.temperature),
        "by_source": by_source,
    }


def _row(model: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "set": name,
        "split": entry["split"],
        "n": entry["n"],
        "selection_split": entry["selection_split"],
        **{key: entry["raw"][key] for key in ("accuracy", "macro_f1", "nll", "ece")},
        "nll_scaled": entry["temperature_scaled"]["nll"],
        "ece_scaled": entry["temperature_scaled"]["ece"],
        "temperature": entry["temperature"],
        "manifest_sha256": entry["manifest_sha256"],
    }


def gate_benchmark(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the benchmark: nothing lost, students above the floor."""
    entries = artifact.read_json("benchmark.json")["entries"]
    inputs = {item.asset: item for item in artifact.record.inputs}
    lost = []
    for model, sets in entries.items():
        for name, entry in sets.items():
            item = inputs[entry["manifest"]]
            manifest = store.find(item.asset, None, item.sha256)
            rows = manifest.record.summary.get(entry["split"]) if manifest else None
            if rows != entry["n"]:
                lost.append(f"{model} on {name}: {entry['n']} of {rows}")
    worst = min(_macro_f1(entries, f"student_{stage}") for stage in STUDENTS)
    return [
        Outcome("every_row_scored", not lost, len(lost), 0, "; ".join(lost[:3])),
        Outcome(
            "students_above_floor", worst >= profile.floor_macro_f1, worst, profile.floor_macro_f1
        ),
    ]
