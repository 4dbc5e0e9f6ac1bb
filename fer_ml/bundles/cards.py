"""Write bundles: ONNX files with their cards, each compared with torch.

There is one for every student, for each teacher, and for the ensemble as one network of all its
members. The deployed student is one of those exports, with its benchmark on the card.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import polars as pl
import torch

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import regular, sha256_file
from fer_ml.bundles.abstaining import Limits, limits_of
from fer_ml.bundles.bundle import (
    MODEL_FILE,
    PARITY_FILE,
    SESSION_FOLDER,
    Card,
    read_card,
    write_card,
)
from fer_ml.bundles.export import Exporter, Network, fuse_onnx, fused, parity
from fer_ml.bundles.network import read_network
from fer_ml.distillation.logits import read_logits
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.predictions import read_predictions
from fer_ml.packed.packing import load_faces
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import PREDICT_ROWS, predict
from fer_ml.training.views import FaceSet, to_input

PARITY_FACES = 64


@dataclass(frozen=True)
class Origin:
    """The facts on a card about the profile that trained the network.

    ``drawn`` says whether its faces are synthetic. ``titles`` are those of the training sources, in
    the profile's order; ``frames`` are the squares of the detectors' boxes.
    """

    profile: str
    drawn: bool
    titles: tuple[str, ...]
    frames: dict[str, Frame]


def deploy(run: RunFolder, job: Job[Any]) -> None:
    """Write the selected student's bundle: its candidate's bytes, the benchmark on the card."""
    name = job.input("student_selection").read_json("selection.json")["selected"]
    candidates = job.input("candidate_bundles")
    for file in (MODEL_FILE, PARITY_FILE):
        shutil.copyfile(regular(candidates.file(f"{name}/{file}")), run.path(file))
    benchmark = job.input("benchmark").read_json("benchmark.json")["entries"]
    robustness = job.input("robustness").read_json("robustness.json")
    metrics = {**_metrics(benchmark[name]), "robustness": _robustness(robustness, name)}
    card = read_card(candidates.folder / name)
    write_card(run.folder, card.model_copy(update={"metrics": metrics}))
    run.splits.update(candidates.record.splits)
    run.summary.update(
        student=name,
        bytes=run.path(MODEL_FILE).stat().st_size,
        parity=candidates.record.summary[f"{name}_parity"],
        temperature=card.temperature,
        unsure_below=card.unsure_below,
        least_px=card.least_px,
    )


def export_ensemble(run: RunFolder, job: Job[Any], origin: Origin, parity_limit: float) -> None:
    """Export the ensemble as one network: its members' graphs side by side, followed by the fusion.

    ``parity_limit`` is as in ``export_training``.
    """
    ensemble = job.input("ensemble")
    ensemble_facts = ensemble.read_json("ensemble.json")
    keys = [key for key, weight in ensemble_facts["weights"].items() if weight > 0]
    weights = [ensemble_facts["weights"][key] for key in keys]
    temperatures = [ensemble_facts["members"][key]["temperature"] for key in keys]
    bundles = [job.input("teacher_bundle", key) for key in keys]
    model = fuse_onnx(
        [onnx.load_model_from_string(read_network(b.file(MODEL_FILE))) for b in bundles],
        weights,
        ensemble_facts["fusion"],
        temperatures,
    )
    run.path(MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    calib = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "calib")
    logits = read_logits(ensemble.folder).of(calib["sample_id"].to_list())
    cards = [read_card(bundle.folder) for bundle in bundles]
    members = [load_checkpoint(job.input("teacher", key).file(CHECKPOINT_FILE)) for key in keys]
    network = fused(members, weights, ensemble_facts["fusion"], temperatures)
    about = _About(
        name="ensemble",
        architecture=" + ".join(card.architecture for card in cards),
        preprocess=cards[0].preprocess,
        temperature=ensemble_facts["temperature"],
        limits=limits_of(
            calib,
            logits,
            ensemble_facts["temperature"],
            lambda faces: _in_batches(network, faces),
            cards[0].preprocess,
            job.store.root,
            by_logits=ensemble_facts["fusion"] == "logits",
        ),
        checkpoint_sha256=ensemble.sha256,
        metrics={"hq_train_val": ensemble.read_json("ensemble_metrics.json")},
    )
    write_card(run.folder, _card(run, job, ensemble, about, origin))
    _write_parity(run, network, _parity_faces(job, about.preprocess), about, parity_limit)


@dataclass(frozen=True)
class _About:
    """The facts on a card that are not in the network's bytes."""

    name: str
    architecture: str
    preprocess: Preprocess
    temperature: float
    limits: Limits
    checkpoint_sha256: str
    metrics: dict[str, Any]


def export_training(
    run: RunFolder,
    job: Job[Any],
    trained: Artifact,
    metrics: dict[str, Any],
    origin: Origin,
    parity_limit: float,
    exporter: Exporter | None = None,
) -> None:
    """Export the checkpoint of ``trained``, write its card, and compare both on faces.

    ``metrics`` are the card's, by evaluation set. ``parity_limit`` is the largest allowed
    difference of a logit; ``parity.json`` states it. ``exporter`` reuses the trace of networks of
    one structure. ``job`` holds ``hq_train_manifest``. Raises ``FerError`` when its calib rows are
    not those that ``trained`` was calibrated on.
    """
    exporter = exporter or Exporter()
    checkpoint = load_checkpoint(trained.file(CHECKPOINT_FILE))
    exporter.write(checkpoint, run.path(MODEL_FILE))
    temperature = trained.read_json("calibration.json")["global_temperature"]
    table, _, logits = read_predictions(trained.file("predictions_calib.csv"))
    calib = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "calib")
    if table["sample_id"].to_list() != calib["sample_id"].to_list():
        raise FerError(
            f"predictions_calib.csv of {trained.key} does not hold the calib rows of "
            "hq_train_manifest",
            code="predictions-outdated",
            fix=f"materialize {trained.key} again",
        )
    network, recipe = checkpoint.network(), checkpoint.recipe
    about = _About(
        name=trained.key,
        architecture=recipe.architecture
        + (f" at {recipe.network_size} px" if recipe.network_size else "")
        + (", averaged with the mirror image" if recipe.average_flip else ""),
        preprocess=checkpoint.preprocess,
        temperature=temperature,
        limits=limits_of(
            calib,
            logits,
            temperature,
            lambda faces: predict(network, faces),
            checkpoint.preprocess,
            job.store.root,
        ),
        checkpoint_sha256=trained.record.files[CHECKPOINT_FILE].sha256,
        metrics=metrics,
    )
    write_card(run.folder, _card(run, job, trained, about, origin))
    faces = _parity_faces(job, checkpoint.preprocess)
    _write_parity(run, lambda images: network(images).numpy(), faces, about, parity_limit)


def _in_batches(network: Network, faces: FaceSet) -> np.ndarray:
    """Return the logits of a fused network, batch by batch."""
    with torch.inference_mode():
        return np.concatenate(
            [
                network(to_input(np.asarray(faces.images[i : i + PREDICT_ROWS]), faces.preprocess))
                for i in range(0, len(faces), PREDICT_ROWS)
            ]
        )


def _write_parity(
    run: RunFolder, network: Network, faces: FaceSet, about: _About, limit: float
) -> None:
    difference = parity(network, run.folder, faces)
    run.write_json(
        PARITY_FILE,
        {
            "schema_version": 1,
            "faces": len(faces),
            "largest_logit_difference": difference,
            "limit": limit,
            "checkpoint_sha256": about.checkpoint_sha256,
        },
    )
    run.splits.update(abstention_thresholds="calib")
    run.summary.update(
        bytes=run.path(MODEL_FILE).stat().st_size,
        parity=difference,
        temperature=about.temperature,
        unsure_below=about.limits.unsure_below,
        least_px=about.limits.least_px,
    )


def _parity_faces(job: Job[Any], preprocess: Preprocess) -> FaceSet:
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "val")
    return load_faces(
        frame.head(PARITY_FACES), job.store.root, preprocess, job.store.root / "cache"
    )


def _metrics(entries: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "split": entry["split"],
            "n": entry["n"],
            "selection_split": entry["selection_split"],
            "looked_before": entry.get("looked_before"),
            "macro_f1": entry["raw"]["macro_f1"],
            "accuracy": entry["raw"]["accuracy"],
            "per_class_f1": entry["raw"]["per_class_f1"],
            "ece_scaled": entry["temperature_scaled"]["ece"],
            "ece_by_chance": entry["ece_by_chance"],
            "intervals": {
                **_bounds(entry["intervals"]["raw"], "accuracy", "macro_f1", "f1_"),
                **_bounds(entry["intervals"]["temperature_scaled"], "ece"),
            },
        }
        for name, entry in entries.items()
    }


def _robustness(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one model's figures by kind of corruption, and the faces that they are of."""
    about = ("set", "split", "n", "drawn_from", "looked_before")
    kinds = document["entries"][name]["kinds"]
    return {
        **{key: document[key] for key in about},
        "kinds": {
            kind: {key: value for key, value in figures.items() if key != "strengths"}
            | {"temperature_holds": "{} of {}".format(*figures["temperature_holds"])}
            for kind, figures in kinds.items()
        },
    }


def _bounds(intervals: dict[str, dict[str, float]], *names: str) -> dict[str, list[float]]:
    return {
        key: [interval["low"], interval["high"]]
        for key, interval in intervals.items()
        if key.startswith(names)
    }


def _card(
    run: RunFolder, job: Job[Any], made_from: Artifact, about: _About, origin: Origin
) -> Card:
    faces = "Drawn (synthetic) faces" if origin.drawn else "Photographs"
    return Card(
        name=about.name,
        profile=origin.profile,
        architecture=about.architecture,
        classes=CLASSES,
        preprocess=about.preprocess,
        frames=origin.frames,
        temperature=about.temperature,
        unsure_below=about.limits.unsure_below,
        least_px=about.limits.least_px,
        least_log_sum_exp=about.limits.least_log_sum_exp,
        abstention=about.limits.abstention,
        model_sha256=sha256_file(run.path(MODEL_FILE)),
        checkpoint_sha256=about.checkpoint_sha256,
        data=f"{faces}: {'; '.join(origin.titles)}",
        licence="as the training data's; the faces of FER datasets are for research only",
        intended_use=(
            "trying the platform; it has never seen a real face"
            if origin.drawn
            else "research on facial expression recognition with informed consent. Not for "
            "decisions about people, such as hiring, schooling, policing, insurance or health; not "
            "for watching people; not as a measure of what somebody feels"
        ),
        metrics=about.metrics,
        lineage={
            "made_from": made_from.as_input().model_dump(),
            "inputs": [item.model_dump() for item in made_from.record.inputs],
        },
        sessions=sessions_in(read_curated(job, "hq_train_manifest")["orig_image"].to_list()),
    )


def sessions_in(images: Sequence[str]) -> tuple[str, ...]:
    """Return the recorded sessions that training images come from, by a buffer's folder names."""
    matches = (re.search(SESSION_FOLDER, name) for name in images)
    return tuple(sorted({match.group(1) for match in matches if match}))
