"""The bundles: ONNX files with their cards, each compared with torch.

Every student, each teacher, and the ensemble as one network of all its members. The student that is
deployed is one of those exports, with its benchmark on the card.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import polars as pl

from fer_assets.stages.curated_manifest import read_curated
from fer_assets.stages.job import Job
from fer_assets.stages.teacher_logits import labels_of
from fer_ml.base.errors import FerError
from fer_ml.base.files import sha256_file
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import (
    MODEL_FILE,
    SESSION_FOLDER,
    Card,
    Threshold,
    read_card,
    write_card,
)
from fer_ml.bundles.export import Exporter, Network, fuse_onnx, fused, parity
from fer_ml.bundles.network import read_network
from fer_ml.distillation.logits import read_logits
from fer_ml.metrics.abstention import thresholds
from fer_ml.metrics.classification import softmax
from fer_ml.metrics.predictions import read_predictions
from fer_ml.metrics.resampling import Interval
from fer_ml.packed.packing import load_faces
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profiles import CANDIDATES, Profile
from fer_ml.storage.gates import Outcome, at_most, same
from fer_ml.storage.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.views import FaceSet

PARITY_FILE = "parity.json"
PARITY_FACES = 64
PARITY_LIMIT = 1e-3
RISK = 0.2


def build_candidate_bundles(run: RunFolder, job: Job) -> None:
    """Every student as a bundle in a folder of its own, for the demo half of the dual gate."""
    exporter = Exporter()
    for name in CANDIDATES:
        part = RunFolder(run.path(name))
        part.folder.mkdir()
        _export_run(part, job, job.input(name), {}, exporter)
        run.splits.update(part.splits)
        run.summary.update({f"{name}_{key}": value for key, value in part.summary.items()})


def build_bundle(run: RunFolder, job: Job) -> None:
    """The selected student's bundle: its candidate's bytes, with its benchmark on the card."""
    name = job.input("student_selection").read_json("selection.json")["selected"]
    candidates = job.input("candidate_bundles")
    for file in (MODEL_FILE, PARITY_FILE):
        shutil.copyfile(candidates.file(f"{name}/{file}"), run.path(file))
    benchmark = job.input("benchmark").read_json("benchmark.json")["entries"]
    card = read_card(candidates.folder / name)
    write_card(run.folder, card.model_copy(update={"metrics": _metrics(benchmark[name])}))
    run.splits.update(candidates.record.splits)
    run.summary.update(
        student=name,
        bytes=run.path(MODEL_FILE).stat().st_size,
        parity=candidates.record.summary[f"{name}_parity"],
        temperature=card.temperature,
        unsure_below=card.unsure_below,
    )


def build_teacher_bundle(run: RunFolder, job: Job) -> None:
    """``model.onnx`` and ``card.json`` of one teacher, with a parity report."""
    teacher = job.input("teacher", job.partition)
    metrics = {"hq_train_val": teacher.read_json("reliabilitymetrics.json")}
    _export_run(run, job, teacher, metrics, Exporter())


def build_adopted_bundle(run: RunFolder, job: Job) -> None:
    """``model.onnx`` and ``card.json`` of an adopted run, with the figures measured here."""
    adopted = job.input("adopted_model", job.partition)
    metrics = {"hq_train_val": adopted.read_json("reliabilitymetrics.json")}
    _export_run(run, job, adopted, metrics, Exporter())


def build_ensemble_bundle(run: RunFolder, job: Job) -> None:
    """The ensemble as one network: its members' graphs side by side, and the fusion behind them."""
    ensemble = job.input("ensemble")
    held = ensemble.read_json("ensemble.json")
    keys = [key for key, weight in held["weights"].items() if weight > 0]
    weights = [held["weights"][key] for key in keys]
    temperatures = [held["members"][key]["temperature"] for key in keys]
    bundles = [job.input("teacher_bundle", key) for key in keys]
    model = fuse_onnx(
        [onnx.load_model_from_string(read_network(b.file(MODEL_FILE))) for b in bundles],
        weights,
        held["fusion"],
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
        temperature=held["temperature"],
        abstention=_abstention(calib, logits, labels_of(calib), held["temperature"]),
        checkpoint_sha256=ensemble.sha256,
        metrics={"hq_train_val": ensemble.read_json("ensemble_metrics.json")},
    )
    write_card(run.folder, _card(run, job, ensemble, about))
    members = [load_checkpoint(job.input("teacher", key).file(CHECKPOINT_FILE)) for key in keys]
    network = fused(members, weights, held["fusion"], temperatures)
    _write_parity(run, network, _parity_faces(job, about.preprocess), about)


@dataclass(frozen=True)
class _About:
    """What a card says beyond the bytes."""

    name: str
    architecture: str
    preprocess: Preprocess
    temperature: float
    abstention: tuple[Threshold, ...]
    checkpoint_sha256: str
    metrics: dict[str, Any]

    @property
    def unsure_below(self) -> float:
        """The threshold for ``RISK``; 1 where there is none: the model is never sure enough."""
        chosen = next(held for held in self.abstention if held.wanted_risk == RISK)
        return 1.0 if chosen.threshold is None else chosen.threshold


def _export_run(
    run: RunFolder, job: Job, trained: Artifact, metrics: dict[str, Any], exporter: Exporter
) -> None:
    """Export one training's checkpoint, write its card, and compare both on faces."""
    checkpoint = load_checkpoint(trained.file(CHECKPOINT_FILE))
    exporter.write(checkpoint, run.path(MODEL_FILE))
    temperature = trained.read_json("calibration.json")["global_temperature"]
    table, y, logits = read_predictions(trained.file("predictions_calib.csv"))
    calib = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "calib")
    if table["sample_id"].to_list() != calib["sample_id"].to_list():
        raise FerError(
            f"predictions_calib.csv of {trained.key} is of other rows than hq_train_manifest",
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
    write_card(run.folder, _card(run, job, trained, about))
    network = checkpoint.network()
    faces = _parity_faces(job, checkpoint.preprocess)
    _write_parity(run, lambda images: network(images).numpy(), faces, about)


def _abstention(
    calib: pl.DataFrame, logits: np.ndarray, y: np.ndarray, temperature: float
) -> tuple[Threshold, ...]:
    """The thresholds of the card, from the rows of calib."""
    probs = softmax(logits, temperature)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == y
    found = thresholds(confidence, correct, calib["group_id"].to_numpy())
    return tuple(
        Threshold(
            wanted_risk=risk,
            threshold=held.threshold if held else None,
            coverage=_interval(held.coverage) if held else None,
            risk=_interval(held.risk) if held else None,
        )
        for risk, held in found.items()
    )


def _interval(held: Interval) -> tuple[float, float, float]:
    return held.value, held.low, held.high


def _write_parity(
    run: RunFolder,
    network: Network,
    faces: FaceSet,
    about: _About,
) -> None:
    difference = parity(network, run.folder, faces)
    run.write_json(
        PARITY_FILE,
        {
            "schema_version": 1,
            "faces": len(faces),
            "largest_logit_difference": difference,
            "limit": PARITY_LIMIT,
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


def _parity_faces(job: Job, preprocess: Preprocess) -> FaceSet:
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
            "macro_f1": entry["raw"]["macro_f1"],
            "accuracy": entry["raw"]["accuracy"],
            "per_class_f1": entry["raw"]["per_class_f1"],
            "ece_scaled": entry["temperature_scaled"]["ece"],
            "intervals": {
                **_bounds(entry["intervals"]["raw"], "accuracy", "macro_f1", "f1_"),
                **_bounds(entry["intervals"]["temperature_scaled"], "ece"),
            },
        }
        for name, entry in entries.items()
    }


def _bounds(intervals: dict[str, dict[str, float]], *names: str) -> dict[str, list[float]]:
    return {
        key: [held["low"], held["high"]] for key, held in intervals.items() if key.startswith(names)
    }


def _card(run: RunFolder, job: Job, made_from: Artifact, about: _About) -> Card:
    drawn = job.profile.drawn
    trained_on = job.profile.hq_train.sources
    sources = "; ".join(s.title for s in job.profile.sources if s.name in trained_on)
    return Card(
        name=about.name,
        profile=job.profile.name,
        architecture=about.architecture,
        classes=CLASSES,
        preprocess=about.preprocess,
        temperature=about.temperature,
        unsure_below=about.unsure_below,
        abstention=about.abstention,
        model_sha256=sha256_file(run.path(MODEL_FILE)),
        checkpoint_sha256=about.checkpoint_sha256,
        data=f"{'Drawn (synthetic) faces' if drawn else 'Photographs'}: {sources}",
        licence="as the training data's; the faces of FER datasets are for research only",
        intended_use=(
            "trying the platform; it has never seen a real face"
            if drawn
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
    """The recorded sessions that training images come from, by the folder names of a buffer."""
    found = (re.search(SESSION_FOLDER, name) for name in images)
    return tuple(sorted({match.group(1) for match in found if match}))


def gate_candidates(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge every student's bundle; what is deployed is one of them."""
    files, inputs = artifact.record.files, {item.asset: item for item in artifact.record.inputs}
    cards = {name: read_card(artifact.folder / name) for name in CANDIDATES}
    parities = [artifact.read_json(f"{name}/{PARITY_FILE}") for name in CANDIDATES]
    wrong = {
        "card_matches": [
            name
            for name, card in cards.items()
            if card.model_sha256 != files[f"{name}/{MODEL_FILE}"].sha256
        ],
        "class_order": [name for name, card in cards.items() if card.classes != CLASSES],
        "of_their_students": [
            name
            for name, card in cards.items()
            if card.checkpoint_sha256 != _checkpoint(store, name, inputs[name].sha256)
        ],
    }
    return [
        at_most(
            "torch_equals_onnx",
            max(held["largest_logit_difference"] for held in parities),
            PARITY_LIMIT,
            f"on {parities[0]['faces']} faces",
        ),
        *(at_most(rule, len(names), 0, "students", names) for rule, names in wrong.items()),
    ]


def gate_bundle(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the student's bundle, by the bytes that would be deployed."""
    chosen = next(i for i in artifact.record.inputs if i.asset == "student_selection")
    selection = store.find(chosen.asset, None, chosen.sha256)
    selected = None
    if selection is not None:
        held = selection.read_json("selection.json")
        selected = _checkpoint(store, held["selected"], held["sha256"])
    card = read_card(artifact.folder)
    return [
        *gate_network(artifact, store, profile),
        same("is_selected", card.checkpoint_sha256, selected or "no such selection"),
    ]


def _checkpoint(store: Store, student: str, sha256: str) -> str | None:
    """The hash of a student's ``best.pt``; None when the store does not hold that student."""
    found = store.find(student, None, sha256)
    return None if found is None else found.record.files[CHECKPOINT_FILE].sha256


def gate_network(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge any bundle: that it computes what was trained, and says so."""
    card = read_card(artifact.folder)
    held = artifact.read_json(PARITY_FILE)
    return [
        at_most(
            "torch_equals_onnx",
            held["largest_logit_difference"],
            PARITY_LIMIT,
            f"on {held['faces']} faces",
        ),
        same("card_matches", card.model_sha256, artifact.record.files[MODEL_FILE].sha256),
        same("class_order", list(card.classes), list(CLASSES)),
    ]
