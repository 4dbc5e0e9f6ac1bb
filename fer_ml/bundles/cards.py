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

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import regular, sha256_file
from fer_ml.bundles.bundle import (
    MODEL_FILE,
    PARITY_FILE,
    SESSION_FOLDER,
    Card,
    Threshold,
    read_card,
    write_card,
)
from fer_ml.bundles.export import Exporter, Network, fuse_onnx, fused, parity
from fer_ml.bundles.network import read_network
from fer_ml.distillation.logits import read_logits
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.abstention import thresholds
from fer_ml.metrics.classification import softmax
from fer_ml.metrics.predictions import read_predictions
from fer_ml.metrics.resampling import Interval
from fer_ml.packed.packing import load_faces
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.runs.logits import labels_of
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.views import FaceSet

PARITY_FACES = 64
RISK = 0.2


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
    about = _About(
        name="ensemble",
        architecture=" + ".join(card.architecture for card in cards),
        preprocess=cards[0].preprocess,
        temperature=ensemble_facts["temperature"],
        abstention=_abstention(calib, logits, labels_of(calib), ensemble_facts["temperature"]),
        checkpoint_sha256=ensemble.sha256,
        metrics={"hq_train_val": ensemble.read_json("ensemble_metrics.json")},
    )
    write_card(run.folder, _card(run, job, ensemble, about, origin))
    members = [load_checkpoint(job.input("teacher", key).file(CHECKPOINT_FILE)) for key in keys]
    network = fused(members, weights, ensemble_facts["fusion"], temperatures)
    _write_parity(run, network, _parity_faces(job, about.preprocess), about, parity_limit)


@dataclass(frozen=True)
class _About:
    """The facts on a card that are not in the network's bytes."""

    name: str
    architecture: str
    preprocess: Preprocess
    temperature: float
    abstention: tuple[Threshold, ...]
    checkpoint_sha256: str
    metrics: dict[str, Any]

    @property
    def unsure_below(self) -> float:
        """The threshold for ``RISK``; 1 where there is none, so that every answer is unsure."""
        chosen = next(threshold for threshold in self.abstention if threshold.wanted_risk == RISK)
        return 1.0 if chosen.threshold is None else chosen.threshold


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
    table, y, logits = read_predictions(trained.file("predictions_calib.csv"))
    calib = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "calib")
    if table["sample_id"].to_list() != calib["sample_id"].to_list():
        raise FerError(
            f"predictions_calib.csv of {trained.key} does not hold the calib rows of "
            "hq_train_manifest",
            code="predictions-outdated",
            fix=f"materialize {trained.key} again",
        )
    about = _About(
        name=trained.key,
        architecture=checkpoint.recipe.architecture,
        preprocess=checkpoint.preprocess,
        temperature=temperature,
        abstention=_abstention(calib, logits, y, temperature),
        checkpoint_sha256=trained.record.files[CHECKPOINT_FILE].sha256,
        metrics=metrics,
    )
    write_card(run.folder, _card(run, job, trained, about, origin))
    network = checkpoint.network()
    faces = _parity_faces(job, checkpoint.preprocess)
    _write_parity(run, lambda images: network(images).numpy(), faces, about, parity_limit)


def _abstention(
    calib: pl.DataFrame, logits: np.ndarray, y: np.ndarray, temperature: float
) -> tuple[Threshold, ...]:
    """Compute the thresholds of the card from the rows of calib."""
    probs = softmax(logits, temperature)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == y
    by_risk = thresholds(confidence, correct, calib["group_id"].to_numpy())
    return tuple(
        Threshold(
            wanted_risk=risk,
            threshold=abstention.threshold if abstention else None,
            bound=abstention.bound if abstention else None,
            coverage=_interval(abstention.coverage) if abstention else None,
            risk=_interval(abstention.risk) if abstention else None,
        )
        for risk, abstention in by_risk.items()
    )


def _interval(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


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
        unsure_below=about.unsure_below,
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
        unsure_below=about.unsure_below,
        abstention=about.abstention,
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
