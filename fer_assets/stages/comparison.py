"""A fair comparison: methods at one budget, over the same seeds, on one evaluation set."""

import itertools
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import polars as pl

from fer_assets.stages.benchmark import evaluation_set
from fer_assets.stages.job import Job
from fer_assets.stages.measured_models import Model, student_model
from fer_assets.stages.teacher_logits import labels_of
from fer_ml.figures.charts import figures_chart
from fer_ml.manifests.curation import manifest_file
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.comparability import caption, require_one_table
from fer_ml.metrics.predictions import read_predictions, write_predictions
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
from fer_ml.recipes.profiles import Comparison, Profile
from fer_ml.recipes.training import Training
from fer_ml.storage.gates import Outcome, same
from fer_ml.storage.store import Artifact, Record, RunFolder, Store

METRICS = ("macro_f1", "accuracy", "nll", "ece")


def build_comparison(run: RunFolder, job: Job) -> None:
    """Predictions of every experiment, and each arm against the baseline and the arm before."""
    comparison = job.profile.comparisons[job.asset.removeprefix("comparison/")]
    part = evaluation_set(job, comparison.evaluation, comparison.rows)
    y, groups = labels_of(part.frame), part.frame["group_id"].to_numpy()
    names = [name for arm in comparison.arms.values() for name in arm]
    models = {
        name: student_model(job, "student_experiment", name)
        if name in job.profile.experiments
        else student_model(job, name)
        for name in names
    }
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
            name: _experiment(job, model, resampled, place)
            for place, (name, model) in enumerate(models.items())
        },
        "arms": _arms(job.profile, comparison, resampled, arms),
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


def _experiment(job: Job, model: Model, resampled: Resampled, place: int) -> dict[str, Any]:
    training = job.profile.student(model.name)
    return {
        "sha256": model.artifact.sha256,
        "checkpoint_sha256": model.checkpoint_sha256,
        "seed": job.profile.seed if training.seed is None else training.seed,
        "temperature": model.temperature,
        **{metric: float(resampled.value[metric][place]) for metric in METRICS},
    }


def _arms(
    profile: Profile, comparison: Comparison, runs: Resampled, arms: Resampled
) -> dict[str, dict[str, Any]]:
    """Each arm: what it is, and mean, spread over seeds and interval of each metric.

    ``spread`` is the standard deviation of its runs, null of one; the interval resamples groups
    and runs.
    """
    baseline = profile.student(comparison.arms[comparison.baseline][0])
    found = {}
    for place, (arm, names) in enumerate(comparison.arms.items()):
        own = slice(place * len(names), (place + 1) * len(names))
        found[arm] = {
            "experiments": list(names),
            "differs": differing(baseline, profile.student(names[0])),
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


def gate_comparison(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge a comparison by what was really trained and really measured."""
    held = artifact.read_json("comparison.json")
    inputs = {item.key: item for item in artifact.record.inputs}
    trained = {}
    for name in held["experiments"]:
        item = inputs.get(f"student_experiment[{name}]") or inputs[name]
        made = store.find(item.asset, item.partition, item.sha256)
        trained[name] = made.record if made else None
    unequal = [*_unequal(held, trained), *_other_data(trained)]
    rows = _rows(held, inputs[held["manifest"]].sha256, store)
    counted = [
        read_predictions(artifact.file(f"predictions/{name}.csv"))[0].height
        for name in held["experiments"]
    ]
    figures = [
        value
        for gaps in (*held["against_baseline"].values(), *held["arms"].values())
        for metric in METRICS
        for value in gaps[metric].values()
        if value is not None
    ]
    bad = int((~np.isfinite(figures)).sum())
    return [
        Outcome("arms_equal_as_declared", not unequal, len(unequal), 0, "; ".join(unequal[:3])),
        same("every_row_scored", sorted({*counted, held["n"]}), [rows]),
        Outcome("intervals_finite", bad == 0, bad, 0),
    ]


def _other_data(trained: dict[str, Record | None]) -> list[str]:
    """Trainings that were made from other bytes of an asset than one before them."""
    seen: dict[str, str] = {}
    return [
        f"{name}: made from another {item.key}"
        for name, record in trained.items()
        for item in (record.inputs if record else ())
        if seen.setdefault(item.key, item.sha256) != item.sha256
    ]


def _unequal(held: dict[str, Any], records: dict[str, Record | None]) -> list[str]:
    """What differs between the trainings' own records, beyond seed, task and what may vary."""
    free = {"seed", "task", *held["varies"]}
    found = [f"{name}: its training is no longer here" for name, r in records.items() if r is None]
    trained = {
        name: record.recipe["training"] if record else {} for name, record in records.items()
    }
    first = next(iter(trained.values()))
    for name, recipe in trained.items():
        keys = (first.keys() | recipe.keys()) - free
        found += [f"{name}.{key}" for key in sorted(keys) if first.get(key) != recipe.get(key)]
    for arm, own in held["arms"].items():
        within = [{**trained[name], "seed": None} for name in own["experiments"]]
        found += [f"{arm}: its runs differ in more than the seed"] * any(
            recipe != within[0] for recipe in within
        )
        seeds = [held["experiments"][name]["seed"] for name in own["experiments"]]
        found += [f"{arm}: the same seed twice"] * (len(set(seeds)) != len(seeds))
    return found


def _rows(held: dict[str, Any], sha256: str, store: Store) -> int:
    """Rows that the evaluation set has, counted again."""
    manifest = store.find(held["manifest"], None, sha256)
    if manifest is None:
        return -1
    frame = read_manifest(manifest.file(manifest_file(held["manifest"])))
    frame = frame.filter(pl.col("split") == held["split"])
    if held["rows"] == "deduplicated":
        frame = frame.filter(pl.col("twin_in").is_null())
    return frame.height
