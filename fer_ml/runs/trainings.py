"""Run folders of teachers and students: pack, train, take the results into the lineage."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.files import linked, sha256_file
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.distillation.fusion import Fusion
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
from fer_ml.manifests.curation import read_curated
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
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Distilling, Training, Views
from fer_ml.runs.ensemble import given_weights
from fer_ml.runs.logits import faces_to_label, finish_logits, other_faces
from fer_ml.runs.softlabels import read_softlabels
from fer_ml.storage.job import Job
from fer_ml.storage.store import Artifact, RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE, load_checkpoint
from fer_ml.training.loop import predict
from fer_ml.training.ranks import Ranks, choose_device

MANIFEST = "hq_train_manifest"
SOFTLABELS = "softlabels"
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


@dataclass(frozen=True)
class Trained:
    """A training as part of a packed job.

    ``previous`` is the student before this one; ``fold`` is the part of the training rows, of
    ``folds`` by group, that it leaves out.
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
    """The labelling of every face by one teacher.

    The training rows, in ``folds`` parts by group, are labelled by its trainings without one of
    them, whose partitions of ``teacher_fold`` are ``by_folds``.
    """

    job: Job[Any]
    preprocess: Preprocess
    views: Views | None
    folds: int = 0
    by_folds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fused:
    """How the teachers are fused: as ``fuse_teachers`` takes it. No step: soft labels do it."""

    job: Job[Any]
    teachers: tuple[str, ...]
    fusion: Fusion
    weights: tuple[float, ...] | str | None
    step: float


@dataclass(frozen=True)
class Softened:
    """The soft labels, whose temperature gives them ``target_entropy`` nats."""

    job: Job[Any]
    target_entropy: float


#: What one asset is in a packed job.
Part = Trained | Labelled | Fused | Softened


def train(run: RunFolder, part: Trained) -> None:
    """Make one training's run folder.

    A training that was stopped left its state in ``unfinished/``; it goes on from there when its
    inputs and recipe are still the same.
    """
    job = part.job
    work = job.kept(run)
    packed = work / "job"
    if not (packed / JOB_FILE).is_file():
        shutil.rmtree(packed, ignore_errors=True)
        pack([part], packed)
    if job.processes > 1:
        from fer_ml.packed.launch import launch  # The launcher takes a while to import.

        (folder,) = launch(packed, work / "runs", job.device, job.processes)
    else:
        (folder,) = run_job(packed, work / "runs", Ranks(0, 1, choose_device(job.device)))
    take(run, part, folder)


def pack(parts: Sequence[Part], folder: Path, *, copy: bool = False) -> None:
    """Write one packed job of these assets, in their order. Images are links, or copies.

    What is made from another asset of ``parts`` is made from what that one will be. At least one
    of them is a training or a labelling.
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
        about={part.job.label: _origin(part.job, names) for part in parts},
    )


def _steps_of(
    part: Part, parts: Sequence[Part], before: list[AnyStep], folder: Path
) -> list[AnyStep]:
    """The steps of one asset: one, but none for the ensemble, which is part of its soft labels."""
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
    """How the teachers are fused: by the ensemble of the same packed job, or the one that is."""
    for part in parts:
        if isinstance(part, Fused):
            return part
    held = job.input("ensemble").record.recipe
    weights = tuple(held["weights"]) if isinstance(held["weights"], list) else held["weights"]
    return Fused(job, tuple(held["teachers"]), held["fusion"], weights, held["step"])


def _demand_steps(job: Job[Any], wanted: list[str], before: list[AnyStep]) -> None:
    missing = [name for name in wanted if name not in [step.name for step in before]]
    if missing:
        raise FerError(
            f"{job.label} in a packed job needs {', '.join(missing)} before it, in the same job",
            fix=f'fer pack "{",".join([*missing, job.label])}" FOLDER',
        )


def _start_of(part: Trained, before: list[AnyStep], folder: Path) -> str | None:
    """The training that gives the first weights, or ``None``; its checkpoint if it is no step."""
    previous = part.previous
    if part.training.stages()[0].init != "previous" or previous is None:
        return None
    if previous not in [step.name for step in before]:
        shutil.copyfile(part.job.input(previous).file(CHECKPOINT_FILE), folder / PREVIOUS_FILE)
    return previous


def _pack_soft_labels(parts: Sequence[Trained], frame: pl.DataFrame, folder: Path) -> None:
    rows = frame.filter(pl.col("split") == "train")
    for part in parts:
        recipe = part.training
        if isinstance(recipe.task, Distilling):
            held = part.job.input(SOFTLABELS), part.job.input(MANIFEST)
            soft = read_softlabels(*held, rows, part.preprocess, recipe)
            write_soft_targets(folder / soft_file(recipe.soft_labels), soft)


def _origin(job: Job[Any], steps: list[str]) -> dict[str, Any]:
    """What a run must have been made from to be taken in as ``job``'s asset, as JSON values.

    Inputs that are steps of the same packed training are not known yet.
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
    """How the faces of a split are packed; ``folds`` parts by group are noted where there are."""

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
    faces = load_faces(rows, how.root, used, cache)
    if how.folds:
        faces = replace(faces, fold=folds_of(rows["group_id"], how.folds))
    source = packed_faces(rows, how.root, used, cache)
    images = target / "images.npy"
    if copy or not linked(source, images):
        shutil.copyfile(source, images)
    write_rows(target / "rows.npz", faces)


def take(run: RunFolder, part: Trained, folder: Path) -> None:
    """Put what a training left in ``folder`` into the run folder, with tables and plots of it."""
    job = part.job
    missing = [name for name in (*TAKEN, LOGITS_FILE) if not (folder / name).is_file()]
    if missing:
        raise FerError(
            f"not the results of a finished training: {', '.join(missing)} missing",
            where=folder,
            fix="run it to its end: python -m fer_ml.packed FOLDER --out RUNS",
        )
    for stage in sorted(folder.glob("stage_*")):
        for name in TAKEN:
            shutil.copyfile(stage / name, run.path(f"{stage.name}/{name}"))
    for name in TAKEN:
        shutil.copyfile(folder / name, run.path(name))
    facts = json.loads(run.path(TRAINING_FILE).read_text("utf-8"))
    machine = json.loads(run.path("environment.json").read_text("utf-8"))
    facts["baseline"] = _baseline(job.input(part.previous)) if part.previous else None
    run.write_json(TRAINING_FILE, facts)
    manifest = job.input(MANIFEST)
    frame = read_curated(job, MANIFEST)
    rows = {split: frame.filter(pl.col("split") == split) for split in SPLITS}
    if part.fold is not None:
        folds = folds_of(rows["train"]["group_id"], part.folds)
        rows["train"] = rows["train"].filter(pl.Series(folds != part.fold))
    held = read_npz(folder / LOGITS_FILE)
    logits = {split: held[split] for split in SPLITS[1:]}
    for split, values in logits.items():
        write_predictions(run.path(f"predictions_{split}.csv"), rows[split], values)
    history = json.loads(run.path("history.json").read_text("utf-8"))
    run.write_json("alignmentreport.json", _alignment(part, manifest, rows))
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


def _alignment(part: Trained, manifest: Artifact, rows: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """``alignmentreport.json``: what the run was aligned to, in the first pipeline's keys."""
    recipe = part.training
    everything = pl.concat(rows.values())
    return {
        "schema_version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "paths": {"manifest": manifest.key, "manifest_sha256": manifest.sha256},
        "seed": part.seed if recipe.seed is None else recipe.seed,
        "model": {
            "name": recipe.architecture,
            "pretrained": recipe.init == "imagenet",
            "image_size": recipe.size or part.preprocess.size,
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
            "clahe_clip": part.preprocess.clahe_clip,
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


def take_in(run: RunFolder, part: Part, folder: Path) -> None:
    """Take a run that was made elsewhere into the lineage, as the asset of ``part``.

    ``FerError`` unless it was made from exactly these inputs by exactly this recipe, and unless its
    weights give the predictions, and its predictions the metrics, that it came with.
    """
    job, told = part.job, step_of(folder)
    here = _origin(job, [name for name in job.inputs if name not in told["inputs"]])
    for what in ("asset", "partition", "recipe", "inputs"):
        if told[what] != here[what]:
            raise FerError(
                f"the run was made from other {what}: it says {told[what]}, here: {here[what]}",
                where=folder,
                fix="pack and train again; a run counts only for what it was made from",
            )
    if isinstance(part, Labelled):
        _take_logits(run, part, folder)
        return
    if not isinstance(part, Trained):
        raise FerError(
            "soft labels are not taken in: they follow from the logits",
            where=folder,
            fix='fer materialize --select "ensemble,softlabels"',
        )
    _check_start(part, told, folder)
    _check_taught(part, told, folder)
    _check_predictions(job, folder)
    take(run, part, folder)


def _take_logits(run: RunFolder, part: Labelled, folder: Path) -> None:
    """Logits that were made elsewhere: of the checkpoints that were taken in, as they answer."""
    job = part.job
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
    train, others = faces_to_label(job, part.preprocess, part.folds)
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


def _check_taught(part: Trained, told: dict[str, Any], folder: Path) -> None:
    """A student that was taught in its own job was taught what follows from the logits here."""
    job, recipe = part.job, part.training
    if not isinstance(recipe.task, Distilling) or SOFTLABELS in told["inputs"]:
        return
    name = soft_file(recipe.soft_labels)
    theirs = read_soft_targets(folder.parent / step_folder(SOFTLABELS) / name)
    frame = read_curated(job, MANIFEST).filter(pl.col("split") == "train")
    ours = read_softlabels(
        job.input(SOFTLABELS), job.input(MANIFEST), frame, part.preprocess, recipe
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


def _check_start(part: Trained, told: dict[str, Any], folder: Path) -> None:
    """A step that started from an earlier one started from the weights that were taken in here."""
    job, previous = part.job, part.previous
    facts = json.loads((folder / TRAINING_FILE).read_text("utf-8"))
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


def _check_predictions(job: Job[Any], folder: Path) -> None:
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
