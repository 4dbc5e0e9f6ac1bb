"""Assets as parts of a packed training, and the packing of several of them into one job."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.files import linked
from fer_ml.base.reading import regular
from fer_ml.distillation.fusion import Fusion
from fer_ml.manifests.curation import read_curated
from fer_ml.packed.format import (
    OTHERS,
    PREVIOUS_FILE,
    SPLITS,
    AnyStep,
    LogitsStep,
    SoftLabelsStep,
    Step,
    images_file,
    soft_file,
    split_folder,
    write_job,
    write_rows,
    write_soft_targets,
)
from fer_ml.packed.packing import faces_of, folds_of, packed_faces
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Distilling, Training, Views
from fer_ml.runs.ensemble import given_weights
from fer_ml.runs.logits import other_faces
from fer_ml.runs.softlabels import read_softlabels
from fer_ml.storage.job import Job
from fer_ml.training.checkpoint import CHECKPOINT_FILE

MANIFEST = "hq_train_manifest"
SOFTLABELS = "softlabels"


@dataclass(frozen=True)
class Trained:
    """A training as part of a packed job.

    ``previous`` is the preceding student, if any. ``fold`` is the fold of the training rows that it
    leaves out, of ``folds`` by group.
    """

    job: Job[Any]
    training: Training
    preprocess: Preprocess
    seed: int
    previous: str | None = None
    fold: int | None = None
    folds: int = 0


@dataclass(frozen=True)
class Labelled:
    """The labelling of every face by one teacher, as part of a packed job.

    With ``folds``, each fold of the training rows is labelled by the training that left it out;
    ``by_folds`` are the partitions of ``teacher_fold`` of these trainings.
    """

    job: Job[Any]
    preprocess: Preprocess
    views: Views | None
    folds: int = 0
    by_folds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fused:
    """The fusion of the teachers (see ``fuse_teachers``); the step of the soft labels does it."""

    job: Job[Any]
    teachers: tuple[str, ...]
    fusion: Fusion
    weights: tuple[float, ...] | str | None
    step: float


@dataclass(frozen=True)
class Softened:
    """The soft labels; their KD temperature gives a mean entropy of ``target_entropy`` nats."""

    job: Job[Any]
    target_entropy: float


#: What one asset is in a packed job.
Part = Trained | Labelled | Fused | Softened


def pack(parts: Sequence[Part], folder: Path, *, copy: bool = False) -> None:
    """Write one packed job of these assets, in their order; images are hard links, or copies.

    An asset that depends on another one in ``parts`` uses that one's future result. At least one
    part must be a training or a labelling.
    """
    job = parts[0].job
    folder.mkdir(parents=True, exist_ok=True)
    steps: list[AnyStep] = []
    for part in parts:
        steps.extend(_steps_of(part, parts, steps, folder))
    frame = read_curated(job, MANIFEST)
    trained = [part for part in parts if isinstance(part, Trained)]
    labelled = [part for part in parts if isinstance(part, Labelled)]
    if not trained and not labelled:
        raise FerError(
            f"nothing to pack: {', '.join(part.job.label for part in parts)}",
            code="nothing-to-pack",
            fix="name a training or the logits of a teacher too",
        )
    base = (trained or labelled)[0].preprocess
    folds = max([part.folds for part in trained] + [part.folds for part in labelled])
    sizes = {stage.size for part in trained for stage in part.training.stages()} or {None}
    for split in SPLITS:
        rows = frame.filter(pl.col("split") == split)
        for size in sizes:
            faces = _Faces(job.store.root, base, size, folds if split == "train" else 0)
            _pack_split(faces, folder, split, rows, copy)
    if labelled:
        faces = _Faces(job.store.root, base, None, 0)
        _pack_split(faces, folder, OTHERS, other_faces(labelled[0].job), copy)
    if not any(isinstance(step, SoftLabelsStep) for step in steps):
        _pack_soft_labels(trained, frame, folder)
    names = [part.job.label for part in parts]
    write_job(
        folder,
        steps=steps,
        # Labelling draws nothing.
        seed=trained[0].seed if trained else 0,
        preprocess=base,
        manifest_sha256=job.input(MANIFEST).sha256,
        about={part.job.label: origin_of(part.job, names) for part in parts},
    )


def _steps_of(
    part: Part, parts: Sequence[Part], before: list[AnyStep], folder: Path
) -> list[AnyStep]:
    """Return the steps of one asset: one, or none for the ensemble, part of the soft labels."""
    job = part.job
    if isinstance(part, Fused):
        return []
    if isinstance(part, Labelled):
        folds = [f"teacher_fold[{name}]" for name in part.by_folds]
        answering = [f"teacher[{job.partition}]", *folds]
        _demand_steps(job, answering, before)
        return [LogitsStep(job.label, answering[0], tuple(answering[1:]), part.views)]
    if isinstance(part, Softened):
        fused = _fused(job, parts)
        members = [f"teacher_logits[{key}]" for key in fused.teachers]
        _demand_steps(job, members, before)
        return [
            SoftLabelsStep(
                job.label,
                tuple(members),
                fused.fusion,
                given_weights(fused.weights, fused.teachers),
                fused.step,
                part.target_entropy,
            )
        ]
    return [Step(job.label, part.training, _start_of(part, before, folder), part.fold)]


def _fused(job: Job[Any], parts: Sequence[Part]) -> Fused:
    """Return the fusion: of the ensemble in the same packed job, else of the existing one."""
    for part in parts:
        if isinstance(part, Fused):
            return part
    recipe = job.input("ensemble").record.recipe
    weights = tuple(recipe["weights"]) if isinstance(recipe["weights"], list) else recipe["weights"]
    return Fused(job, tuple(recipe["teachers"]), recipe["fusion"], weights, recipe["step"])


def _demand_steps(job: Job[Any], wanted: list[str], before: list[AnyStep]) -> None:
    missing = [name for name in wanted if name not in [step.name for step in before]]
    if missing:
        raise FerError(
            f"{job.label} in a packed job needs {', '.join(missing)} before it, in the same job",
            code="missing-step",
            fix=f'fer pack "{",".join([*(s.name for s in before), *missing, job.label])}" FOLDER',
        )


def _start_of(part: Trained, before: list[AnyStep], folder: Path) -> str | None:
    """Return the training that gives the first weights, if any; pack its checkpoint if needed."""
    previous = part.previous
    if part.training.stages()[0].init != "previous" or previous is None:
        return None
    if previous not in [step.name for step in before]:
        shutil.copyfile(
            regular(part.job.input(previous).file(CHECKPOINT_FILE)), folder / PREVIOUS_FILE
        )
    return previous


def _pack_soft_labels(parts: Sequence[Trained], frame: pl.DataFrame, folder: Path) -> None:
    rows = frame.filter(pl.col("split") == "train")
    for part in parts:
        recipe = part.training
        if isinstance(recipe.task, Distilling):
            artifacts = part.job.input(SOFTLABELS), part.job.input(MANIFEST)
            soft = read_softlabels(*artifacts, rows, part.preprocess, recipe)
            write_soft_targets(folder / soft_file(recipe.soft_labels), soft)


def origin_of(job: Job[Any], steps: list[str]) -> dict[str, Any]:
    """Return the inputs and settings that a run needs to be imported as ``job``'s asset.

    The result is JSON values. Inputs that are ``steps`` of the same packed training are left out,
    as they do not exist yet.
    """
    return {
        "asset": job.asset,
        "partition": job.partition,
        "profile": job.store.profile,
        "recipe": json.loads(json.dumps(dict(job.recorded))),
        "inputs": {
            label: artifact.sha256 for label, artifact in job.inputs.items() if label not in steps
        },
    }


@dataclass(frozen=True)
class _Faces:
    """The packing of the faces of a split; with ``folds``, each row's fold is stored."""

    root: Path
    base: Preprocess
    size: int | None
    folds: int


def _pack_split(how: _Faces, folder: Path, split: str, rows: pl.DataFrame, copy: bool) -> None:
    used = how.base if how.size is None else replace(how.base, size=how.size)
    target = folder / split_folder(split, how.base, used)
    target.mkdir(parents=True, exist_ok=True)
    if (target / "rows.npz").is_file():
        return
    cache = how.root / "cache"
    sources = packed_faces(rows, how.root, used, cache)
    faces = faces_of(rows, sources, used)
    if how.folds:
        faces = replace(faces, fold=folds_of(rows["group_id"], how.folds))
    for number, source in enumerate(sources):
        images = target / images_file(number)
        if copy or not linked(source, images):
            shutil.copyfile(regular(source), images)
    write_rows(target / "rows.npz", faces)
