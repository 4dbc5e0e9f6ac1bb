"""The gates of a training's run directory: was it effective, and is its own record true?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_ml.base.labels import CLASSES
from fer_ml.manifests.curation import manifest_file
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.calibration import T_BOUNDS
from fer_ml.metrics.chance import Chance, guesser_scores
from fer_ml.metrics.class_order import CHANCE, ORDERS, fit_order
from fer_ml.runs.logits import labels_of
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome, at_least, at_most, none_found, not_applicable, same
from fer_ml.storage.store import Store
from fer_ml.training import RUN_FILES
from fer_ml.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from fer_ml.training.models import weights_hash
from fer_ml.training.statistics import GAP_LIMIT, RANGE_LIMIT, InferenceFit


def judge_run(
    artifact: Artifact, store: Store, floor: float, rules: Sequence[str]
) -> list[Outcome]:
    """Judge the run directory of a teacher or student; ``floor`` is the least val macro-F1.

    Returns one outcome for each of ``rules``, the names of gates.
    """
    missing = [name for name in RUN_FILES if name not in artifact.record.files]
    complete = none_found("run_complete", missing)
    if missing:
        return [complete, *(unjudged(rule) for rule in rules if rule != complete.rule)]
    checkpoint = read_checkpoint(artifact.file(CHECKPOINT_FILE))
    training = artifact.read_json("training.json")
    metrics = artifact.read_json("reliabilitymetrics.json")
    calibration = artifact.read_json("calibration.json")
    digest = artifact.record.files[CHECKPOINT_FILE].sha256
    manifest = _manifest_of(artifact, store)
    val_rows, chance = -1, None
    if manifest is not None:
        frame = read_manifest(manifest.file(manifest_file("hq_train_manifest")))
        val = frame.filter(frame["split"] == "val")
        val_rows, chance = val.height, guesser_scores(labels_of(val), val["group_id"].to_numpy())
    bad = sum(
        t.is_floating_point() and not bool(t.isfinite().all()) for t in checkpoint.model.values()
    )
    return [
        complete,
        same("class_order", list(checkpoint.classes), list(CLASSES)),
        Outcome(
            "budget_as_planned",
            training["steps"] > 0 and training["epochs_run"] == training["epochs_planned"],
            f"{training['epochs_run']} epochs, {training['steps']} steps",
            f"{training['epochs_planned']} epochs",
        ),
        Outcome(
            "weights_changed",
            training["initial_weights_sha256"] != weights_hash(checkpoint.model),
            weights_hash(checkpoint.model)[:12],
            f"not {training['initial_weights_sha256'][:12]}",
        ),
        _init(training, artifact.record.recipe["training"]),
        same(
            "metrics_of_best",
            (metrics["checkpoint_sha256"], calibration["checkpoint_sha256"], metrics["n"]),
            (digest, digest, val_rows),
            "(sha256 in reliabilitymetrics.json, in calibration.json, n)",
        ),
        at_most("finite_weights", bad, 0, "tensors with NaN or infinity"),
        Outcome(
            "temperature_in_bounds",
            calibration["inside_bounds"],
            calibration["global_temperature"],
            str(T_BOUNDS),
        ),
        above_floor("above_floor", metrics["raw"]["macro_f1"], floor, chance),
        _above_chance(metrics["raw"]["per_class_f1"], chance),
        _inference_fits(artifact.read_json("history.json"), training["best_epoch"]),
        confidence_informs(metrics["temperature_scaled"]),
    ]


def _init(training: dict[str, Any], recipe: dict[str, Any]) -> Outcome:
    """Judge whether the recorded first weights are those that the recipe asked for."""
    kept = training["init"] == recipe["init"] and bool(training["init_sha256"]) == (
        recipe["init"] != "none"
    )
    pinned = recipe["init_sha256"] in (None, training["init_sha256"])
    return Outcome(
        "init_as_promised",
        kept and pinned,
        f"{training['init']} ({training['init_from']}) {training['init_sha256'][:12]}",
        f"{recipe['init']} {(recipe['init_sha256'] or '')[:12]}".strip(),
    )


def above_floor(rule: str, value: float, floor: float, chance: Chance | None) -> Outcome:
    """Judge whether a macro-F1 is at least the profile's ``floor`` and above chance level.

    A floor of 0 accepts everything. ``chance`` is ``None`` if the evaluated rows are unknown.
    """
    if floor == 0:
        return Outcome(rule, True, value, 0, "the profile asks nothing: floor_macro_f1 is 0")
    if chance is None:
        return Outcome(rule, False, value, "not known", "the rows that it is of are not here")
    passed = value >= floor and value > chance.macro_f1
    detail = f"95 of 100 guessers stay below {chance.macro_f1:.3f} on these rows; floor {floor:g}"
    return Outcome(rule, passed, value, max(floor, chance.macro_f1), detail)


def _above_chance(scores: dict[str, float], chance: Chance | None) -> Outcome:
    """Judge whether each class's F1 is above the 95th percentile of random guessing."""
    rule = "classes_above_chance"
    if chance is None:
        return Outcome(rule, False, len(CLASSES), 0, "its manifest is no longer here")
    poor = [
        f"{name}: F1 {scores[name]:.3f}, chance {limit:.3f}"
        for name, limit in chance.f1.items()
        if scores[name] <= limit
    ]
    return none_found(rule, poor)


def _inference_fits(history: list[dict[str, Any]], best: int) -> Outcome:
    """Judge whether the saved weights answer in inference as they did in training."""
    inference = next((entry.get("inference") for entry in history if entry["epoch"] == best), None)
    limit = f"gap {GAP_LIMIT} nats, range {RANGE_LIMIT:g}"
    if inference is None:
        return Outcome("inference_fits", False, "not measured", limit, "an earlier version's run")
    fit = InferenceFit(**inference)
    value = f"gap {fit.gap:.3f} nats, range {fit.feature_range:.3g}"
    return Outcome("inference_fits", fit.fault is None, value, limit, fit.fault or "")


def confidence_informs(scaled: dict[str, Any]) -> Outcome:
    """Judge whether a model's confidence says more than its accuracy alone.

    ``scaled`` are its metrics at its temperature. Its NLL must be below that of a reference which
    gives each of the model's answers the probability p = (right + 1) / (n + 2), and the other
    classes equal shares of the rest. A few faces with logits of hundreds are enough to fail, which
    accuracy and F1 do not show.
    """
    share, n = scaled["accuracy"], scaled["n"]
    p = (share * n + 1) / (n + 2)
    limit = -share * math.log(p) - (1 - share) * math.log((1 - p) / (len(CLASSES) - 1))
    return Outcome(
        "confidence_informs",
        scaled["nll"] < limit,
        scaled["nll"],
        limit,
        f"NLL against that of {p:.3f} for each answer",
    )


def judge_order(rule: str, y: np.ndarray, logits: np.ndarray) -> Outcome:
    """Judge the order of the output columns: red if another one fits the labels better.

    Only a significant difference counts; see ``metrics.class_order.fit_order``.
    """
    if len(y) == 0:
        return not_applicable(rule, "no labelled face to hold the columns against")
    fit = fit_order(y, logits)
    moved = [
        f"column {number} is taken for {name} and answers like {best_class}"
        for number, (name, best_class) in enumerate(zip(CLASSES, fit.order, strict=True))
        if name != best_class
    ]
    wrong = fit.p < CHANCE
    return Outcome(
        rule,
        not wrong,
        f"accuracy {fit.accuracy:.3f}",
        f"{fit.best:.3f} in the best order",
        f"on {len(y)} labelled faces; p = {fit.p:.2g} against the best of {ORDERS} orders",
        tuple(moved) if wrong else (),
    )


def judge_against_previous(artifact: Artifact) -> Outcome:
    """Judge whether a student's val macro-F1 is below that of the previous student."""
    baseline = artifact.read_json("training.json")["baseline"]
    metrics = artifact.read_json("reliabilitymetrics.json")
    if metrics["manifest_sha256"] != baseline["manifest_sha256"]:
        return Outcome(
            "not_below_previous",
            False,
            "not comparable",
            baseline["manifest_sha256"][:12],
            "the two were measured on different manifests",
        )
    return at_least(
        "not_below_previous",
        metrics["raw"]["macro_f1"],
        baseline["macro_f1"],
        f"val macro-F1 against {baseline['asset']}",
    )


def _manifest_of(artifact: Artifact, store: Store) -> Artifact | None:
    for item in artifact.record.inputs:
        if item.asset == "hq_train_manifest":
            return store.find(item.asset, None, item.sha256)
    return None


def unjudged(rule: str) -> Outcome:
    """Return the red outcome of ``rule`` for a run directory that lacks files."""
    return Outcome(rule, False, "not judged", "complete run folder", "not judged: files missing")
