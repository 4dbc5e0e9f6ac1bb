"""Export to bundles: ONNX, its card, and the proof that torch and ONNX compute the same.

Every student, each teacher, and the ensemble as one network of all its members. The student that is
deployed is one of those exports, with its benchmark on the card.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import polars as pl
import torch
from onnx import helper, numpy_helper

from fer_ml.bundle import (
    MODEL_FILE,
    SESSION_FOLDER,
    Card,
    Threshold,
    load_bundle,
    read_card,
    write_card,
)
from fer_ml.distillation.fusion import Fusion, fuse
from fer_ml.distillation.teacher_logits import labels_of
from fer_ml.errors import FerError
from fer_ml.evaluation.abstention import thresholds
from fer_ml.evaluation.metrics import softmax
from fer_ml.evaluation.predictions import read_predictions
from fer_ml.evaluation.resampling import Interval
from fer_ml.files import sha256_file
from fer_ml.gates import Outcome, at_most, same
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import read_curated
from fer_ml.network import read_network
from fer_ml.preprocess import Preprocess
from fer_ml.profiles import CANDIDATES, Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from fer_ml.training.faces import FaceSet, to_input
from fer_ml.training.logits import read_logits
from fer_ml.training.models import ArcFaceNet
from fer_ml.training.packing import load_faces

OPSET = 18
PARITY_FILE = "parity.json"
PARITY_FACES = 64
PARITY_LIMIT = 1e-3
RISK = 0.2


class ServedHead(torch.nn.Module):
    """An ArcFace network with the head that it answers with: the choice is no part of a graph."""

    def __init__(self, network: ArcFaceNet) -> None:
        super().__init__()
        self.network = network
        self.arc = bool(network.arc_in_use)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``images [N, 3, S, S]`` to ``logits [N, C]``."""
        outputs = self.network.outputs(images)
        if not self.arc:
            return outputs.logits
        assert outputs.cosine is not None
        return self.network.scale * outputs.cosine


class Exporter:
    """Writes checkpoints as ONNX files; networks of one structure are traced once.

    Tracing takes seconds and does not look at the weights.
    """

    def __init__(self) -> None:
        self._traced: dict[tuple[Any, ...], torch.onnx.ONNXProgram] = {}

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the network as one file, dynamic in the batch, without traces of this machine."""
        network: torch.nn.Module = checkpoint.network()
        if isinstance(network, ArcFaceNet):
            network = ServedHead(network).eval()
        size, weights = checkpoint.preprocess.size, network.state_dict()
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in weights.items())
        recipe = checkpoint.recipe
        # Which head answers is decided while tracing.
        head = (getattr(network, "arc", None), getattr(recipe.task, "scale", None))
        structure = (recipe.architecture, recipe.stem_stride, size, shapes, head)
        if structure not in self._traced:
            self._traced[structure] = _trace(network, size)
        traced = self._traced[structure]
        held = torch.onnx.ONNXProgram(traced.model.clone(), traced.exported_program)
        held.apply_weights({k: v for k, v in weights.items() if k in held.model.graph.initializers})
        held.optimize()
        model = held.model_proto
        _forget_origin(model)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def _trace(network: torch.nn.Module, size: int) -> torch.onnx.ONNXProgram:
    """The graph of a network as it stands: its initializers are named as its weights are."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    if program is None:
        raise FerError("torch.onnx.export gave no program")
    unknown = set(program.model.graph.initializers) - set(network.state_dict())
    if unknown:
        # A constant that was computed from weights would be those of another network.
        raise FerError(
            f"torch.onnx.export made constants of its own: {', '.join(sorted(unknown)[:5])}"
        )
    return program


def _forget_origin(model: onnx.ModelProto) -> None:
    """Take out the source paths and stack traces that the exporter notes at every node."""
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


def parity(network: Callable[[torch.Tensor], np.ndarray], folder: Path, faces: FaceSet) -> float:
    """Largest absolute difference of a logit between torch and ONNX Runtime on ``faces``.

    ``network`` takes normalised images ``[N, 3, S, S]`` and gives ``logits [N, C]``.
    """
    bundle = load_bundle(folder)
    images = np.asarray(faces.images)
    with torch.inference_mode():
        ours = network(to_input(images, faces.preprocess))
    return float(np.abs(ours - bundle.logits(images)).max())


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
    networks = [
        load_checkpoint(job.input("teacher", key).file(CHECKPOINT_FILE)).network() for key in keys
    ]

    def fused(images: torch.Tensor) -> np.ndarray:
        members = [network(images).numpy() for network in networks]
        return fuse(members, weights, held["fusion"], temperatures)

    _write_parity(run, fused, _parity_faces(job, about.preprocess), about)


def fuse_onnx(
    members: Sequence[onnx.ModelProto],
    weights: Sequence[float],
    fusion: Fusion,
    temperatures: Sequence[float],
) -> onnx.ModelProto:
    """One network ``input`` to ``logits`` that computes ``fusion.fuse`` of its members."""
    models = [
        onnx.compose.add_prefix(model, f"m{i}_", rename_inputs=False)
        for i, model in enumerate(members)
    ]
    nodes = [node for model in models for node in model.graph.node]
    constants: dict[str, np.ndarray] = {"first_axis": np.array([0], np.int64)}
    terms = []
    for index, (weight, temperature) in enumerate(zip(weights, temperatures, strict=True)):
        value = f"m{index}_logits"
        if fusion == "calibrated":
            constants[f"t{index}"] = np.array(temperature, np.float32)
            nodes.append(helper.make_node("Div", [value, f"t{index}"], [f"s{index}"]))
            value = f"s{index}"
        if fusion != "logits":
            nodes.append(helper.make_node("LogSoftmax", [value], [f"p{index}"], axis=1))
            value = f"p{index}"
        # Probabilities are mixed in logs, so that small ones stay exact: w p is log w + log p.
        mixed = fusion == "probabilities"
        constants[f"w{index}"] = np.array(np.log(weight) if mixed else weight, np.float32)
        how = "Add" if mixed else "Mul"
        nodes.append(helper.make_node(how, [value, f"w{index}"], [f"term{index}"]))
        terms.append(f"term{index}")
    if fusion == "probabilities":
        stacked = [f"{term}_stacked" for term in terms]
        for term, name in zip(terms, stacked, strict=True):
            nodes.append(helper.make_node("Unsqueeze", [term, "first_axis"], [name]))
        nodes.append(helper.make_node("Concat", stacked, ["stack"], axis=0))
        over = ["stack", "first_axis"]
        nodes.append(helper.make_node("ReduceLogSumExp", over, ["logits"], keepdims=0))
    else:
        nodes.append(helper.make_node("Sum", terms, ["logits"]))
    used = {name for node in nodes for name in node.input}
    logits = models[0].graph.output[0].type.tensor_type.shape.dim
    classes = logits[1].dim_value
    graph = helper.make_graph(
        nodes,
        "ensemble",
        [models[0].graph.input[0]],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
        [
            *(tensor for model in models for tensor in model.graph.initializer),
            *(numpy_helper.from_array(v, k) for k, v in constants.items() if k in used),
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=list(models[0].opset_import),
        functions=[function for model in models for function in model.functions],
        ir_version=models[0].ir_version,
    )
    onnx.checker.check_model(model)
    return model


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
    network: Callable[[torch.Tensor], np.ndarray],
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
