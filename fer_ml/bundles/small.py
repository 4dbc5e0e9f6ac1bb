"""Smaller bundles for phones and small boards: fp16 and int8, limited in accuracy and latency.

A precision is offered only if the loss of macro-F1 on val and its time relative to the full
network, measured side by side on this machine, are within given limits. Its figures are kept either
way. fp16 stores the weights in half the bytes; ONNX Runtime converts them to fp32 on loading, so
they are not faster. Weights and activations in int8 follow ONNX Runtime's static quantisation (QDQ,
one scale for each channel), with ranges from faces of calib.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import polars as pl
from onnx import helper, numpy_helper

from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.bundles.bundle import MODEL_FILE, Bundle, load_bundle, write_card
from fer_ml.bundles.network import open_network, read_network
from fer_ml.images.pixels import normalise
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.classification import classification_metrics
from fer_ml.packed.packing import load_faces
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.views import FaceSet

Precision = Literal["fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")
#: Smaller tensors gain nothing in fp16.
LARGE = 256
CALIBRATION_FACES = 256
ROUNDS = 200
BATCH = 32


def to_fp16(source: Path, target: Path) -> None:
    """Write a network whose large weights are stored in fp16 and cast to float32 on loading."""
    model = onnx.load_model_from_string(read_network(source))
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise FerError(
                f"weights of {tensor.name} are outside the range of fp16",
                code="weights-out-of-range",
                where=source,
                allowed=f"at most {np.finfo(np.float16).max}",
            )
        stored = f"{tensor.name}.fp16"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    target.write_bytes(model.SerializeToString(deterministic=True))


def to_int8(source: Path, target: Path, faces: np.ndarray) -> None:
    """Write a static int8 network, with ranges from ``faces [N, 3, S, S] float32``, normalised."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # The library writes a hint for people to the root logger at every call.
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Batches(faces),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
    finally:
        logger.setLevel(level)


class _Batches:
    """Batches of faces in the form that ONNX Runtime's calibration needs."""

    def __init__(self, faces: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(
            faces[i : i + BATCH] for i in range(0, len(faces), BATCH)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def latency_ratios(models: dict[str, Path], face: np.ndarray, rounds: int) -> dict[str, Any]:
    """Return the median ms for one face by model, and its ratio to the first, measured in turns.

    ``face [1, 3, S, S] float32``; one thread, as the demo runs.
    """
    sessions = {name: open_network(read_network(path), path) for name, path in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 5):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(["logits"], {"input": face})
            if turn >= 5:
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    first = next(iter(medians.values()))
    return {name: {"ms_p50": ms, "ratio": ms / first} for name, ms in medians.items()}


def try_precisions(
    run: RunFolder,
    job: Job[Any],
    accuracy_limit: float,
    latency_limits: Mapping[str, float],
) -> None:
    """Try every precision; ``<precision>/`` holds a bundle where it is offered.

    It is offered if it loses at most ``accuracy_limit`` of macro-F1 on val, and one face takes at
    most ``latency_limits`` times the time in fp32.
    """
    artifact = job.input("student_bundle")
    full = load_bundle(artifact.folder)
    val, calib = (_faces(job, full, split) for split in ("val", "calib"))
    with tempfile.TemporaryDirectory() as folder:
        models = {"fp32": artifact.file(MODEL_FILE)}
        models |= {name: Path(folder) / f"{name}.onnx" for name in PRECISIONS}
        ranges = normalise(np.asarray(calib.images[:CALIBRATION_FACES]), full.card.preprocess)
        to_fp16(models["fp32"], models["fp16"])
        to_int8(models["fp32"], models["int8"], ranges)
        timing = latency_ratios(models, ranges[:1], ROUNDS)
        figures = _figures(models, full, val)
        for name in PRECISIONS:
            figures[name]["offered"] = (
                figures[name]["macro_f1_lost"] <= accuracy_limit
                and timing[name]["ratio"] <= latency_limits[name]
            )
            if figures[name]["offered"]:
                against = {"split": "val", "n": len(val), **figures[name]}
                _offer(run.path(f"{name}/{MODEL_FILE}"), models[name], full, name, against)
    run.write_json(
        "small_bundles.json",
        {"schema_version": 2, "split": "val", "n": len(val), "precisions": figures},
    )
    run.write_json("timing.json", {"schema_version": 1, "rounds": ROUNDS, "latency": timing})
    run.splits.update(precision="val", ranges="calib")
    for name in PRECISIONS:
        run.summary[f"{name}_macro_f1_lost"] = figures[name]["macro_f1_lost"]
        run.summary[f"{name}_latency_ratio"] = timing[name]["ratio"]
        run.summary[f"{name}_offered"] = figures[name]["offered"]


def _figures(models: dict[str, Path], full: Bundle, val: FaceSet) -> dict[str, dict[str, Any]]:
    """Measure each network on ``val`` against fp32; none is offered yet."""
    logits = {name: _logits(path, full, val) for name, path in models.items()}
    scores = {
        name: float(classification_metrics(val.y, values)["macro_f1"])
        for name, values in logits.items()
    }
    labels = {name: values.argmax(axis=1) for name, values in logits.items()}
    return {
        name: {
            "macro_f1": score,
            "macro_f1_lost": scores["fp32"] - score,
            "same_label": float((labels[name] == labels["fp32"]).mean()),
            "bytes": models[name].stat().st_size,
            "offered": False,
        }
        for name, score in scores.items()
    }


def _offer(
    target: Path, network: Path, full: Bundle, precision: Precision, against: dict[str, Any]
) -> None:
    """Write a network and its card into a folder of their own."""
    target.write_bytes(read_network(network))
    # The benchmark is of the full network: the card says how near this one is to it.
    changes = {
        "model_sha256": sha256_file(target),
        "precision": precision,
        "metrics": {**full.card.metrics, "against_fp32": against},
    }
    write_card(target.parent, full.card.model_copy(update=changes))


def _faces(job: Job[Any], bundle: Bundle, split: str) -> FaceSet:
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split") == split)
    return load_faces(frame, job.store.root, bundle.card.preprocess, job.store.root / "cache")


def _logits(path: Path, bundle: Bundle, faces: FaceSet) -> np.ndarray:
    """Return ``[N, C] float32`` of all faces."""
    session = open_network(read_network(path), path)
    spec = bundle.card.preprocess
    return np.concatenate(
        [
            session.run(
                ["logits"], {"input": normalise(np.asarray(faces.images[i : i + BATCH]), spec)}
            )[0]
            for i in range(0, len(faces), BATCH)
        ]
    )
