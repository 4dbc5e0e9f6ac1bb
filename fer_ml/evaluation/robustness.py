"""Robustness: every model on corrupted copies of test faces, by kind and strength.

The faces are those of the mixed test set without a near twin in training, or as many of them as
the profile says. Each corruption of a face follows from its id, so all models see the same pixels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from fer_ml.bundles.bundle import Card, read_card
from fer_ml.evaluation.models import Model, Network, benchmark_models
from fer_ml.evaluation.sets import MAIN_SET, EvaluationSet, evaluation_set
from fer_ml.figures.charts import strengths_chart
from fer_ml.images.corruptions import SETS, corrupted, small_side
from fer_ml.metrics.classification import calibration_error_by_chance, softmax
from fer_ml.metrics.predictions import write_predictions
from fer_ml.metrics.resampling import group_sums, interval, metrics_of_sums, resample
from fer_ml.packed.packing import drawn_faces, prepared, squares
from fer_ml.recipes.preprocess import Frame
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.runs.logits import labels_of
from fer_ml.storage.job import Job
from fer_ml.storage.looks import face_ids
from fer_ml.storage.store import RunFolder
from fer_ml.training.views import FaceSet

CLEAN, ALL = "clean", "all"
#: The faces as they are, and each kind and strength.
EVERY = ((CLEAN, 0.0), *SETS)
#: Figures with an interval.
BOUNDED = ("accuracy", "macro_f1")
CALIBRATED = ("ece", "ece_scaled", "ece_by_chance", "ece_by_chance_high")
Logits = dict[tuple[str, float], np.ndarray]


def measured_set(job: Job[Any]) -> EvaluationSet:
    """Return the mixed test set without near twins; with them where no other row is left."""
    part = evaluation_set(job, MAIN_SET, "deduplicated")
    return evaluation_set(job, MAIN_SET) if part.frame.is_empty() else part


def measure_robustness(run: RunFolder, job: Job[Any], faces: int, seed: int) -> None:
    """Write every model's predictions and figures on at most ``faces`` faces of each set."""
    part = measured_set(job)
    frame = drawn_faces(part.frame, faces, seed)
    models = list(benchmark_models(job))
    networks = {model.name: model.network() for model in models}
    frames = {network.preprocess.frame for network in networks.values()}
    faces_by_frame = {around: squares(frame, job.store.root, around) for around in frames}
    logits = _predict(networks, faces_by_frame, frame["sample_id"].to_list(), seed)
    for name, of_model in logits.items():
        tables = [_named(frame, kind, strength) for kind, strength in of_model]
        values = np.concatenate(list(of_model.values()))
        write_predictions(run.path(f"predictions/{name}.csv"), pl.concat(tables), values)
    bundles = job.input("candidate_bundles")
    entries = {}
    for model in models:
        name = model.name
        card = read_card(bundles.folder / name) if name in CANDIDATES else None
        held = faces_by_frame[networks[name].preprocess.frame]
        sides = np.array([len(face) for face in held])
        entries[name] = _entry(model, frame, logits[name], card, sides)
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
            "looked_before": job.looked_before(part.manifest, face_ids(frame["sample_id"])),
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
    networks: dict[str, Network],
    cut: dict[Frame, list[np.ndarray]],
    names: list[str],
    seed: int,
) -> dict[str, Logits]:
    """Return ``logits [N, 7]`` by model, kind and strength; all models share each set.

    ``cut`` has the clean faces by the frame that they were cut with, ``names`` their sample ids.
    """
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


def _entry(
    model: Model, frame: pl.DataFrame, logits: Logits, card: Card | None, sides: np.ndarray
) -> dict[str, Any]:
    """Return one model's figures: by kind over its strengths, and at each strength.

    With a ``card``, also what its rule answers; ``sides [N]`` are those of the clean faces in px.
    """
    y, groups = labels_of(frame), frame["group_id"].to_numpy()
    sums = {key: group_sums(y, z, groups, model.temperature) for key, z in logits.items()}
    cells: dict[tuple[str, float], dict[str, Any]] = {}
    for key, z in logits.items():
        value = metrics_of_sums(sums[key].sum(axis=0))
        cells[key] = {name: float(value[name]) for name in BOUNDED}
        cells[key] |= _calibration(y, z, model.temperature)
        cells[key] |= {} if card is None else _answered(card, key, y, z, sides)
    keys: dict[str, list[tuple[str, float]]] = {}
    for key in logits:
        keys.setdefault(key[0], []).append(key)
    pooled = {kind: np.mean([sums[key] for key in keys[kind]], axis=0) for kind in keys}
    # Each kind counts alike, however many strengths it has.
    pooled[ALL] = np.mean([pooled[kind] for kind in keys if kind != CLEAN], axis=0)
    figures: dict[str, dict[str, Any]] = {
        kind: {"n": len(y), **bounded} for kind, bounded in _with_intervals(pooled).items()
    }
    for kind, held in keys.items():
        figures[kind] |= _means([cells[key] for key in held])
        if kind != CLEAN:
            figures[kind]["strengths"] = {f"{key[1]:g}": cells[key] for key in held}
    figures[ALL] |= _means([figures[kind] for kind in keys if kind != CLEAN])
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "temperature": model.temperature,
        "preprocess_sha256": model.preprocess_sha256,
        "kinds": figures,
    }


def _with_intervals(pooled: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return by kind ``BOUNDED`` and the accuracy lost against clean, each with its interval."""
    again = resample(np.stack(list(pooled.values())))
    moved = dict(zip(pooled, map(metrics_of_sums, again), strict=True))
    value = {kind: metrics_of_sums(sums.sum(axis=0)) for kind, sums in pooled.items()}
    figures = {}
    for kind in pooled:
        bounds = {n: interval(float(value[kind][n]), moved[kind][n]) for n in BOUNDED}
        lost = float(value[CLEAN]["accuracy"] - value[kind]["accuracy"])
        bounds["lost"] = interval(lost, moved[CLEAN]["accuracy"] - moved[kind]["accuracy"])
        figures[kind] = {
            name + end: figure
            for name, b in bounds.items()
            for end, figure in (("", b.value), ("_low", b.low), ("_high", b.high))
        }
    return figures


def _means(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over sets of ECE and of what is answered; wrong is of all answers."""
    means = {name: float(np.mean([cell[name] for cell in cells])) for name in CALIBRATED}
    holds, of = np.sum([cell["temperature_holds"] for cell in cells], axis=0)
    figures = {**means, "temperature_holds": [int(holds), int(of)]}
    if "answered" in cells[0]:
        answered = [cell["answered"] for cell in cells]
        wrong = sum(cell["answered"] * (cell["wrong"] or 0.0) for cell in cells)
        figures["answered"] = float(np.mean(answered))
        figures["wrong"] = float(wrong / sum(answered)) if any(answered) else None
    return figures


def _answered(
    card: Card, key: tuple[str, float], y: np.ndarray, logits: np.ndarray, sides: np.ndarray
) -> dict[str, float | None]:
    """Return the share that the card's rule answers, and the share of wrong answers."""
    kind, strength = key
    if kind == "small":
        sides = np.array([small_side(side, strength) for side in sides])
    answered = card.answers(logits, sides)
    wrong = (logits.argmax(axis=1) != y)[answered]
    return {
        "answered": float(answered.mean()),
        "wrong": float(wrong.mean()) if len(wrong) else None,
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
        "temperature_holds": [int(scaled <= chance["high"]), 1],
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
        parts = {None: over} | {float(s): c for s, c in figures.get("strengths", {}).items()}
        for strength, cell in parts.items():
            holds = "{} of {}".format(*cell["temperature_holds"])
            row = {**cell, "n": figures["n"], "temperature_holds": holds}
            yield {"model": model, "kind": kind, "strength": strength, **row}


def _curves(entry: dict[str, Any]) -> dict[str, dict[float, float]]:
    """Return accuracy by kind and strength, the clean faces at strength 0."""
    clean = entry["kinds"][CLEAN]["accuracy"]
    return {
        kind: {0.0: clean}
        | {float(s): cell["accuracy"] for s, cell in figures["strengths"].items()}
        for kind, figures in entry["kinds"].items()
        if "strengths" in figures
    }
