"""The ensemble: how teachers are fused, with weights chosen on calib and nowhere else."""

import io

import polars as pl

from fer_ml.distillation.fusion import fuse, search_weights
from fer_ml.distillation.teacher_logits import (
    NEEDED,
    Logits,
    labels_of,
    read_logits,
    write_logits,
)
from fer_ml.evaluation.calibration import fit_temperature, nll
from fer_ml.evaluation.metrics import classification_metrics
from fer_ml.gates import Outcome, same
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import read_curated
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store


def build_ensemble(run: RunFolder, job: Job) -> None:
    """Choose the weights on calib, fuse every face, measure on val."""
    recipe = job.profile.ensemble
    keys = list(job.profile.teachers)
    members = [job.input("teacher_logits", key) for key in keys]
    meta = [member.read_json("logits.json") for member in members]
    logits = [read_logits(member) for member in members]
    temperatures = [entry["temperature"] for entry in meta]
    frame = read_curated(job, "hq_train_manifest")
    calib = frame.filter(pl.col("split") == "calib")
    on_calib = [values.of(calib["sample_id"].to_list()) for values in logits]
    y = labels_of(calib)
    if recipe.weights:
        weights, method = recipe.weights, "recipe"
        given = fuse(on_calib, weights, recipe.fusion, temperatures)
        temperature = fit_temperature(given, y)
        calib_nll = nll(given, y, temperature)
        table = [(weights, calib_nll, temperature)]
    else:
        search = search_weights(on_calib, y, recipe.fusion, temperatures, recipe.step)
        weights, method = search.weights, search.method
        temperature, calib_nll = search.temperature, search.nll
        table = [
            (tuple(candidate), float(loss), float(t))
            for candidate, loss, t in zip(
                search.candidates, search.candidate_nll, search.candidate_temperature, strict=True
            )
        ]
    every = logits[0].sample_ids
    fused = fuse([values.of(every) for values in logits], weights, recipe.fusion, temperatures)
    write_logits(run, Logits(fused, every))
    _write_search(run, keys, table)
    own = [nll(z, y, t) for z, t in zip(on_calib, temperatures, strict=True)]
    run.write_json(
        "ensemble.json",
        {
            "schema_version": 1,
            "classes": list(CLASSES),
            "fusion": recipe.fusion,
            "weights": dict(zip(keys, weights, strict=True)),
            "weight_sum": round(sum(weights), 12),
            "weights_from": method,
            "chosen_on": {"split": "calib", "n": len(y), "nll": calib_nll},
            "temperature": temperature,
            "members": {
                key: {**entry["teacher"], "temperature": entry["temperature"], "calib_nll": value}
                for key, entry, value in zip(keys, meta, own, strict=True)
            },
            "preprocess_sha256": meta[0]["preprocess_sha256"],
            "manifests": {asset: job.input(asset).sha256 for asset in NEEDED[:1]},
        },
    )
    val = frame.filter(pl.col("split") == "val")
    val_logits = Logits(fused, every).of(val["sample_id"].to_list())
    found = classification_metrics(labels_of(val), val_logits, temperature)
    run.write_json("ensemble_metrics.json", {"schema_version": 1, "split": "val", **found})
    run.splits.update(weights="calib", temperature="calib")
    run.summary.update(
        rows=len(every),
        val_macro_f1=found["macro_f1"],
        val_accuracy=found["accuracy"],
        temperature=temperature,
        **{f"weight_{key}": weight for key, weight in zip(keys, weights, strict=True)},
    )


def _write_search(
    run: RunFolder, keys: list[str], table: list[tuple[tuple[float, ...], float, float]]
) -> None:
    buffer = io.BytesIO()
    pl.DataFrame(
        [
            {**dict(zip(keys, weights, strict=True)), "calib_nll": loss, "temperature": t}
            for weights, loss, t in table
        ]
    ).sort("calib_nll").write_csv(buffer)
    run.path("search.csv").write_bytes(buffer.getvalue())


def gate_ensemble(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the fusion."""
    held = artifact.read_json("ensemble.json")
    weights = list(held["weights"].values())
    best = min(member["calib_nll"] for member in held["members"].values())
    total = sum(weights)
    return [
        Outcome(
            "weights_sum_to_one",
            abs(total - 1) < 1e-9 and all(0 <= w <= 1 for w in weights),
            total,
            1.0,
            str(held["weights"]),
        ),
        same(
            "chosen_on_calib",
            sorted({held["chosen_on"]["split"], *artifact.record.splits.values()}),
            ["calib"],
        ),
        same("class_order", held["classes"], list(CLASSES)),
        Outcome(
            "not_below_best_member",
            held["chosen_on"]["nll"] <= best + 1e-6,
            held["chosen_on"]["nll"],
            best,
            "NLL in nats on calib",
        ),
    ]
