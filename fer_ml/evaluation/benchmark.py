"""The benchmark: every model on every evaluation set, from stored predictions.

Each number states its evaluation set, split and sample count.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.evaluation.models import CHOOSING, Model, benchmark_models, ledger
from fer_ml.evaluation.pairs import pair_rows
from fer_ml.evaluation.sets import (
    DEDUPLICATED,
    GROUPS,
    MAIN_SET,
    ROWS,
    EvaluationSet,
    evaluation_set,
    rows_of,
    set_names,
)
from fer_ml.figures.charts import (
    fairness_chart,
    figures_chart,
    reliability_grid,
    risk_coverage_chart,
)
from fer_ml.metrics.calibration import nll
from fer_ml.metrics.classification import (
    calibration_error_by_chance,
    classification_metrics,
    reliability_bins,
    softmax,
)
from fer_ml.metrics.comparability import caption, split_tables, tables_of
from fer_ml.metrics.groups import Fairness, fairness_table, metrics_by
from fer_ml.metrics.predictions import write_predictions
from fer_ml.metrics.resampling import Interval, group_sums, metric_intervals
from fer_ml.metrics.risk import risk_coverage
from fer_ml.metrics.vector_scaling import fit_vector_scaling
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.runs.logits import labels_of
from fer_ml.sources import ATTRIBUTES
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE, face_ids
from fer_ml.storage.store import RunFolder

#: Metrics of the matrix chart and of ``pairs.csv``.
CHARTED = {"accuracy": "accuracy", "macro-F1": "macro_f1", "ECE, scaled": "ece"}
#: What a temperature, which changes no prediction, leaves as it is.
UNSCALED = ("accuracy", "macro_f1", "balanced_accuracy")
#: Columns of ``benchmark.csv`` by the scaling that they are of.
SUFFIXES = {"raw": "", "temperature_scaled": "_scaled", "vector_scaled": "_vector"}


def measure_models(
    run: RunFolder, job: Job[Any], calibration: Literal["temperature", "vector"]
) -> None:
    """Write all models' predictions and metrics on every set, and the paired differences.

    With ``calibration="vector"`` each model is also measured with a vector scaling.
    """
    sets = [evaluation_set(job, name, rows) for name in set_names(job) for rows in ROWS]
    empty = [part.name for part in sets if part.frame.is_empty()]
    sets = [part for part in sets if not part.frame.is_empty()]
    faces = {part.name: face_ids(part.frame["sample_id"]) for part in sets}
    run.write_json(SETS_FILE, faces)
    models = list(benchmark_models(job))
    calib = rows_of(job, "calib", CHOOSING, "calib")
    logits = _predict(models, [*sets, calib])
    scalings = {
        model.name: _calibrate(run, job, calibration, model, calib, logits[model.name][calib.name])
        for model in models
    }
    measured: dict[str, _Measured] = {}
    same_rows: dict[str, str] = {}
    for part in sets:
        part_logits = {model.name: logits[model.name][part.name] for model in models}
        for name, values in part_logits.items():
            write_predictions(run.path(f"predictions/{name}__{part.name}.csv"), part.frame, values)
        official = measured.get(part.name.removesuffix(DEDUPLICATED))
        if official and official.part.frame.height == part.frame.height:
            measured[part.name] = official.as_rows_of(part)
            same_rows[part.name] = official.part.name
        else:
            measured[part.name] = _measure(job, part, models, part_logits, scalings)
    # What has no twin in training comes first, and what is as published beside it.
    measured = dict(sorted(measured.items(), key=lambda item: _place(item[0], list(measured))))
    entries = _write_tables(run, models, measured, same_rows, empty)
    main = measured.get(MAIN_SET + DEDUPLICATED, measured.get(MAIN_SET))
    if main is not None:
        main_logits = {model.name: logits[model.name][main.part.name] for model in models}
        _write_main_charts(run, models, main, main_logits, scalings)
    best = max(CANDIDATES, key=lambda student: _macro_f1(entries, student))
    run.summary.update(
        models=len(entries),
        predictions=sum(part.frame.height for part in sets) * len(entries),
        **{f"{name}_test_macro_f1": _macro_f1(entries, name) for name in entries},
        best_student=best,
    )


def _write_tables(
    run: RunFolder,
    models: list[Model],
    measured: "dict[str, _Measured]",
    same_rows: dict[str, str],
    empty: list[str],
) -> dict[str, dict[str, Any]]:
    """Write every figure as JSON and csv, and the matrix chart; return cells by model and set."""
    entries = {
        model.name: {name: measurement.cells[model.name] for name, measurement in measured.items()}
        for model in models
    }
    benchmark = {
        "schema_version": 2,
        "entries": entries,
        "tables": {
            name: [asdict(table) for table in split_tables(measurement.cells)]
            for name, measurement in measured.items()
        },
        "same_rows": same_rows,
        "sets_without_rows": empty,
    }
    run.write_json("benchmark.json", benchmark)
    run.write_json("ledger.json", {"schema_version": 1, "models": ledger(models)})
    _write_csv(run, "benchmark.csv", [_row(m, s, e) for m, s, e in _each(entries)])
    _write_csv(run, "slices.csv", [r for m, s, e in _each(entries) for r in _slices(m, s, e)])
    _write_csv(
        run, "pairs.csv", [row for measurement in measured.values() for row in measurement.pairs]
    )
    charted = {
        title: {model: _figures(cell) for model, cell in cells.items()}
        for title, cells in tables_of(benchmark)
    }
    run.path("matrix.png").write_bytes(figures_chart(charted, tuple(CHARTED)))
    return entries


def _predict(models: list[Model], sets: list[EvaluationSet]) -> dict[str, dict[str, np.ndarray]]:
    """Return ``logits [N, 7]`` by model and set; each distinct face is predicted once."""
    every = pl.concat(part.frame for part in sets).unique(
        "sample_id", keep="first", maintain_order=True
    )
    place = {sample: row for row, sample in enumerate(every["sample_id"])}
    rows = {part.name: [place[sample] for sample in part.frame["sample_id"]] for part in sets}
    logits = {}
    for model in models:
        values = model.predict(every)
        logits[model.name] = {name: values[where] for name, where in rows.items()}
    return logits


#: By name, how raw logits become those whose softmax (T = 1) is calibrated.
Scalings = dict[str, Callable[[np.ndarray], np.ndarray]]


def _calibrate(
    run: RunFolder,
    job: Job[Any],
    mode: str,
    model: Model,
    calib: EvaluationSet,
    logits: np.ndarray,
) -> Scalings:
    """Fit one model's scalings on calib, write them with their model and rows, and return them."""
    y = labels_of(calib.frame)
    scalings: Scalings = {
        "raw": lambda values: values,
        "temperature_scaled": lambda values: values.astype(np.float64) / model.temperature,
    }
    calibration: dict[str, Any] = {"mode": mode, "global_temperature": model.temperature}
    if mode == "vector":
        fitted = fit_vector_scaling(logits, y)
        scalings["vector_scaled"] = fitted.apply
        calibration["weights"] = dict(zip(CLASSES, fitted.weights.tolist(), strict=True))
        calibration["bias"] = dict(zip(CLASSES, fitted.bias.tolist(), strict=True))
    run.write_json(
        f"calibration/{model.name}.json",
        {
            "schema_version": 1,
            **calibration,
            "fitted_on": calib.split,
            "n": len(y),
            "nll": {name: nll(scale(logits), y, 1.0) for name, scale in scalings.items()},
            "checkpoint_sha256": model.checkpoint_sha256,
            "manifest_sha256": job.input(calib.manifest).sha256,
        },
    )
    return scalings


@dataclass(frozen=True)
class _Measured:
    """All results of one set: a cell and fairness tables for each model, and all pairs."""

    part: EvaluationSet
    cells: dict[str, dict[str, Any]]
    by: dict[str, dict[str, Fairness]]
    pairs: list[dict[str, Any]]

    def as_rows_of(self, part: EvaluationSet) -> "_Measured":
        """Return the same results for another set name with the same rows."""
        cells = {name: {**cell, "rows": part.rows} for name, cell in self.cells.items()}
        pairs = [{**pair, "set": part.name} for pair in self.pairs]
        return _Measured(part, cells, self.by, pairs)


def _measure(
    job: Job[Any],
    part: EvaluationSet,
    models: list[Model],
    logits: dict[str, np.ndarray],
    scalings: dict[str, Scalings],
) -> _Measured:
    y, groups = labels_of(part.frame), part.frame["group_id"].to_numpy()
    scaled = {
        (model.name, kind): scale(logits[model.name])
        for model in models
        for kind, scale in scalings[model.name].items()
    }
    sums = {key: group_sums(y, values, groups) for key, values in scaled.items()}
    metric_bounds = metric_intervals(np.stack(list(sums.values())))
    intervals = {key: _bounds(bounds) for key, bounds in zip(sums, metric_bounds, strict=True)}
    by = {m.name: _by(part, y, logits[m.name], groups, m.temperature) for m in models}
    cells = {}
    for model in models:
        name, chose = model.name, model.selected_on(part.manifest, part.split)
        cells[name] = {
            "model_sha256": model.artifact.sha256,
            "checkpoint_sha256": model.checkpoint_sha256,
            "manifest": part.manifest,
            "manifest_sha256": job.input(part.manifest).sha256,
            "split": part.split,
            "rows": part.rows,
            "n": len(y),
            "groups": part.frame["group_id"].n_unique(),
            "preprocess_sha256": model.preprocess_sha256,
            "views": "centre",
            "chosen_on": {what: choice.split for what, choice in model.chosen.items()},
            "selection_split": bool(chose),
            "chosen_here": chose,
            "epochs": model.epochs,
            "architecture": model.architecture,
            "temperature": model.temperature,
            **{kind: classification_metrics(y, scaled[name, kind]) for kind in scalings[name]},
            "intervals": {kind: intervals[name, kind] for kind in scalings[name]},
            "ece_by_chance": calibration_error_by_chance(
                softmax(scaled[name, "temperature_scaled"])
            ),
            "by_source": metrics_by(y, logits[name], part.frame["source"].to_list()),
            "by": {column: asdict(table) for column, table in by[name].items()},
        }
    faces = face_ids(part.frame["sample_id"])
    looked = job.looked_before(part.manifest, faces) if part.split == "test" else None
    cells = {name: {**cell, "looked_before": looked} for name, cell in cells.items()}
    scaled_sums = {model.name: sums[model.name, "temperature_scaled"] for model in models}
    return _Measured(part, cells, by, pair_rows(part, y, models, cells, logits, scaled_sums))


def _by(
    part: EvaluationSet, y: np.ndarray, logits: np.ndarray, groups: np.ndarray, temperature: float
) -> dict[str, Fairness]:
    """Return a fairness table for every column that describes a face or its source."""
    known = {name: name for name in ATTRIBUTES if part.frame[name].count()}
    columns = {"source": "source", **GROUPS, **known}
    return {
        name: fairness_table(y, logits, part.frame[column].to_list(), groups, temperature)
        for name, column in columns.items()
    }


def _bounds(intervals: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: {"low": bounds.low, "high": bounds.high} for name, bounds in intervals.items()}


def _each(entries: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(model, name, e) for model, cells in entries.items() for name, e in cells.items()]


def _row(model: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    figures = {}
    for metric in ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "ece"):
        for kind, suffix in SUFFIXES.items():
            if kind not in entry or (kind == "temperature_scaled" and metric in UNSCALED):
                continue
            bounds = entry["intervals"][kind][metric]
            figures[f"{metric}{suffix}"] = entry[kind][metric]
            figures[f"{metric}{suffix}_low"] = bounds["low"]
            figures[f"{metric}{suffix}_high"] = bounds["high"]
    return {
        "model": model,
        "set": name,
        "split": entry["split"],
        "rows": entry["rows"],
        "n": entry["n"],
        "selection_split": entry["selection_split"],
        "chosen_here": ", ".join(entry["chosen_here"]),
        "epochs": entry["epochs"],
        **figures,
        "ece_scaled_by_chance": entry["ece_by_chance"]["mean"],
        "ece_scaled_by_chance_high": entry["ece_by_chance"]["high"],
        "aurc_scaled": entry["temperature_scaled"]["aurc"],
        "temperature": entry["temperature"],
        "manifest_sha256": entry["manifest_sha256"],
        "preprocess_sha256": entry["preprocess_sha256"],
        "views": entry["views"],
    }


def _slices(model: str, name: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``slices.csv``: figures by class, and by value of every column."""
    head = {"model": model, "set": name, "selection_split": entry["selection_split"]}
    rows = [
        {
            **head,
            "by": "class",
            "value": label,
            "n": None,
            "metric": "f1",
            "figure": score,
            **entry["intervals"]["raw"][f"f1_{label}"],
        }
        for label, score in entry["raw"]["per_class_f1"].items()
    ]
    for column, table in entry["by"].items():
        for row in table["rows"]:
            for metric, figure in row["metrics"].items():
                bounds = row["intervals"].get(metric, {"low": None, "high": None})
                rows.append(
                    {
                        **head,
                        "by": column,
                        "value": row["value"],
                        "n": row["n"],
                        "metric": metric,
                        "figure": figure,
                        "low": bounds["low"],
                        "high": bounds["high"],
                    }
                )
    return rows


def _write_csv(run: RunFolder, name: str, rows: list[dict[str, Any]]) -> None:
    run.write_text(name, pl.DataFrame(rows, infer_schema_length=None).write_csv())


def _figures(cell: dict[str, Any]) -> dict[str, Interval]:
    """Return the figures of the matrix chart: accuracy, macro-F1, and the scaled ECE."""
    scaled, bounds = cell["temperature_scaled"], cell["intervals"]["temperature_scaled"]
    return {
        name: Interval(scaled[metric], bounds[metric]["low"], bounds[metric]["high"])
        for name, metric in CHARTED.items()
    }


def _write_main_charts(
    run: RunFolder,
    models: list[Model],
    main: _Measured,
    logits: dict[str, np.ndarray],
    scalings: dict[str, Scalings],
) -> None:
    y = labels_of(main.part.frame)
    title = caption(main.part.name, main.cells[models[0].name])
    bins = {
        name: {
            kind.removesuffix("_scaled"): reliability_bins(y, softmax(scale(logits[name])))
            for kind, scale in model_scalings.items()
        }
        for name, model_scalings in scalings.items()
    }
    run.path("reliability.png").write_bytes(reliability_grid(bins, title))
    curves = {
        model.name: risk_coverage(
            softmax(logits[model.name], model.temperature).max(axis=1),
            logits[model.name].argmax(axis=1) == y,
        )
        for model in models
    }
    run.path("risk_coverage.png").write_bytes(risk_coverage_chart(curves, title))
    for column in next(iter(main.by.values())):
        tables = {name: by_column[column] for name, by_column in main.by.items()}
        run.path(f"by_{column}.png").write_bytes(fairness_chart(tables, column, title))


def _place(name: str, names: list[str]) -> tuple[int, bool]:
    """Return where a set stands: by its manifest, and without twins before as published."""
    return names.index(name.removesuffix(DEDUPLICATED)), not name.endswith(DEDUPLICATED)


def _macro_f1(entries: dict[str, dict[str, Any]], name: str) -> float:
    cells = entries[name]
    return float(cells.get(MAIN_SET + DEDUPLICATED, cells[MAIN_SET])["raw"]["macro_f1"])
