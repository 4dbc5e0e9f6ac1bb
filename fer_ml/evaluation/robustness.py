"""Robustness: every model on corrupted copies of test faces, by kind and strength.

The faces are those of the mixed test set without a near twin in training, or as many of them as
the profile says. Each corruption of a face follows from its id, so all models see the same pixels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from fer_ml.evaluation.models import Model, Network, benchmark_models
from fer_ml.evaluation.sets import MAIN_SET, EvaluationSet, evaluation_set
from fer_ml.figures.charts import strengths_chart
from fer_ml.images.corruptions import SETS, corrupted
from fer_ml.metrics.classification import calibration_error_by_chance, softmax
from fer_ml.metrics.predictions import write_predictions
from fer_ml.metrics.resampling import group_sums, interval, metrics_of_sums, resample
from fer_ml.packed.packing import prepared, squares
from fer_ml.runs.logits import labels_of
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE, face_ids
from fer_ml.storage.store import RunFolder
from fer_ml.training.views import FaceSet, face_keys

CLEAN, ALL = "clean", "all"
#: The faces as they are, and each kind and strength.
EVERY = ((CLEAN, 0.0), *SETS)
#: Figures with an interval.
BOUNDED = ("accuracy", "macro_f1")
Logits = dict[tuple[str, float], np.ndarray]


def drawn_faces(frame: pl.DataFrame, faces: int, seed: int) -> pl.DataFrame:
    """Return at most ``faces`` rows, drawn at random by a hash of ``seed`` and sample id."""
    keys = face_keys(tuple(f"{seed}:{name}" for name in frame["sample_id"]))
    return frame[np.sort(np.argsort(keys, kind="stable")[:faces])]


def measured_set(job: Job[Any]) -> EvaluationSet:
    """Return the mixed test set without near twins; with them where no other row is left."""
    part = evaluation_set(job, MAIN_SET, "deduplicated")
    return evaluation_set(job, MAIN_SET) if part.frame.is_empty() else part


def measure_robustness(run: RunFolder, job: Job[Any], faces: int, seed: int) -> None:
    """Write every model's predictions and figures on at most ``faces`` faces of each set."""
    part = measured_set(job)
    frame = drawn_faces(part.frame, faces, seed)
    ids = face_ids(frame["sample_id"])
    run.write_json(SETS_FILE, {part.name: ids})
    models = list(benchmark_models(job))
    logits = _predict({model.name: model.open() for model in models}, frame, job, seed)
    for name, of_model in logits.items():
        tables = [_named(frame, kind, strength) for kind, strength in of_model]
        values = np.concatenate(list(of_model.values()))
        write_predictions(run.path(f"predictions/{name}.csv"), pl.concat(tables), values)
    entries = {model.name: _entry(model, frame, logits[model.name]) for model in models}
    run.write_json(
        "robustness.json",
        {
            "schema_version": 1,
            "set": part.name,
            "manifest": part.manifest,
            "manifest_sha256": job.input(part.manifest).sha256,
            "split": part.split,
            "rows": part.rows,
            "n": frame.height,
            "most": faces,
            "drawn_from": part.frame.height,
            "seed": seed,
            "looked_before": job.looked_before(ids),
            "entries": entries,
            "accuracy": _by_kind(entries, "accuracy"),
            "macro_f1": _by_kind(entries, "macro_f1"),
        },
    )
    rows = [row for name, entry in entries.items() for row in _rows(name, entry)]
    run.write_text("robustness.csv", pl.DataFrame(rows, infer_schema_length=None).write_csv())
    title = f"{part.name}: {part.split}, n = {frame.height:,} of {part.frame.height:,}"
    curves = {name: _curves(entry) for name, entry in entries.items()}
    run.path("robustness.png").write_bytes(strengths_chart(curves, title))
    run.summary.update(
        faces=frame.height,
        sets=len(EVERY),
        **{f"{name}_accuracy_lost": entry["kinds"][ALL]["lost"] for name, entry in entries.items()},
    )


def _predict(
    networks: dict[str, Network], frame: pl.DataFrame, job: Job[Any], seed: int
) -> dict[str, Logits]:
    """Return ``logits [N, 7]`` by model, kind and strength; all models share each set."""
    frames = {network.preprocess.frame for network in networks.values()}
    cut = {around: squares(frame, job.store.root, around) for around in frames}
    names = frame["sample_id"].to_list()
    logits: dict[str, Logits] = {name: {} for name in networks}
    for kind, strength in EVERY:
        packed: dict[str, FaceSet] = {}
        for name, network in networks.items():
            spec = network.preprocess
            if spec.digest() not in packed:
                faces = cut[spec.frame]
                if kind != CLEAN:
                    pairs = zip(faces, names, strict=True)
                    faces = [corrupted(face, kind, strength, key, seed) for face, key in pairs]
                packed[spec.digest()] = prepared(faces, spec)
            logits[name][kind, strength] = network.predict(packed[spec.digest()])
    return logits


def _named(frame: pl.DataFrame, kind: str, strength: float) -> pl.DataFrame:
    """Return the rows with the set in place of the source: ``blur 0.4``, or ``clean``."""
    name = kind if kind == CLEAN else f"{kind} {strength:g}"
    return frame.with_columns(pl.lit(name).alias("source"))


def _entry(model: Model, frame: pl.DataFrame, logits: Logits) -> dict[str, Any]:
    """Return one model's figures: by kind over its strengths, and at each strength."""
    y, groups = labels_of(frame), frame["group_id"].to_numpy()
    sums = {key: group_sums(y, z, groups, model.temperature) for key, z in logits.items()}
    cells = {
        key: {
            **{name: float(metrics_of_sums(sums[key].sum(axis=0))[name]) for name in BOUNDED},
            **_calibration(y, z, model.temperature),
        }
        for key, z in logits.items()
    }
    kinds = list(dict.fromkeys(kind for kind, _ in logits))
    keys = {kind: [key for key in logits if key[0] == kind] for kind in kinds}
    pooled = {kind: np.mean([sums[key] for key in keys[kind]], axis=0) for kind in kinds}
    # Each kind counts alike, however many strengths it has.
    pooled[ALL] = np.mean([pooled[kind] for kind in kinds if kind != CLEAN], axis=0)
    keys[ALL] = [key for key in logits if key[0] != CLEAN]
    again = dict(zip(pooled, resample(np.stack(list(pooled.values()))), strict=True))
    value = {kind: metrics_of_sums(total.sum(axis=0)) for kind, total in pooled.items()}
    moved = {kind: metrics_of_sums(resampled) for kind, resampled in again.items()}
    figures = {}
    for kind in pooled:
        held = [cells[key] for key in keys[kind]]
        figures[kind] = {"n": len(y)}
        for name in BOUNDED:
            bounds = interval(float(value[kind][name]), moved[kind][name])
            figures[kind] |= {name: bounds.value, f"{name}_low": bounds.low}
            figures[kind][f"{name}_high"] = bounds.high
        lost = float(value[CLEAN]["accuracy"] - value[kind]["accuracy"])
        bounds = interval(lost, moved[CLEAN]["accuracy"] - moved[kind]["accuracy"])
        figures[kind] |= {"lost": lost, "lost_low": bounds.low, "lost_high": bounds.high}
        for name in ("ece", "ece_scaled", "ece_by_chance", "ece_by_chance_high"):
            figures[kind][name] = float(np.mean([cell[name] for cell in held]))
        holds = sum(cell["temperature_holds"] for cell in held)
        figures[kind]["temperature_holds"] = f"{holds} of {len(held)}"
        if kind not in (CLEAN, ALL):
            figures[kind]["strengths"] = {f"{key[1]:g}": cells[key] for key in keys[kind]}
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "temperature": model.temperature,
        "preprocess_sha256": model.preprocess_sha256,
        "kinds": figures,
    }


def _calibration(y: np.ndarray, logits: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the ECE raw and scaled, and whether chance explains the scaled one."""
    raw, scaled = (
        float(metrics_of_sums(group_sums(y, logits, np.zeros(len(y)), t).sum(axis=0))["ece"])
        for t in (1.0, temperature)
    )
    chance = calibration_error_by_chance(softmax(logits, temperature))
    return {
        "ece": raw,
        "ece_scaled": scaled,
        "ece_by_chance": chance["mean"],
        "ece_by_chance_high": chance["high"],
        "temperature_holds": scaled <= chance["high"],
    }


def _by_kind(entries: dict[str, dict[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """Return one figure by kind and model, for a table of all models."""
    kinds = next(iter(entries.values()))["kinds"]
    return {
        kind: {name: entry["kinds"][kind][metric] for name, entry in entries.items()}
        for kind in kinds
    }


def _rows(model: str, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``robustness.csv``: a kind over its strengths, then each strength."""
    for kind, figures in entry["kinds"].items():
        over = {name: value for name, value in figures.items() if name != "strengths"}
        yield {"model": model, "kind": kind, "strength": None, **over}
        for strength, cell in figures.get("strengths", {}).items():
            holds = "1 of 1" if cell["temperature_holds"] else "0 of 1"
            row = {**cell, "n": figures["n"], "temperature_holds": holds}
            yield {"model": model, "kind": kind, "strength": float(strength), **row}


def _curves(entry: dict[str, Any]) -> dict[str, dict[float, float]]:
    """Return accuracy by kind and strength, the clean faces at strength 0."""
    clean = entry["kinds"][CLEAN]["accuracy"]
    return {
        kind: {0.0: clean}
        | {float(s): cell["accuracy"] for s, cell in figures["strengths"].items()}
        for kind, figures in entry["kinds"].items()
        if "strengths" in figures
    }
