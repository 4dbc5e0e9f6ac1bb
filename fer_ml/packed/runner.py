"""The runner of a packed training: train, save, then measure the saved weights.

Needs torch, timm, numpy and pydantic, and nothing else of this project's dependencies.
"""

import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_ml.base.errors import FerError
from fer_ml.base.files import readable_os_errors, write_json
from fer_ml.base.labels import CLASSES
from fer_ml.base.processor import processor_facts
from fer_ml.base.reading import read_json, regular, sha256_file
from fer_ml.distillation.logits import META_FILE, Teacher, label_faces, read_taught
from fer_ml.distillation.teaching import STANDARD, choose_weights, soften
from fer_ml.metrics.calibration import search_temperature
from fer_ml.metrics.classification import classification_metrics
from fer_ml.packed.format import (
    JOB_FILE,
    OTHERS,
    PREVIOUS_FILE,
    SPLITS,
    AnyStep,
    LogitsStep,
    PackedJob,
    SoftLabelsStep,
    Step,
    read_job,
    read_soft_targets,
    soft_file,
    step_folder,
    write_soft_targets,
)
from fer_ml.recipes.training import Distilling, Training
from fer_ml.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from fer_ml.training.loop import SNAPSHOT_SECONDS, Place, Trained, train
from fer_ml.training.models import Start, State, build_model, first_weights, weights_hash
from fer_ml.training.prediction import predict
from fer_ml.training.ranks import Ranks
from fer_ml.training.snapshot import SNAPSHOT_FILE
from fer_ml.training.views import SoftTargets

log = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
#: Written last: a step whose folder holds it is finished.
FINISHED_FILE = "finished.json"
LOGITS_FILE = "logits.npz"


def run_job(
    folder: Path,
    out: Path,
    ranks: Ranks,
    *,
    only: Sequence[str] = (),
    snapshot_seconds: float = SNAPSHOT_SECONDS,
) -> list[Path]:
    """Run every step of a packed training, or those in ``only``; return their result folders.

    Results go below ``out``. Finished steps are skipped and a stopped one is resumed, so it is
    always safe to start again. ``FerError`` if a step needs one that is not finished.
    """
    job = read_job(folder)
    folders = []
    for step in _chosen(job, only):
        target = out / step.folder
        _demand_finished(job, step, out)
        with readable_os_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            if isinstance(step, Step):
                if not _is_finished(target, job):
                    _run_training(job, step, target, out, ranks, snapshot_seconds)
            elif ranks.first and not _is_finished(target, job):
                if isinstance(step, LogitsStep):
                    _run_logits(job, step, target, out, ranks)
                else:
                    _run_softlabels(job, step, target, out)
                _finish(target, job)
            ranks.wait()
            if ranks.first:
                shutil.copyfile(regular(folder / JOB_FILE), target / JOB_FILE)
        folders.append(target)
    return folders


def _finish(folder: Path, job: PackedJob) -> None:
    """Record the hashes of a step's result files and its job's key; written last."""
    write_json(folder / FINISHED_FILE, {"job": job.key, "files": _hashes(folder)})


def _is_finished(folder: Path, job: PackedJob) -> bool:
    """Whether a step has finished results in ``folder``.

    ``FerError`` when they are those of another job, or were changed.
    """
    path = folder / FINISHED_FILE
    try:
        record = read_json(path)
    except FileNotFoundError:
        return False
    if record != {"job": job.key, "files": _hashes(folder)}:
        raise FerError(
            "these results were changed, or are those of another job",
            code="changed-results",
            where=folder,
            fix="name another folder for the results, or remove this one to make them again",
        )
    return True


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path, root=folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (FINISHED_FILE, SNAPSHOT_FILE, JOB_FILE)
    }


def _chosen(job: PackedJob, only: Sequence[str]) -> list[AnyStep]:
    """Return the steps named in ``only``, in the job's order; all steps if it is empty."""
    known = [step.name for step in job.steps]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise FerError(
            f"the job has no step {', '.join(unknown)}",
            code="unknown-step",
            where=job.folder,
            allowed=", ".join(known),
        )
    return [step for step in job.steps if not only or step.name in only]


def _demand_finished(job: PackedJob, step: AnyStep, out: Path) -> None:
    """Raise ``FerError`` if a step that ``step`` needs has no finished results in ``out``."""
    needed: list[str | None]
    if isinstance(step, LogitsStep):
        needed = [step.teacher, *step.folds]
    elif isinstance(step, SoftLabelsStep):
        needed = list(step.members)
    else:
        needed = [step.previous]
        if isinstance(step.recipe.task, Distilling):
            needed += [s.name for s in job.steps if isinstance(s, SoftLabelsStep)]
    for other in job.steps:
        if other.name in needed and not _is_finished(out / other.folder, job):
            raise FerError(
                f"{step.name} needs {other.name}, which is not finished",
                code="unfinished-step",
                where=out,
                fix=f"run that first: --only '{other.name}'",
            )


def _run_logits(job: PackedJob, step: LogitsStep, target: Path, out: Path, ranks: Ranks) -> None:
    teacher, *folds = (
        Teacher.load(out / step_folder(name)) for name in (step.teacher, *step.folds)
    )
    train, others = job.faces("train"), job.faces(OTHERS)
    shards = target / "shards"
    keep = shards / job.key[:16]
    label_faces(target, teacher, folds, train, others, step.views, keep=keep, device=ranks.device)
    shutil.rmtree(shards)


def _run_softlabels(job: PackedJob, step: SoftLabelsStep, target: Path, out: Path) -> None:
    members = [read_taught(out / step_folder(name)) for name in step.members]
    calib = job.faces("calib")
    chosen = choose_weights(
        members, calib.sample_ids, calib.y, step.fusion, step.weights, step.grid
    )
    views = members[0].meta["views"]
    for kind, soft in soften(members, chosen.weights, step.fusion, step.target_entropy).items():
        seed = views["seed"] if views and kind == STANDARD else None
        write_soft_targets(
            target / soft_file(kind), SoftTargets(soft.logits, soft.kd_temperature, seed)
        )
    write_json(
        target / META_FILE,
        {"schema_version": 1, "weights": dict(zip(step.members, chosen.weights, strict=True))},
    )


def _run_training(
    job: PackedJob, step: Step, target: Path, out: Path, ranks: Ranks, seconds: float
) -> None:
    soft = _soft_targets(job, step, out)
    previous = _previous(job, step, out)
    stages = step.recipe.stages()
    for number, recipe in enumerate(stages):
        folder = target / f"stage_{number + 1}" if number + 1 < len(stages) else target
        folder.mkdir(exist_ok=True)
        if not _is_finished(folder, job):
            _run_stage(job, step, recipe, folder, previous, soft, ranks, seconds)
        ranks.wait()
        previous = (
            f"{step.name} stage {number + 1}",
            load_checkpoint(folder / CHECKPOINT_FILE).model,
        )


def _soft_targets(job: PackedJob, step: Step, out: Path) -> SoftTargets | None:
    """Return a distilling step's soft labels: of a step of this job, else of the job's folder."""
    if not isinstance(step.recipe.task, Distilling):
        return None
    made = next((s for s in job.steps if isinstance(s, SoftLabelsStep)), None)
    folder = job.folder if made is None else out / made.folder
    return read_soft_targets(folder / soft_file(step.recipe.soft_labels))


def _previous(job: PackedJob, step: Step, out: Path) -> tuple[str, State] | None:
    if step.previous is None:
        return None
    earlier = next((other for other in job.steps if other.name == step.previous), None)
    path = job.folder / PREVIOUS_FILE if earlier is None else out / earlier.folder / CHECKPOINT_FILE
    return step.previous, load_checkpoint(path).model


def _run_stage(
    job: PackedJob,
    step: Step,
    recipe: Training,
    folder: Path,
    previous: tuple[str, State] | None,
    soft: SoftTargets | None,
    ranks: Ranks,
    seconds: float,
) -> None:
    faces = {split: job.faces(split, recipe.size) for split in SPLITS}
    if step.without_fold is not None:
        faces["train"] = faces["train"].without_fold(step.without_fold)
    preprocess = faces["train"].preprocess
    seed = job.seed if recipe.seed is None else recipe.seed
    torch.manual_seed(seed)
    network = build_model(recipe)
    start = first_weights(network, recipe, previous)
    before = weights_hash(network.state_dict())
    name = step.name if folder.name == step.folder else f"{step.name} {folder.name}"
    trained = train(
        network,
        recipe,
        faces["train"],
        faces["val"],
        seed=seed,
        soft=soft if isinstance(recipe.task, Distilling) else None,
        ranks=ranks,
        place=Place(folder, f"{job.key}:{name}", seconds),
        name=name,
    )
    if not ranks.first:
        return
    # The nested first stages have folders of their own; here they would be repeated.
    stage_recipe = replace(recipe, first_stage=None)
    save_checkpoint(
        folder / CHECKPOINT_FILE,
        Checkpoint(trained.state, stage_recipe, preprocess, CLASSES, trained.best_epoch),
    )
    # From here on only the saved bytes are measured: the metrics are those of best.pt.
    saved = load_checkpoint(folder / CHECKPOINT_FILE)
    network = saved.network().to(ranks.device)
    logits = {split: predict(network, faces[split], device=ranks.device) for split in SPLITS[1:]}
    np.savez(folder / LOGITS_FILE, **logits)  # type: ignore[arg-type]
    write_measures(folder, saved, job.manifest_sha256, logits, {s: faces[s].y for s in logits})
    write_json(folder / "history.json", trained.history)
    write_json(folder / "classorder.json", list(CLASSES))
    write_json(folder / "environment.json", environment(ranks))
    facts = _facts(recipe, trained, start, before, saved, ranks)
    facts["kd_temperature"] = (
        (getattr(recipe.task, "temperature", None) or soft.kd_temperature)
        if soft is not None and isinstance(recipe.task, Distilling)
        else None
    )
    write_json(folder / TRAINING_FILE, facts)
    _finish(folder, job)
    (folder / SNAPSHOT_FILE).unlink(missing_ok=True)


def write_measures(
    folder: Path,
    checkpoint: Checkpoint,
    manifest_sha256: str,
    logits: dict[str, np.ndarray],
    y: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Fit the temperature on calib, compute the metrics on val, write both; return the metrics.

    ``logits [N, 7]`` and ``y [N]`` by split belong to ``checkpoint``, the ``best.pt`` in
    ``folder``.
    """
    digest = sha256_file(folder / CHECKPOINT_FILE)
    # A fit on its bound must not cost the training: it is recorded, and a gate refuses the run.
    temperature, inside = search_temperature(logits["calib"], y["calib"])
    about = {"checkpoint_sha256": digest, "manifest_sha256": manifest_sha256}
    write_json(
        folder / "calibration.json",
        {
            "schema_version": 1,
            "mode": "global",
            "global_temperature": temperature,
            "inside_bounds": inside,
            "fitted_on": "calib",
            "n": len(y["calib"]),
            **about,
        },
    )
    scaled = classification_metrics(y["val"], logits["val"], temperature)
    metrics = {
        "schema_version": 1,
        "epoch": checkpoint.epoch,
        "split": "val",
        "n": len(y["val"]),
        **about,
        "raw": classification_metrics(y["val"], logits["val"]),
        "temperature_scaled": {"mode": "global", "global_temperature": temperature, **scaled},
    }
    write_json(folder / "reliabilitymetrics.json", metrics)
    return metrics


def _facts(
    recipe: Training,
    trained: Trained,
    start: Start,
    before: str,
    saved: Checkpoint,
    ranks: Ranks,
) -> dict[str, Any]:
    return {
        "schema_version": 2,
        "steps": trained.steps,
        "epochs_planned": recipe.epochs,
        "epochs_run": len(trained.history),
        "best_epoch": trained.best_epoch,
        "coverage": trained.history[-1]["coverage"],
        "init": start.init,
        "init_from": start.name,
        "init_sha256": start.sha256,
        "initial_weights_sha256": before,
        "best_weights_sha256": weights_hash(saved.model),
        "precision": trained.precision,
        "emulation": trained.emulation,
        "device": ranks.device.type,
        "processes": ranks.world,
        "parameters": sum(tensor.numel() for tensor in saved.model.values()),
    }


def environment(ranks: Ranks) -> dict[str, Any]:
    """Return versions, device and threads of this process, for the run's record."""
    versions = {}
    for name in ("torch", "timm", "numpy"):
        versions[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(ranks.device)
        if ranks.device.type == "cuda"
        else platform.machine(),
        **processor_facts(),
        "packages": versions,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
