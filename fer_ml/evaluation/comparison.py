"""A fair comparison: methods at one budget, over the same seeds, on one evaluation set."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import polars as pl

from fer_ml.evaluation.models import Model, student_model
from fer_ml.evaluation.sets import evaluation_set
from fer_ml.figures.charts import figures_chart
from fer_ml.metrics.comparability import caption, require_one_table
from fer_ml.metrics.predictions import write_predictions
from fer_ml.metrics.resampling import (
    LEVEL,
    Difference,
    Interval,
    Resampled,
    group_sums,
    holm,
    resampled_metrics,
)
from fer_ml.metrics.runs import LEAST_RUNS, over_runs
from fer_ml.recipes.profile import Comparison
from fer_ml.recipes.training import Training
from fer_ml.runs.logits import labels_of
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE, face_ids
from fer_ml.storage.record import asset_label
from fer_ml.storage.store import RunFolder

METRICS = ("macro_f1", "accuracy", "nll", "ece")
#: By arm and what it is held against, then by metric.
Differences = dict[tuple[str, str], dict[str, dict[str, Any]]]
#: What is said of one run a side: a difference of these two networks, and nothing of methods.
ONE_RUN = "no verdict: one run a side"


def compare_arms(
    run: RunFolder, job: Job[Any], comparison: Comparison, trainings: Mapping[str, Training]
) -> None:
    """Write the predictions of every training, and compare each arm with baseline and predecessor.

    ``trainings`` maps the names in the arms to their recipes, each with its seed.
    """
    part = evaluation_set(job, comparison.evaluation, comparison.rows)
    y, groups = labels_of(part.frame), part.frame["group_id"].to_numpy()
    faces = face_ids(part.frame["sample_id"])
    run.write_json(SETS_FILE, {part.name: faces})
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
    looked = job.looked_before(part.manifest, faces) if part.split == "test" else None
    about = {**cells[names[0]], "looked_before": looked}
    differences = _differences(comparison, resampled)
    report = {
        "schema_version": 2,
        "name": job.asset.removeprefix("comparison/"),
        "evaluation": comparison.evaluation,
        "manifest": part.manifest,
        **about,
        "caption": caption(part.name, about),
        **_design(comparison, differences),
        "experiments": {
            name: _experiment(trainings[name], model, resampled, place)
            for place, (name, model) in enumerate(models.items())
        },
        "arms": _arms(trainings, comparison, resampled),
        **_shown(comparison, differences),
    }
    run.write_json("comparison.json", report)
    run.write_text("comparison.csv", _table(report).write_csv())
    run.path("comparison.png").write_bytes(_chart(report))
    run.summary.update(
        n=len(y),
        arms=len(comparison.arms),
        runs=len(names),
        **{f"{arm}_macro_f1": entry["macro_f1"]["mean"] for arm, entry in report["arms"].items()},
    )


def _model(job: Job[Any], name: str) -> Model:
    """Return the model of an experiment or a student."""
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
    trainings: Mapping[str, Training], comparison: Comparison, runs: Resampled
) -> dict[str, dict[str, Any]]:
    """Describe each arm, with mean, spread over seeds and interval of each metric.

    ``spread`` is the standard deviation of its runs, the interval is over runs and faces; both are
    null for a single run.
    """
    baseline = trainings[comparison.arms[comparison.baseline][0]]
    figures = {}
    for arm, names in comparison.arms.items():
        places = _places(comparison)[arm]
        bounds = over_runs(runs, places) if len(places) >= LEAST_RUNS else {}
        figures[arm] = {
            "experiments": list(names),
            "differs": differing(baseline, trainings[names[0]]),
            **{
                metric: _figure(runs.value[metric][places], bounds.get(metric))
                for metric in METRICS
            },
        }
    return figures


def _places(comparison: Comparison) -> dict[str, list[int]]:
    """Return the indices of each arm's runs among all runs."""
    count = itertools.count()
    return {arm: [next(count) for _ in names] for arm, names in comparison.arms.items()}


def _figure(runs: np.ndarray, bounds: Interval | None) -> dict[str, float | None]:
    """Return a metric's mean, spread and interval; the interval is cut at 0, the least value."""
    return {
        "mean": float(runs.mean()),
        "spread": float(runs.std(ddof=1)) if bounds else None,
        "low": max(0.0, bounds.low) if bounds else None,
        "high": bounds.high if bounds else None,
    }


def differing(a: Training, b: Training) -> dict[str, Any]:
    """Return the fields of ``b`` that differ from ``a``, except the seed, as JSON values."""
    one, two = asdict(a), asdict(b)
    return {
        field.name: two[field.name]
        for field in fields(Training)
        if field.name != "seed" and one[field.name] != two[field.name]
    }


def _differences(comparison: Comparison, runs: Resampled) -> Differences:
    """Return the difference of each metric with its verdict, by arm and reference arm.

    Each arm is compared with the baseline and with the arm before it. ``p_holm`` is corrected for
    the number of different pairs of them, for each metric on its own.
    """
    arms, places = list(comparison.arms), _places(comparison)
    asked = [(arm, comparison.baseline) for arm in arms if arm != comparison.baseline]
    asked += [(arm, before) for before, arm in itertools.pairwise(arms)]
    pairs = list({frozenset(pair): pair for pair in reversed(asked)})
    differences: Differences = {}
    if len(places[comparison.baseline]) < LEAST_RUNS:
        for arm, other in asked:
            gaps = {m: runs.value[m][places[arm]] - runs.value[m][places[other]] for m in METRICS}
            differences[arm, other] = {
                metric: _one_run(float(gap[0])) for metric, gap in gaps.items()
            }
        return differences
    made = {(arm, other): over_runs(runs, places[arm], places[other]) for arm, other in asked}
    by_pair = {frozenset(pair): gaps for pair, gaps in made.items()}
    for metric in METRICS:
        corrected = dict(zip(pairs, holm([by_pair[p][metric].p_value for p in pairs]), strict=True))
        for pair, gaps in made.items():
            shown = _gap(gaps[metric], corrected[frozenset(pair)])
            differences.setdefault(pair, {})[metric] = shown
    return differences


def _design(comparison: Comparison, differences: Differences) -> dict[str, Any]:
    """Return the pairs of arms that are compared: ``tests`` lists the different ones."""
    return {
        "baseline": comparison.baseline,
        "varies": list(comparison.varies),
        "runs": len(comparison.arms[comparison.baseline]),
        "level": LEVEL,
        "tests": len({frozenset(pair) for pair in differences}),
    }


def _shown(comparison: Comparison, differences: Differences) -> dict[str, Any]:
    """Return the differences to the baseline, and to the arm before."""
    base = comparison.baseline
    return {
        "against_baseline": {arm: differences[arm, base] for arm in comparison.arms if arm != base},
        "steps": [
            {"before": before, "arm": arm, **differences[arm, before]}
            for before, arm in itertools.pairwise(comparison.arms)
        ],
    }


def _gap(difference: Difference, p_holm: float) -> dict[str, Any]:
    verdict = "higher" if difference.value > 0 else "lower"
    return {
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
        "p_holm": p_holm,
        "verdict": verdict if p_holm < 1 - LEVEL else "undecided",
    }


def _one_run(difference: float) -> dict[str, Any]:
    unknown = dict.fromkeys(("low", "high", "p_value", "p_holm"))
    return {"difference": difference, **unknown, "verdict": ONE_RUN}


def _table(report: dict[str, Any]) -> pl.DataFrame:
    """Return ``comparison.csv``: a row for each arm and metric, in the arms' order."""
    before = {step["arm"]: step for step in report["steps"]}
    rows = []
    for arm, figures in report["arms"].items():
        for metric in METRICS:
            row = {"arm": arm, "metric": metric, **figures[metric], "n": report["n"]}
            row |= {
                "runs": len(figures["experiments"]),
                "selection_split": report["selection_split"],
            }
            for name, gaps in (
                ("baseline", report["against_baseline"].get(arm, {})),
                ("previous", before.get(arm, {})),
            ):
                for key in ("difference", "low", "high", "p_value", "p_holm", "verdict"):
                    row[f"to_{name}_{key}"] = gaps[metric][key] if gaps else None
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _chart(report: dict[str, Any]) -> bytes:
    """Draw the means of the arms, and their differences to the baseline, as dots with intervals."""
    means = {
        f"{arm} ({report['runs']} seed{'s' * (report['runs'] > 1)})": _drawn(figures, "mean")
        for arm, figures in report["arms"].items()
    }
    gaps = {
        f"{arm} - {report['baseline']}": _drawn(figures, "difference")
        for arm, figures in report["against_baseline"].items()
    }
    title = f"difference to {report['baseline']}, paired"
    return figures_chart({report["caption"]: means, title: gaps}, METRICS, zero=(title,))


def _drawn(figures: dict[str, Any], key: str) -> dict[str, Interval]:
    """Return figures as dots; one without an interval becomes a dot alone."""
    return {
        metric: Interval(
            *(
                figure[key] if figure[each] is None else figure[each]
                for each in (key, "low", "high")
            )
        )
        for metric, figure in ((metric, figures[metric]) for metric in METRICS)
    }
