"""The models of a benchmark: their predictions, and the splits on which they were selected."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.distillation.fusion import fuse
from fer_ml.distillation.logits import read_logits
from fer_ml.evaluation.external import ABOUT_FILE, external_predictor, open_external
from fer_ml.packed.packing import load_faces
from fer_ml.packed.runner import TRAINING_FILE
from fer_ml.recipes.preprocess import Preprocess, read_preprocess
from fer_ml.recipes.profile import STUDENTS
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet

#: The manifest whose val and calib splits choose.
CHOOSING = "hq_train_manifest"


@dataclass(frozen=True)
class Choice:
    """A choice made for a model, and the rows it was made on.

    ``manifest_sha256`` is null where it is not recorded; ``recorded_in`` names the artifact.
    """

    split: str
    manifest: str
    manifest_sha256: str | None
    recorded_in: str


class Network(NamedTuple):
    """A network that was opened: its preprocessing, and ``logits [N, 7]`` of faces packed by it."""

    preprocess: Preprocess
    predict: Callable[[FaceSet], np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model to be scored.

    - ``predict``: returns ``logits [N, 7] float32`` for rows of a manifest, each of another face
    - ``network``: opens its network, for faces that are in no manifest
    - ``checkpoint_sha256``: the hash of the bytes that predict
    - ``chosen``: the choices made for it, by what was chosen
    - ``epochs``: all epochs of its training, including those of the run it continues; null if
      unknown
    - ``architecture``: the network's name in timm; null for the ensemble and external models, or
      if unknown
    """

    name: str
    artifact: Artifact
    checkpoint_sha256: str
    temperature: float
    preprocess_sha256: str
    predict: Callable[[pl.DataFrame], np.ndarray] = field(compare=False)
    network: Callable[[], Network] = field(compare=False)
    chosen: dict[str, Choice]
    epochs: int | None = None
    architecture: str | None = None

    @property
    def from_elsewhere(self) -> bool:
        """Whether it is an external model, whose preprocessing is part of it."""
        return self.artifact.record.asset == "external_model"

    def selected_on(self, manifest: str, split: str) -> list[str]:
        """Return the choices made on rows of ``split``: scores on these are no test results."""
        return [
            what
            for what, choice in self.chosen.items()
            if (choice.manifest, choice.split) == (manifest, split)
        ]


def choices(artifact: Artifact) -> dict[str, Choice]:
    """Return the choices that an artifact's record lists."""
    manifest = next((i for i in artifact.record.inputs if i.asset == CHOOSING), None)
    return {
        what: Choice(split, CHOOSING, manifest.sha256 if manifest else None, artifact.key)
        for what, split in artifact.record.splits.items()
    }


def epochs_of(store: Store, artifact: Artifact) -> int | None:
    """Return the epochs of a training and of those it continues; ``None`` if one is unknown."""
    files = sorted(name for name in artifact.record.files if name.endswith(TRAINING_FILE))
    if TRAINING_FILE not in files:
        return None
    stages = [artifact.read_json(name) for name in files]
    if any("epochs_run" not in stage or "init" not in stage for stage in stages):
        return None
    epochs = sum(stage["epochs_run"] for stage in stages)
    # The first stage of several lies in a folder of its own.
    first = next((s for name, s in zip(files, stages, strict=True) if "/" in name), stages[-1])
    if first["init"] != "previous":
        return int(epochs)
    made_from = next((i for i in artifact.record.inputs if i.key == first["init_from"]), None)
    before = made_from and store.find(made_from.asset, made_from.partition, made_from.sha256)
    earlier = epochs_of(store, before) if before else None
    return None if earlier is None else int(epochs + earlier)


def benchmark_models(job: Job[Any]) -> Iterator[Model]:
    """Yield every model among the inputs of ``job``: teachers, ensemble, students, others.

    Models of one kind are in the order of the inputs.
    """
    teachers = [_teacher(job, key) for key in _partitions(job, "teacher_logits")]
    yield from teachers
    yield _ensemble(job, teachers)
    for stage in STUDENTS:
        model = student_model(job, f"student_{stage}")
        seen = model.chosen["checkpoint"].manifest_sha256
        later = {
            "deployed student": Choice("val", CHOOSING, seen, "student_selection"),
            "abstention thresholds": Choice("calib", CHOOSING, seen, "candidate_bundles"),
        }
        yield replace(model, chosen={**model.chosen, **later})
    for name in _partitions(job, "external_model"):
        yield _external(job, name)
    for name in _partitions(job, "adopted_model"):
        yield _adopted(job, name)


def _partitions(job: Job[Any], asset: str) -> list[str]:
    """Return the partitions of ``asset`` among the inputs, in their order."""
    records = [artifact.record for artifact in job.inputs.values()]
    return [str(record.partition) for record in records if record.asset == asset]


def _teacher(job: Job[Any], key: str) -> Model:
    logits = job.input("teacher_logits", key)
    meta = logits.read_json("logits.json")
    made_from = next(i for i in logits.record.inputs if (i.asset, i.partition) == ("teacher", key))
    teacher = job.store.find("teacher", key, made_from.sha256)
    if teacher is None:
        raise FerError(
            f"the teacher[{key}] that made {logits.key} does not exist any more",
            code="missing-artifact",
            where=job.store.home("teacher", key),
            fix=f"materialize teacher[{key}] and teacher_logits[{key}] again",
        )
    return Model(
        name=f"teacher_{key}",
        artifact=logits,
        checkpoint_sha256=teacher.record.files[CHECKPOINT_FILE].sha256,
        temperature=meta["temperature"],
        preprocess_sha256=meta["preprocess_sha256"],
        predict=_looked_up(logits),
        network=lambda: _opened(load_checkpoint(teacher.file(CHECKPOINT_FILE))),
        chosen=choices(teacher),
        epochs=epochs_of(job.store, teacher),
        architecture=teacher.record.recipe.get("training", {}).get("architecture"),
    )


def _ensemble(job: Job[Any], teachers: list[Model]) -> Model:
    ensemble = job.input("ensemble")
    ensemble_facts = ensemble.read_json("ensemble.json")
    members = {
        f"checkpoint of {teacher.name}": teacher.chosen["checkpoint"] for teacher in teachers
    }
    return Model(
        name="ensemble",
        artifact=ensemble,
        checkpoint_sha256=ensemble.sha256,
        temperature=ensemble_facts["temperature"],
        preprocess_sha256=ensemble_facts["preprocess_sha256"],
        predict=_looked_up(ensemble),
        network=lambda: _fused(ensemble_facts, teachers),
        chosen={**choices(ensemble), **members},
    )


def _opened(checkpoint: Checkpoint) -> Network:
    network = checkpoint.network()
    return Network(checkpoint.preprocess, lambda faces: predict(network, faces))


def _fused(ensemble_facts: dict[str, Any], teachers: list[Model]) -> Network:
    """Return the ensemble as a network: its members' answers, fused by its own weights."""
    keys = [key for key, weight in ensemble_facts["weights"].items() if weight > 0]
    weights = [ensemble_facts["weights"][key] for key in keys]
    temperatures = [ensemble_facts["members"][key]["temperature"] for key in keys]
    by_name = {model.name: model for model in teachers}
    networks = [by_name[f"teacher_{key}"].network() for key in keys]

    def answer(faces: FaceSet) -> np.ndarray:
        logits = [network.predict(faces) for network in networks]
        return fuse(logits, weights, ensemble_facts["fusion"], temperatures)

    return Network(networks[0].preprocess, answer)


def _looked_up(artifact: Artifact) -> Callable[[pl.DataFrame], np.ndarray]:
    """Return a predictor of stored logits, which are read on first use."""
    return lambda frame: read_logits(artifact.folder).of(frame["sample_id"].to_list())


def student_model(job: Job[Any], asset: str, partition: str | None = None) -> Model:
    """Return a training's model, by its checkpoint, named by its partition or else its asset."""
    student = job.input(asset, partition)
    checkpoint = load_checkpoint(student.file(CHECKPOINT_FILE))

    def logits(frame: pl.DataFrame) -> np.ndarray:
        root = job.store.root
        faces = load_faces(frame, root, checkpoint.preprocess, root / "cache")
        return predict(checkpoint.network(), faces)

    return Model(
        name=partition or asset,
        artifact=student,
        checkpoint_sha256=student.record.files[CHECKPOINT_FILE].sha256,
        temperature=student.read_json("calibration.json")["global_temperature"],
        preprocess_sha256=checkpoint.preprocess.digest(),
        predict=logits,
        network=lambda: _opened(checkpoint),
        chosen=choices(student),
        epochs=epochs_of(job.store, student),
        architecture=checkpoint.recipe.architecture,
    )


def _external(job: Job[Any], name: str) -> Model:
    """Return an external model; the rows it was trained or selected on are unknown."""
    artifact = job.input("external_model", name)
    about = artifact.read_json(ABOUT_FILE)
    return Model(
        name=f"external_{name}",
        artifact=artifact,
        checkpoint_sha256=about["checkpoint_sha256"],
        temperature=artifact.read_json("calibration.json")["global_temperature"],
        preprocess_sha256=read_preprocess(about["preprocess"]).digest(),
        predict=external_predictor(job, name),
        network=lambda: _foreign(job, name),
        chosen=choices(artifact) | _chosen_elsewhere(artifact),
    )


def _foreign(job: Job[Any], name: str) -> Network:
    model = open_external(job, name)
    return Network(model.preprocess, model.predict)


def _adopted(job: Job[Any], name: str) -> Model:
    """Return an adopted run's model, by its checkpoint."""
    model = student_model(job, "adopted_model", name)
    chosen = model.chosen | _chosen_elsewhere(model.artifact)
    return replace(model, name=f"adopted_{name}", chosen=chosen)


def _chosen_elsewhere(artifact: Artifact) -> dict[str, Choice]:
    return {"checkpoint": Choice("unknown", "unknown", None, artifact.key)}


def ledger(models: list[Model]) -> dict[str, dict[str, Any]]:
    """Return ``ledger.json``: by model, each choice with its split, manifest and artifact."""
    return {
        model.name: {
            "checkpoint_sha256": model.checkpoint_sha256,
            "chosen": {what: vars(choice) for what, choice in model.chosen.items()},
        }
        for model in models
    }
