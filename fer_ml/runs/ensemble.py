"""The ensemble: the fusion of the teachers, with weights chosen on the calib split alone."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.distillation.fusion import (
    NAMED_WEIGHTS,
    Fusion,
    WeightSearch,
    fuse,
    named_weights,
    weight_intervals,
)
from fer_ml.distillation.logits import META_FILE, Logits, read_taught, write_logits
from fer_ml.distillation.teaching import choose_weights
from fer_ml.figures.charts import weight_search_chart
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.calibration import nll
from fer_ml.metrics.classification import classification_metrics
from fer_ml.runs.logits import TRAINED_ON, labels_of
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder


def given_weights(
    weights: tuple[float, ...] | str | None, keys: Sequence[str]
) -> tuple[float, ...] | None:
    """Return a profile's weights, one for each teacher in ``keys``; ``None`` means a search."""
    return named_weights(weights, keys) if isinstance(weights, str) else weights


def fuse_teachers(
    run: RunFolder,
    job: Job[Any],
    keys: Sequence[str],
    fusion: Fusion,
    weights: tuple[float, ...] | str | None,
    step: float,
) -> None:
    """Write the run directory of the ensemble: choose weights, fuse all faces, measure on val.

    ``keys`` are the teachers, whose logits are inputs of ``job``. ``weights`` are as for
    ``given_weights``; they are chosen on calib. ``step`` is the step of the search's grid.
    """
    artifacts = [job.input("teacher_logits", key) for key in keys]
    meta = [artifact.read_json(META_FILE) for artifact in artifacts]
    members = [read_taught(artifact.folder) for artifact in artifacts]
    temperatures = [member.temperature for member in members]
    frame = read_curated(job, "hq_train_manifest")
    calib = frame.filter(pl.col("split") == "calib")
    ids, y = calib["sample_id"].to_list(), labels_of(calib)
    given = given_weights(weights, keys)
    search = choose_weights(members, ids, y, fusion, given, step)
    every = members[0].centre.sample_ids
    values = [member.centre.of(every) for member in members]
    fused = Logits(fuse(values, search.weights, fusion, temperatures), every)
    write_logits(run.folder, fused)
    on_calib = [member.centre.of(ids) for member in members]
    _write_search(run, keys, search)
    calib_nlls = [nll(z, y, t) for z, t in zip(on_calib, temperatures, strict=True)]
    run.write_json(
        "ensemble.json",
        {
            "schema_version": 2,
            "classes": list(CLASSES),
            "fusion": fusion,
            "weights": dict(zip(keys, search.weights, strict=True)),
            "weight_sum": round(sum(search.weights), 12),
            "weights_from": search.method if weights is None else _origin(weights),
            "weight_intervals": _intervals(search, keys, on_calib, y, calib, fusion, temperatures),
            "chosen_on": {"split": "calib", "n": len(y), "nll": search.nll},
            "temperature": search.temperature,
            "members": {
                key: {**entry["teacher"], "temperature": entry["temperature"], "calib_nll": value}
                for key, entry, value in zip(keys, meta, calib_nlls, strict=True)
            },
            "preprocess_sha256": meta[0]["preprocess_sha256"],
            "manifests": {TRAINED_ON: job.input(TRAINED_ON).sha256},
        },
    )
    metrics = _on_val(frame, fused, search.temperature)
    run.write_json("ensemble_metrics.json", {"schema_version": 1, "split": "val", **metrics})
    run.splits.update(weights="calib", temperature="calib")
    run.summary.update(
        rows=len(every),
        val_macro_f1=metrics["macro_f1"],
        val_accuracy=metrics["accuracy"],
        temperature=search.temperature,
        **{f"weight_{key}": weight for key, weight in zip(keys, search.weights, strict=True)},
    )


def _on_val(frame: pl.DataFrame, fused: Logits, temperature: float) -> dict[str, Any]:
    val = frame.filter(pl.col("split") == "val")
    return classification_metrics(labels_of(val), fused.of(val["sample_id"].to_list()), temperature)


def _origin(weights: tuple[float, ...] | str) -> str:
    return weights if isinstance(weights, str) else "recipe"


def _intervals(
    search: WeightSearch,
    keys: Sequence[str],
    on_calib: list[np.ndarray],
    y: np.ndarray,
    calib: pl.DataFrame,
    fusion: Fusion,
    temperatures: list[float],
) -> dict[str, dict[str, float]] | None:
    """Return each searched weight's 95% interval, from a bootstrap over the groups of calib."""
    if search.method == "given" or len(keys) == 1:
        return None
    groups = calib["group_id"].to_numpy()
    intervals = weight_intervals(search, on_calib, y, groups, fusion, temperatures)
    return {key: asdict(value) for key, value in zip(keys, intervals, strict=True)}


def _write_search(run: RunFolder, keys: Sequence[str], search: WeightSearch) -> None:
    """Write ``search.csv``, the best candidate first, and a chart of it."""
    table = pl.DataFrame(
        {
            **{key: search.candidates[:, k] for k, key in enumerate(keys)},
            "calib_nll": search.candidate_nll,
            "temperature": search.candidate_temperature,
        }
    )
    table.sort("calib_nll").write_csv(run.path("search.csv"))
    if len(keys) == 3 and search.method != "given":
        marks = {"chosen": search.weights}
        marks |= {
            name: named_weights(name, keys)
            for name, weights in NAMED_WEIGHTS.items()
            if set(weights) == set(keys)
        }
        run.path("search.png").write_bytes(
            weight_search_chart(keys, search.candidates, search.candidate_nll, marks)
        )
