"""Export of the selected student: ONNX, its card, and the proof that both compute the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import torch

from fer_ml.bundle import MODEL_FILE, Card, load_bundle, read_card, write_card
from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import softmax
from fer_ml.evaluation.predictions import read_predictions
from fer_ml.files import sha256_file
from fer_ml.gates import Outcome, at_most, same
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import read_curated
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from fer_ml.training.faces import FaceSet, to_input
from fer_ml.training.packing import load_faces

OPSET = 18
PARITY_FACES = 64
PARITY_LIMIT = 1e-3
RISK = 0.2


def export_onnx(checkpoint: Checkpoint, path: Path) -> None:
    """Write the network as one ONNX file, dynamic in the batch, without traces of this machine."""
    size = checkpoint.preprocess.size
    program = torch.onnx.export(
        checkpoint.network(),
        (torch.zeros(2, 3, size, size),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise FerError("torch.onnx.export gave no program")
    model = program.model_proto
    # The exporter notes source paths and stack traces at every node.
    model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def parity(checkpoint: Checkpoint, folder: Path, faces: FaceSet) -> float:
    """Largest absolute difference of a logit between torch and ONNX Runtime on ``faces``."""
    bundle = load_bundle(folder)
    images = np.asarray(faces.images)
    with torch.inference_mode():
        ours = checkpoint.network()(to_input(images, faces.preprocess)).numpy()
    return float(np.abs(ours - bundle.logits(images)).max())


def unsure_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The lowest confidence at which the answers at or above it are wrong at most ``risk`` often.

    ``confidence [N]`` in 0..1, ``correct [N] bool``. Without such a level the threshold is 1: the
    student is never sure enough.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    sorted_confidence = confidence[order]
    # A threshold can only stand where the confidence changes: ties are answered together.
    last_of_tie = np.append(sorted_confidence[:-1] > sorted_confidence[1:], True)
    allowed = np.flatnonzero(last_of_tie & (wrong <= risk))
    return float(sorted_confidence[allowed[-1]]) if len(allowed) else 1.0


def build_bundle(run: RunFolder, job: Job) -> None:
    """``model.onnx`` and ``card.json`` of the selected student, with a parity report."""
    selection = job.input("student_selection").read_json("selection.json")
    student = job.input(selection["selected"])
    checkpoint = load_checkpoint(student.file(CHECKPOINT_FILE))
    export_onnx(checkpoint, run.path(MODEL_FILE))
    temperature = student.read_json("calibration.json")["global_temperature"]
    _, y, logits = read_predictions(student.file("predictions_calib.csv"))
    probs = softmax(logits, temperature)
    threshold = unsure_threshold(probs.max(axis=1), probs.argmax(axis=1) == y, RISK)
    benchmark = job.input("benchmark").read_json("benchmark.json")["entries"]
    write_card(run.folder, _card(job, student, checkpoint, run, temperature, threshold, benchmark))
    faces = _parity_faces(job, checkpoint)
    difference = parity(checkpoint, run.folder, faces)
    run.write_json(
        "parity.json",
        {
            "schema_version": 1,
            "faces": len(faces),
            "largest_logit_difference": difference,
            "limit": PARITY_LIMIT,
            "checkpoint_sha256": student.record.files[CHECKPOINT_FILE].sha256,
        },
    )
    run.splits.update(unsure_threshold="calib")
    run.summary.update(
        student=selection["selected"],
        bytes=run.path(MODEL_FILE).stat().st_size,
        parity=difference,
        temperature=temperature,
        unsure_below=threshold,
    )


def _parity_faces(job: Job, checkpoint: Checkpoint) -> FaceSet:
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "val")
    return load_faces(
        frame.head(PARITY_FACES), job.store.root, checkpoint.preprocess, job.store.root / "cache"
    )


def _card(
    job: Job,
    student: Artifact,
    checkpoint: Checkpoint,
    run: RunFolder,
    temperature: float,
    threshold: float,
    benchmark: dict[str, Any],
) -> Card:
    drawn = job.profile.drawn
    sources = ", ".join(job.profile.hq_train.sources)
    own = benchmark[student.record.asset]
    return Card(
        name=student.record.asset,
        profile=job.profile.name,
        architecture=checkpoint.recipe.architecture,
        classes=CLASSES,
        preprocess=checkpoint.preprocess,
        temperature=temperature,
        unsure_below=threshold,
        model_sha256=sha256_file(run.path(MODEL_FILE)),
        checkpoint_sha256=student.record.files[CHECKPOINT_FILE].sha256,
        data=f"{'Drawn (synthetic) faces' if drawn else 'Photographs'}: {sources}",
        licence="as the training data's; the faces of FER datasets are for research only",
        intended_use=(
            "trying the platform; it has never seen a real face"
            if drawn
            else "research on facial expression recognition with informed consent; never for "
            "decisions about people"
        ),
        metrics={
            name: {
                "split": entry["split"],
                "n": entry["n"],
                "selection_split": entry["selection_split"],
                "macro_f1": entry["raw"]["macro_f1"],
                "accuracy": entry["raw"]["accuracy"],
                "per_class_f1": entry["raw"]["per_class_f1"],
                "ece_scaled": entry["temperature_scaled"]["ece"],
            }
            for name, entry in own.items()
        },
        lineage={
            "student": student.as_input().model_dump(),
            "inputs": [item.model_dump() for item in student.record.inputs],
        },
    )


def gate_bundle(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the bundle, by the bytes that would be deployed."""
    card = read_card(artifact.folder)
    held = artifact.read_json("parity.json")
    inputs = {item.asset: item for item in artifact.record.inputs}
    selected = "no such selection"
    chosen = inputs["student_selection"]
    selection = store.find(chosen.asset, None, chosen.sha256)
    if selection is not None:
        name = selection.read_json("selection.json")["selected"]
        student = store.find(name, None, inputs[name].sha256)
        if student is not None:
            selected = student.record.files[CHECKPOINT_FILE].sha256
    return [
        at_most(
            "torch_equals_onnx",
            held["largest_logit_difference"],
            PARITY_LIMIT,
            f"on {held['faces']} faces",
        ),
        same("card_matches", card.model_sha256, artifact.record.files[MODEL_FILE].sha256),
        same("class_order", list(card.classes), list(CLASSES)),
        same("is_selected", card.checkpoint_sha256, selected),
    ]
