"""External models in the benchmark: a bundle, a checkpoint of this platform, an ONNX file.

Such a file is only read as data: a checkpoint by ``training.archive``, a network by
``bundles.network``.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import regular, sha256_file
from fer_ml.bundles.bundle import MODEL_FILE, load_bundle, read_card
from fer_ml.bundles.network import open_network, read_network
from fer_ml.manifests.curation import read_curated
from fer_ml.metrics.calibration import fit_temperature
from fer_ml.metrics.predictions import write_predictions
from fer_ml.packed.packing import load_faces
from fer_ml.recipes.preprocess import Preprocess, read_preprocess
from fer_ml.runs.logits import labels_of
from fer_ml.sources.raw import ModelKind, model_files
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet, to_input

MANIFEST = "hq_train_manifest"
ABOUT_FILE = "model.json"
BATCH = 64


@dataclass(frozen=True)
class External:
    """An external model that was opened and checked.

    ``predict`` returns ``logits [N, 7] float32`` for faces packed by ``preprocess``. ``assumed``
    names the settings that its file does not state.
    """

    kind: ModelKind
    preprocess: Preprocess
    assumed: tuple[str, ...]
    predict: Callable[[FaceSet], np.ndarray]


def open_model(path: Path, otherwise: Preprocess) -> External:
    """Open the model at ``path``; ``otherwise`` is the preprocessing if its files do not state it.

    Raises ``FerError`` for a file that is unsafe, or that does not return seven logits for a face.
    """
    kind, files = model_files(path)
    if kind == "checkpoint":
        checkpoint = load_checkpoint(files[CHECKPOINT_FILE])
        network = checkpoint.network()
        return External(kind, checkpoint.preprocess, (), lambda faces: predict(network, faces))
    if kind == "bundle":
        load_bundle(path)
    spec = read_card(path).preprocess if kind == "bundle" else otherwise
    assumed = () if kind == "bundle" else ("preprocess", "classes")
    session = open_classifier(files[MODEL_FILE], spec.size)
    return External(kind, spec, assumed, lambda faces: _run(session, faces))


def open_classifier(path: Path, size: int) -> onnxruntime.InferenceSession:
    """Open a network from ``[N, 3, size, size]`` to ``[N, 7]`` on the CPU, else ``FerError``."""
    session = open_network(read_network(path, size), path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _demand(path, "inputs", len(inputs), 1)
    _demand(path, "outputs", len(outputs), 1)
    _demand(path, "type of its input", inputs[0].type, "tensor(float)")
    _demand(path, "type of its output", outputs[0].type, "tensor(float)")
    _demand_shape(path, "input", inputs[0].shape, (1, 3, size, size))
    _demand_shape(path, "output", outputs[0].shape, (1, len(CLASSES)))
    try:
        logits = _logits(session, np.zeros((1, 3, size, size), np.float32))
    except Exception as error:
        raise FerError(
            f"the network fails on a face of {size} px: {error}",
            code="network-failed",
            where=path,
            fix="export the network again for faces of this size",
        ) from error
    _demand(path, "shape of the logits of one face", logits.shape, (1, len(CLASSES)))
    return session


def _demand_shape(path: Path, what: str, shape: Sequence[Any], wanted: tuple[int, ...]) -> None:
    """Require a shape; sizes that the network leaves open and a batch of one are accepted."""
    fits = len(shape) == len(wanted) and all(
        not isinstance(side, int) or side == want for side, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        _demand(path, f"shape of its {what}", list(shape), ["N", *wanted[1:]])


def _demand(path: Path, what: str, actual: object, wanted: object) -> None:
    if actual != wanted:
        raise FerError(
            f"the {what} of the network: {actual}",
            code="network-mismatch",
            where=path,
            allowed=str(wanted),
            fix="export one input of prepared faces and one output of seven logits; the card of a "
            "bundle can state another size",
        )


def _logits(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    logits: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return logits.astype(np.float32)


def _run(session: onnxruntime.InferenceSession, faces: FaceSet) -> np.ndarray:
    step = 1 if session.get_inputs()[0].shape[0] == 1 else BATCH
    parts = [
        np.ascontiguousarray(to_input(faces.images[i : i + step], faces.preprocess).numpy())
        for i in range(0, len(faces), step)
    ]
    return np.concatenate([_logits(session, part) for part in parts])


def keep_external_model(run: RunFolder, job: Job[Any], otherwise: Preprocess) -> None:
    """Check the model that ``job`` names, store its files, and fit a temperature on calib.

    ``otherwise`` and the errors are those of ``open_model``.
    """
    path = job.paths["model"]
    kind, files = model_files(path)
    for name, file in files.items():
        shutil.copyfile(regular(file), run.path(name))
    model = open_model(_path_in(run.folder, kind), otherwise)
    calib = read_curated(job, MANIFEST).filter(pl.col("split") == "calib")
    logits = model.predict(_faces(job, calib, model.preprocess))
    temperature = fit_temperature(logits, labels_of(calib))
    write_predictions(run.path("predictions_calib.csv"), calib, logits)
    digest = sha256_file(run.path(MODEL_FILE if kind != "checkpoint" else CHECKPOINT_FILE))
    run.write_json(
        ABOUT_FILE,
        {
            "schema_version": 1,
            "kind": kind,
            "checkpoint_sha256": digest,
            "files": {name: sha256_file(run.path(name)) for name in files},
            "preprocess": model.preprocess.plain(),
            "classes": list(CLASSES),
            "assumed": list(model.assumed),
        },
    )
    run.write_json(
        "calibration.json",
        {
            "schema_version": 1,
            "mode": "global",
            "global_temperature": temperature,
            "fitted_on": "calib",
            "n": calib.height,
            "checkpoint_sha256": digest,
            "manifest_sha256": job.input(MANIFEST).sha256,
        },
    )
    run.splits.update(temperature="calib")
    run.summary.update(
        kind=kind, temperature=temperature, assumed=", ".join(model.assumed) or "nothing"
    )


def external_predictor(job: Job[Any], name: str) -> Callable[[pl.DataFrame], np.ndarray]:
    """Return a function from a manifest's rows to ``logits [N, 7] float32``.

    The model is loaded from the files in ``external_model[name]``.
    """
    model = open_external(job, name)
    return lambda frame: model.predict(_faces(job, frame, model.preprocess))


def open_external(job: Job[Any], name: str) -> External:
    """Open the model in ``external_model[name]``, an input of ``job``."""
    artifact = job.input("external_model", name)
    about = artifact.read_json(ABOUT_FILE)
    spec = read_preprocess(about["preprocess"])
    return open_model(_path_in(artifact.folder, about["kind"]), spec)


def _path_in(folder: Path, kind: ModelKind) -> Path:
    names = {"bundle": "", "checkpoint": CHECKPOINT_FILE, "onnx": MODEL_FILE}
    return folder / names[kind]


def _faces(job: Job[Any], frame: pl.DataFrame, spec: Preprocess) -> FaceSet:
    return load_faces(frame, job.store.root, spec, job.store.root / "cache")
