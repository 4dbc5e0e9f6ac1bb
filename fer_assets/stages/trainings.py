"""Run folders of teachers and students: pack, train, take the results into the lineage."""

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_assets.stages.curated_manifest import read_curated
from fer_assets.stages.ensemble import recipe_weights
from fer_assets.stages.job import Job
from fer_assets.stages.softlabels import read_softlabels
from fer_assets.stages.teacher_logits import faces_to_label, finish_logits, other_faces
from fer_ml.base.errors import FerError
from fer_ml.base.files import linked, sha256_file
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.distillation.logits import (
    CENTRE_FILE,
    IN_SAMPLE_FILE,
    META_FILE,
    ROWS_FILE,
    VIEWS_FILE,
    Teacher,
    read_taught,
)
from fer_ml.figures.charts import confusion_chart, curves_chart, reliability_chart
from fer_ml.metrics.classification import (
    classification_metrics,
    confusion_matrix,
    reliability_bins,
    softmax,
)
from fer_ml.metrics.predictions import write_predictions
from fer_ml.packed.format import (
    JOB_FILE,
    OTHERS,
    PREVIOUS_FILE,
    SPLITS,
    AnyStep,
    LogitsStep,
    SoftLabelsStep,
    Step,
    read_about,
    read_soft_targets,
    soft_file,
    split_folder,
    step_folder,
    write_job,
    write_rows,
    write_soft_targets,
)
from fer_ml.packed.packing import folds_of, load_faces, packed_faces
from fer_ml.packed.runner import LOGITS_FILE, TRAINING_FILE, run_job
from fer_ml.recipes.profiles import STUDENTS
from fer_ml.recipes.training import Distilling, Training
from fer_ml.storage.store import Artifact, RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE, load_checkpoint
from fer_ml.training.loop import predict
from fer_ml.training.ranks import Ranks, choose_device

MANIFEST = "hq_train_manifest"
LOGITS, ENSEMBLE, SOFTLABELS = "teacher_logits", "ensemble", "softlabels"
#: What a step leaves that belongs into the run folder as it is.
TAKEN = (
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "classorder.json",
    "environment.json",
    TRAINING_FILE,
)


def training_of(job: Job) -> Training:
    """The recipe of a teacher, of a teacher without a fold, of a student or an experiment."""
    profile = job.profile
    if job.asset == "teacher":
        return profile.teachers[str(job.partition)]
    if job.asset == "teacher_fold":
        return profile.teachers[profile.folds[str(job.partition)][0]]
    if job.asset == "student_experiment":
        return profile.experiments[str(job.partition)]
    return profile.students[job.asset.removeprefix("student_")]


def build_training(run: RunFolder, job: Job) -> None:
    """``teacher``, ``student_ce``, ``student_kd``, ``student_dkd`` or ``student_experiment``.

    A training that was stopped left its state in ``unfinished/``; it goes on from there when its
    inputs and recipe are still the same.
    """
    work = job.kept(run)
    packed = work / "job"
    if not (packed / JOB_FILE).is_file():
        shutil.rmtree(packed, ignore_errors=True)
        pack([job], packed)
    if job.processes > 1:
        from fer_ml.packed.launch import launch  # The launcher takes a while to import.

        (folder,) = launch(packed, work / "runs", job.device, job.processes)
    else:
        (folder,) = run_job(packed, work / "runs", Ranks(0, 1, choose_device(job.device)))
    take(run, job, folder)


def pack(jobs: list[Job], folder: Path, *, copy: bool = False) -> None:
    """Write one packed job of these assets, in their order. Images are links, or copies.

    What is made from another asset of ``jobs`` is made from what that one will be.
    """
    first = jobs[0]
    frame = read_curated(first, MANIFEST)
    trained = [job for job in jobs if job.asset not in (LOGITS, ENSEMBLE, SOFTLABELS)]
    sizes = {stage.size for job in trained for stage in training_of(job).stages()} or {None}
    for split in SPLITS:
        rows = frame.filter(pl.col("split") == split)
        for size in sizes:
            _pack_split(first, folder, split, rows, size, copy)
    steps: list[AnyStep] = []
    for job in jobs:
        steps.extend(_steps_of(job, steps, folder))
    if any(isinstance(step, LogitsStep) for step in steps):
        labelling = next(job for job in jobs if job.asset == LOGITS)
        _pack_split(labelling, folder, OTHERS, other_faces(labelling), None, copy)
    if not any(isinstance(step, SoftLabelsStep) for step in steps):
        _pack_soft_labels(trained, frame, folder)
    names = [job.label for job in jobs]
    write_job(
        folder,
        steps=steps,
        seed=first.profile.seed,
        preprocess=first.profile.preprocess,
        manifest_sha256=first.input(MANIFEST).sha256,
        about={job.label: _origin(job, names) for job in jobs},
    )


def _steps_of(job: Job, before: list[AnyStep], folder: Path) -> list[AnyStep]:
    """The steps of one asset: one, but none for the ensemble, which is part of its soft labels."""
    profile = job.profile
    if job.asset == ENSEMBLE:
        return []
    if job.asset == LOGITS:
        folds = [name for name, (teacher, _) in profile.folds.items() if teacher == job.partition]
        answering = [f"teacher[{job.partition}]", *(f"teacher_fold[{name}]" for name in folds)]
        _demand_steps(job, answering, before)
        return [LogitsStep(job.label, answering[0], tuple(answering[1:]), profile.views)]
    if job.asset == SOFTLABELS:
        keys = list(profile.teachers)
        members = [f"{LOGITS}[{key}]" for key in keys]
        _demand_steps(job, members, before)
        recipe = profile.ensemble
        return [
            SoftLabelsStep(
                job.label,
                tuple(members),
                recipe.fusion,
                recipe_weights(recipe, keys),
                recipe.step,
                profile.softlabels.target_entropy,
            )
        ]
    training = training_of(job)
    start = _start_of(job, training, before, folder)
    return [Step(job.label, training, start, _fold_of(job))]


def _demand_steps(job: Job, wanted: list[str], before: list[AnyStep]) -> None:
    missing = [name for name in wanted if name not in [step.name for step in before]]
    if missing:
        raise FerError(
            f"{job.label} in a packed job needs {', '.join(missing)} before it, in the same job",
            fix=f'fer pack "{",".join([*missing, job.label])}" FOLDER',
        )


def _fold_of(job: Job) -> int | None:
    """The fold of the training rows that this training leaves out."""
    return job.profile.folds[str(job.partition)][1] if job.asset == "teacher_fold" else None


def _start_of(job: Job, recipe: Training, before: list[AnyStep], folder: Path) -> str | None:
    """The training that gives the first weights, or ``None``; its checkpoint if it is no step."""
    previous = _previous_label(job)
    if recipe.stages()[0].init != "previous" or previous is None:
        return None
    if previous not in [step.name for step in before]:
        shutil.copyfile(job.input(previous).file(CHECKPOINT_FILE), folder / PREVIOUS_FILE)
    return previous


def _pack_soft_labels(jobs: list[Job], frame: pl.DataFrame, folder: Path) -> None:
    train = frame.filter(pl.col("split") == "train")
    for job in jobs:
        recipe = training_of(job)
        if isinstance(recipe.task, Distilling):
            soft = read_softlabels(
                job.input("softlabels"),
                job.input(MANIFEST),
                train,
                job.profile.preprocess,
                recipe,
            )
            write_soft_targets(folder / soft_file(recipe.soft_labels), soft)


def _origin(job: Job, steps: list[str]) -> dict[str, Any]:
    """What a run must have been made from to be taken in as ``job``'s asset, as JSON values.

    Inputs that are steps of the same packed training are not known yet.
    """
    return {
        "asset": job.asset,
        "partition": job.partition,
        "profile": job.profile.name,
        "recipe": json.loads(json.dumps(dict(job.recipe))),
        "inputs": {
            label: artifact.sha256 for label, artifact in job.inputs.items() if label not in steps
        },
    }


def _pack_split(
    job: Job, folder: Path, split: str, rows: pl.DataFrame, size: int | None, copy: bool
) -> None:
    base = job.profile.preprocess
    used = base if size is None else replace(base, size=size)
    target = folder / split_folder(split, base, used)
    target.mkdir(parents=True, exist_ok=True)
    if (target / "rows.npz").is_file():
        return
    cache = job.store.root / "cache"
    faces = load_faces(rows, job.store.root, used, cache)
    if split == "train" and job.profile.softlabels.folds:
        faces = replace(faces, fold=folds_of(rows["group_id"], job.profile.softlabels.folds))
    source = packed_faces(rows, job.store.root, used, cache)
    images = target / "images.npy"
    if copy or not linked(source, images):
        shutil.copyfile(source, images)
    write_rows(target / "rows.npz", faces)


def _previous_label(job: Job) -> str | None:
    """The student before this one; teachers and experiments follow none."""
    stage = job.asset.removeprefix("student_")
    if stage not in STUDENTS or stage == STUDENTS[0]:
        return None
    return f"student_{STUDENTS[STUDENTS.index(stage) - 1]}"


def take(run: RunFolder, job: Job, folder: Path) -> None:
    """Put what a training left in ``folder`` into the run folder, with tables and plots of it."""
    missing = [name for name in (*TAKEN, LOGITS_FILE) if not (folder / name).is_file()]
    if missing:
        raise FerError(
            f"not the results of a finished training: {', '.join(missing)} missing",
            where=folder,
            fix="run it to its end: python -m fer_ml.packed FOLDER --out RUNS",
        )
    recipe = training_of(job)
    for stage in sorted(folder.glob("stage_*")):
        for name in TAKEN:
            shutil.copyfile(stage / name, run.path(f"{stage.name}/{name}"))
    for name in TAKEN:
        shutil.copyfile(folder / name, run.path(name))
    facts = json.loads(run.path(TRAINING_FILE).read_text("utf-8"))
    machine = json.loads(run.path("environment.json").read_text("utf-8"))
    previous = _previous_label(job)
    facts["baseline"] = _baseline(job.input(previous)) if previous else None
    run.write_json(TRAINING_FILE, facts)
    manifest = job.input(MANIFEST)
    frame = read_curated(job, MANIFEST)
    rows = {split: frame.filter(pl.col("split") == split) for split in SPLITS}
    without = _fold_of(job)
    if without is not None:
        folds = folds_of(rows["train"]["group_id"], job.profile.softlabels.folds)
        rows["train"] = rows["train"].filter(pl.Series(folds != without))
    held = read_npz(folder / LOGITS_FILE)
    logits = {split: held[split] for split in SPLITS[1:]}
    for split, values in logits.items():
        write_predictions(run.path(f"predictions_{split}.csv"), rows[split], values)
    history = json.loads(run.path("history.json").read_text("utf-8"))
    run.write_json("alignmentreport.json", _alignment(job, recipe, manifest, rows))
    run.path("curves.png").write_bytes(curves_chart(history, facts["best_epoch"]))
    metrics = json.loads(run.path("reliabilitymetrics.json").read_text("utf-8"))
    temperature = metrics["temperature_scaled"]["global_temperature"]
    _write_plots(run, job.label, rows["val"], logits["val"], temperature)
    run.splits.update(checkpoint="val", temperature="calib")
    run.summary.update(
        rows=rows["train"].height,
        steps=facts["steps"],
        epochs=facts["epochs_run"],
        best_epoch=facts["best_epoch"],
        coverage=facts["coverage"],
        device=facts["device"],
        precision=facts["precision"],
        instruction_set=machine.get("instruction_set"),
        threads=machine["threads"],
        val_accuracy=metrics["raw"]["accuracy"],
        val_macro_f1=metrics["raw"]["macro_f1"],
        val_ece_scaled=metrics["temperature_scaled"]["ece"],
        temperature=temperature,
    )


def _write_plots(
    run: RunFolder, label: str, rows: pl.DataFrame, logits: np.ndarray, temperature: float
) -> None:
    y = np.array([CLASSES.index(name) for name in rows["label"]])
    probs = softmax(logits)
    matrix = confusion_matrix(y, probs.argmax(axis=1), len(CLASSES))
    run.path("confusion.png").write_bytes(confusion_chart(matrix, f"{label}, val, n={len(y)}"))
    run.path("reliability.png").write_bytes(
        reliability_chart(
            reliability_bins(y, probs),
            reliability_bins(y, softmax(logits, temperature)),
            f"{label}, val",
        )
    )


def _baseline(previous: Artifact) -> dict[str, Any]:
    """The student before this one, and its macro-F1 on the same val rows."""
    found = previous.read_json("reliabilitymetrics.json")
    return {
        "asset": previous.key,
        "sha256": previous.sha256,
        "split": found["split"],
        "manifest_sha256": found["manifest_sha256"],
        "macro_f1": found["raw"]["macro_f1"],
    }


def _alignment(
    job: Job, recipe: Training, manifest: Artifact, rows: dict[str, pl.DataFrame]
) -> dict[str, Any]:
    """``alignmentreport.json``: what the run was aligned to, in the first pipeline's keys."""
    everything = pl.concat(rows.values())
    return {
        "schema_version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "paths": {"manifest": manifest.key, "manifest_sha256": manifest.sha256},
        "seed": job.profile.seed if recipe.seed is None else recipe.seed,
        "model": {
            "name": recipe.architecture,
            "pretrained": recipe.init == "imagenet",
            "image_size": recipe.size or job.profile.preprocess.size,
        },
        "data": {
            **{f"{split}_rows": part.height for split, part in rows.items()},
            "class_counts": dict(rows["train"].group_by("label").len().sort("label").iter_rows()),
            "source_counts_after_filter": dict(
                everything.group_by("source").len().sort("source").iter_rows()
            ),
        },
        "protocol": asdict(recipe.task),
        "optim": {
            key: getattr(recipe, key)
            for key in ("optimiser", "lr", "weight_decay", "warmup_epochs", "min_lr", "clip_norm")
        },
        "batching": {
            key: getattr(recipe, key) for key in ("batch_size", "accumulate", "drop_last")
        },
        "aug": {
            "kind": recipe.augment,
            "strength": recipe.strength,
            "clahe_clip": job.profile.preprocess.clahe_clip,
        },
        "calibration": {"mode": "global", "fitted_on": "calib"},
        "init": {"init": recipe.init},
    }


def step_of(folder: Path) -> dict[str, Any]:
    """What a finished run of a packed training says that it is: asset, partition, origin."""
    path = folder / JOB_FILE
    if not path.is_file():
        raise FerError(
            "not the results of a packed training: job.json missing",
            where=folder,
            fix="name a folder below --out of: python -m fer_ml.packed FOLDER --out RUNS",
        )
    about = read_about(path)
    for label, origin in about.items():
        if step_folder(label) == folder.name:
            return {"label": label, **origin}
    raise FerError(
        f"{folder.name} is no step of its job",
        where=path,
        allowed=", ".join(step_folder(label) for label in about),
    )


def build_adopted(run: RunFolder, job: Job, folder: Path) -> None:
    """Take a run that was made elsewhere into the lineage, as the asset of ``job``.

    ``FerError`` unless it was made from exactly these inputs by exactly this recipe, and unless its
    weights give the predictions, and its predictions the metrics, that it came with.
    """
    told = step_of(folder)
    here = _origin(job, [name for name in job.inputs if name not in told["inputs"]])
    for what in ("asset", "partition", "recipe", "inputs"):
        if told[what] != here[what]:
            raise FerError(
                f"the run was made from other {what}: it says {told[what]}, here: {here[what]}",
                where=folder,
                fix="pack and train again; a run counts only for what it was made from",
            )
    if job.asset == LOGITS:
        _take_logits(run, job, folder)
        return
    if job.asset == SOFTLABELS:
        raise FerError(
            "soft labels are not taken in: they follow from the logits",
            where=folder,
            fix='fer materialize --select "ensemble,softlabels"',
        )
    _check_start(job, told, folder)
    _check_taught(job, told, folder)
    _check_predictions(job, folder)
    take(run, job, folder)


def _take_logits(run: RunFolder, job: Job, folder: Path) -> None:
    """Logits that were made elsewhere: of the checkpoints that were taken in, as they answer."""
    meta = json.loads((folder / META_FILE).read_text("utf-8"))
    own = Teacher.load(job.input("teacher", job.partition).folder)
    folds = [
        Teacher.load(artifact.folder)
        for label, artifact in job.inputs.items()
        if label.startswith("teacher_fold[")
    ]
    told = [meta["checkpoint_sha256"], *(fold["checkpoint_sha256"] for fold in meta["folds"])]
    here = [teacher.checkpoint_sha256 for teacher in (own, *folds)]
    if told != here:
        raise FerError(
            f"the logits are of the checkpoints {told}, here: {here}",
            where=folder,
            fix="adopt the teachers of the same packed job first",
        )
    train, others = faces_to_label(job)
    taught = read_taught(folder)
    if taught.centre.sample_ids != (*train.sample_ids, *others.sample_ids):
        raise FerError("the logits are of other faces", where=folder, fix="pack and run again")
    again = predict(own.network, replace(others, images=others.images[:AGAIN], y=others.y[:AGAIN]))
    away = float(np.abs(taught.centre.values[len(train) :][:AGAIN] - again).max())
    if not away <= FAR:
        raise FerError(
            f"the teacher does not give these logits: one differs by {away:.3g}",
            where=folder,
            allowed=f"at most {FAR}",
            fix="copy the run folder again",
        )
    for name in (CENTRE_FILE, ROWS_FILE, VIEWS_FILE, IN_SAMPLE_FILE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, run.path(name))
    finish_logits(run, job, meta)


def _check_taught(job: Job, told: dict[str, Any], folder: Path) -> None:
    """A student that was taught in its own job was taught what follows from the logits here."""
    recipe = training_of(job)
    if not isinstance(recipe.task, Distilling) or SOFTLABELS in told["inputs"]:
        return
    name = soft_file(recipe.soft_labels)
    theirs = read_soft_targets(folder.parent / step_folder(SOFTLABELS) / name)
    frame = read_curated(job, MANIFEST).filter(pl.col("split") == "train")
    ours = read_softlabels(
        job.input(SOFTLABELS), job.input(MANIFEST), frame, job.profile.preprocess, recipe
    )
    same_shape = theirs.logits.shape == ours.logits.shape
    away = float(np.abs(theirs.logits - ours.logits).max()) if same_shape else np.inf
    if not (
        away <= FAR
        and theirs.view_seed == ours.view_seed
        and abs(theirs.kd_temperature / ours.kd_temperature - 1) < 1e-3
    ):
        raise FerError(
            "the student was taught other soft labels than those here: a logit differs by "
            f"{away:.3g}, T {theirs.kd_temperature:.4f} and {ours.kd_temperature:.4f}",
            where=folder,
            fix="adopt teachers and teacher_logits of the same packed job, then: fer materialize "
            '--select "ensemble,softlabels"',
        )


def _check_start(job: Job, told: dict[str, Any], folder: Path) -> None:
    """A step that started from an earlier one started from the weights that were taken in here."""
    facts = json.loads((folder / TRAINING_FILE).read_text("utf-8"))
    previous = _previous_label(job)
    if facts["init"] != "previous" or previous is None or previous in told["inputs"]:
        return
    held = job.input(previous).read_json(TRAINING_FILE)["best_weights_sha256"]
    if facts["init_sha256"] != held:
        raise FerError(
            f"the run started from weights {facts['init_sha256'][:12]}, {previous} is {held[:12]}",
            where=folder,
            fix=f"adopt {previous} of the same packed training first",
        )


#: Rows of val that are predicted again, and how far another machine's logits may lie.
AGAIN, FAR = 256, 0.05


def _check_predictions(job: Job, folder: Path) -> None:
    checkpoint = load_checkpoint(folder / CHECKPOINT_FILE)
    frame = read_curated(job, MANIFEST).filter(pl.col("split") == "val")
    faces = load_faces(frame, job.store.root, checkpoint.preprocess, job.store.root / "cache")
    logits = read_npz(folder / LOGITS_FILE).get("val", np.empty(0))
    if logits.shape != (len(faces), len(CLASSES)):
        raise FerError(f"the run has logits {logits.shape} for {len(faces)} val rows", where=folder)
    some = replace(faces, images=faces.images[:AGAIN], y=faces.y[:AGAIN])
    away = float(np.abs(predict(checkpoint.network(), some) - logits[:AGAIN]).max())
    if not away <= FAR:
        raise FerError(
            f"best.pt does not give the run's own predictions: a logit differs by {away:.3g}",
            where=folder,
            allowed=f"at most {FAR}",
            fix="copy the run folder again",
        )
    told = json.loads((folder / "reliabilitymetrics.json").read_text("utf-8"))
    raw = classification_metrics(faces.y, logits)
    digest = sha256_file(folder / CHECKPOINT_FILE)
    if told["checkpoint_sha256"] != digest or abs(told["raw"]["macro_f1"] - raw["macro_f1"]) > 1e-6:
        raise FerError(
            "the run's metrics are not those of its predictions and of its best.pt",
            where=folder,
            fix="copy the run folder again",
        )
