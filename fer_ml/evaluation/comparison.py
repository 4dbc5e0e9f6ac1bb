"""A fair comparison: methods at one budget, over the same seeds, on one evaluation set."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import polars as pl

from fer_ml.evaluation.benchmark import evaluation_set
from fer_ml.evaluation.models import Model, student_model
from fer_ml.figures.charts import figures_chart
from fer_ml.metrics.comparability import caption, require_one_table
from fer_ml.metrics.predictions import write_predictions
from fer_ml.metrics.resampling import (
    Difference,
    Interval,
    Resampled,
    average_runs,
    group_sums,
    interval,
    paired_difference,
    resampled_metrics,
)
from fer_ml.recipes.profile import Comparison
from fer_ml.recipes.training import Training
from fer_ml.runs.logits import labels_of
from fer_ml.storage.job import Job
from fer_ml.storage.record import asset_label
from fer_ml.storage.store import RunFolder

METRICS = ("macro_f1", "accuracy", "nll", "ece")


def compare_arms(
    run: RunFolder, job: Job[Any], comparison: Comparison, trainings: Mapping[str, Training]
) -> None:
    """Predictions of every training, and each arm against the baseline and the arm before.

    ``trainings`` are the recipes of all that the arms name, each with its seed.
    """
    part = evaluation_set(job, comparison.evaluation, comparison.rows)
    y, groups = labels_of(part.frame), part.frame["group_id"].to_numpy()
    names = [name for arm in comparison.arms.values() for name in arm]
    models = {name: _model(job, name) for name in names}
    cells = {
        name: {
            "manifest_sha256": job.input(part.manifest).sha256,
            "split": part.split,
            "rows": part.rows,
            "n": len(y),
            "preprocess_sha256": model.preprocess_sha256,
            "views": "centre",
            "selection_split": bool(model.selected_on(part.manifest, part.split)),
        }
        for name, model in models.items()
    }
    require_one_table(cells)
    sums = []
    for name, model in models.items():
        logits = model.predict(part.frame)
        write_predictions(run.path(f"predictions/{name}.csv"), part.frame, logits)
        sums.append(group_sums(y, logits, groups, model.temperature))
    resampled = resampled_metrics(np.stack(sums))
    arms = average_runs(resampled, len(names) // len(comparison.arms), resample_runs=True)
    about = cells[names[0]]
    held: dict[str, Any] = {
        "schema_version": 1,
        "name": job.asset.removeprefix("comparison/"),
        "evaluation": comparison.evaluation,
        "manifest": part.manifest,
        **about,
        "caption": caption(part.name, about),
        "baseline": comparison.baseline,
        "varies": list(comparison.varies),
        "experiments": {
            name: _experiment(trainings[name], model, resampled, place)
            for place, (name, model) in enumerate(models.items())
        },
        "arms": _arms(trainings, comparison, resampled, arms),
        "against_baseline": _against_baseline(comparison, arms),
        "steps": _steps(comparison, arms),
    }
    run.write_json("comparison.json", held)
    run.write_text("comparison.csv", _table(held).write_csv())
    run.path("comparison.png").write_bytes(_chart(held))
    run.summary.update(
        n=len(y),
        arms=len(comparison.arms),
        runs=len(names),
        **{f"{arm}_macro_f1": found["macro_f1"]["mean"] for arm, found in held["arms"].items()},
    )


def _model(job: Job[Any], name: str) -> Model:
    """An experiment's model, or a student's."""
    if asset_label("student_experiment", name) in job.inputs:
        return student_model(job, "student_experiment", name)
    return student_model(job, name)


def _experiment(
    training: Training, model: Model, resampled: Resampled, place: int
) -> dict[str, Any]:
    return {
        "sha256": model.artifact.sha256,
        "checkpoint_sha256": model.checkpoint_sha256,
        "seed": training.seed,
        "temperature": model.temperature,
        **{metric: float(resampled.value[metric][place]) for metric in METRICS},
    }


def _arms(
    trainings: Mapping[str, Training], comparison: Comparison, runs: Resampled, arms: Resampled
) -> dict[str, dict[str, Any]]:
    """Each arm: what it is, and mean, spread over seeds and interval of each metric.

    ``spread`` is the standard deviation of its runs, null of one; the interval resamples groups
    and runs.
    """
    baseline = trainings[comparison.arms[comparison.baseline][0]]
    found = {}
    for place, (arm, names) in enumerate(comparison.arms.items()):
        own = slice(place * len(names), (place + 1) * len(names))
        found[arm] = {
            "experiments": list(names),
            "differs": differing(baseline, trainings[names[0]]),
            **{metric: _figure(arms, metric, place, runs.value[metric][own]) for metric in METRICS},
        }
    return found


def _figure(arms: Resampled, metric: str, place: int, runs: np.ndarray) -> dict[str, float | None]:
    bounds = interval(arms.value[metric][place], arms.again[metric][place])
    spread = float(runs.std(ddof=1)) if len(runs) > 1 else None
    return {"mean": bounds.value, "spread": spread, "low": bounds.low, "high": bounds.high}


def differing(a: Training, b: Training) -> dict[str, Any]:
    """What ``b`` has otherwise than ``a``, but for the seed, as JSON values."""
    one, two = asdict(a), asdict(b)
    return {
        field.name: two[field.name]
        for field in fields(Training)
        if field.name != "seed" and one[field.name] != two[field.name]
    }


def _gaps(found: dict[str, Difference]) -> dict[str, dict[str, float]]:
    return {
        metric: {
            "difference": found[metric].value,
            "low": found[metric].low,
            "high": found[metric].high,
            "p_value": found[metric].p_value,
        }
        for metric in METRICS
    }


def _against_baseline(comparison: Comparison, arms: Resampled) -> dict[str, Any]:
    order = list(comparison.arms)
    base = order.index(comparison.baseline)
    return {
        arm: _gaps(paired_difference(arms, place, base))
        for place, arm in enumerate(order)
        if place != base
    }


def _steps(comparison: Comparison, arms: Resampled) -> list[dict[str, Any]]:
    """Each arm against the one before it: which step paid what."""
    order = list(comparison.arms)
    return [
        {"before": before, "arm": arm, **_gaps(paired_difference(arms, place + 1, place))}
        for place, (before, arm) in enumerate(itertools.pairwise(order))
    ]


def _table(held: dict[str, Any]) -> pl.DataFrame:
    """``comparison.csv``: a row for each arm and metric, in the arms' order."""
    before = {step["arm"]: step for step in held["steps"]}
    rows = []
    for arm, found in held["arms"].items():
        for metric in METRICS:
            row = {"arm": arm, "metric": metric, **found[metric], "n": held["n"]}
            row |= {"runs": len(found["experiments"]), "selection_split": held["selection_split"]}
            for name, gaps in (
                ("baseline", held["against_baseline"].get(arm, {})),
                ("previous", before.get(arm, {})),
            ):
                for key in ("difference", "low", "high", "p_value"):
                    row[f"to_{name}_{key}"] = gaps[metric][key] if gaps else None
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _chart(held: dict[str, Any]) -> bytes:
    """Means of the arms, and their differences to the baseline, as dots with intervals."""
    means = {
        f"{arm} ({len(found['experiments'])} seeds)": {
            metric: Interval(*(found[metric][key] for key in ("mean", "low", "high")))
            for metric in METRICS
        }
        for arm, found in held["arms"].items()
    }
    gaps = {
        f"{arm} - {held['baseline']}": {
            metric: Interval(*(found[metric][key] for key in ("difference", "low", "high")))
            for metric in METRICS
        }
        for arm, found in held["against_baseline"].items()
    }
    title = f"difference to {held['baseline']}, paired"
    return figures_chart({held["caption"]: means, title: gaps}, METRICS, zero=(title,))
