"""A packed training: a folder that holds everything a training needs, and its reader.

::

    job.json            the trainings with their recipes, seed, hashes of all files
    <split>/images.npy  [N, P, P, 3] uint8 RGB, decoded, cropped, CLAHE applied; if they are many,
                        continued in images_00001.npy and so on
    <split>/rows.npz    labels, sample ids, votes, weights, negative labels, folds
    softlabels.npz      the teachers' logits for the training rows, when a step distils
    previous.pt         the checkpoint that the first step starts from, when it does

It is read with numpy and torch alone, so the same folder trains on a laptop, on a GPU box, or on a
cluster, where nothing else of this project's dependencies is installed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.files import stays_below, write_json
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npy, read_npz, stacked
from fer_ml.base.reading import read_file, sha256_file
from fer_ml.base.versions import upgraded
from fer_ml.recipes.preprocess import Preprocess, read_preprocess
from fer_ml.recipes.training import Training, Views, read_plain
from fer_ml.training.views import FaceSet, SoftTargets

JOB_FILE = "job.json"
SOFT_FILE = "softlabels.npz"
PREVIOUS_FILE = "previous.pt"
#: No job needs more bytes of JSON: it names a few dozen files.
MAX_JOB = 16 << 20
#: What a training reads: it learns from the first, selects on the second, calibrates on the third.
SPLITS = ("train", "val", "calib")
#: All faces that teachers label besides the training rows.
OTHERS = "others"


@dataclass(frozen=True)
class Step:
    """A step that trains: its name (an asset's label) and recipe.

    ``previous`` names the training whose weights it starts from: an earlier step, or else the one
    whose checkpoint is ``PREVIOUS_FILE``. ``without_fold`` is the fold of the training rows to
    leave out, so that the network can label these faces without having seen them.
    """

    name: str
    recipe: Training
    previous: str | None = None
    without_fold: int | None = None

    @property
    def folder(self) -> str:
        """The name of the step's result folder below the job's output."""
        return step_folder(self.name)


@dataclass(frozen=True)
class LogitsStep:
    """A step that computes one teacher's logits on every face of the job.

    ``teacher`` names the earlier step whose network is used. The steps in ``folds`` each label the
    fold that they left out. ``views`` are the augmented views to label beside the centre view.
    """

    name: str
    teacher: str
    folds: tuple[str, ...] = ()
    views: Views | None = None

    @property
    def folder(self) -> str:
        """The name of the step's result folder below the job's output."""
        return step_folder(self.name)


@dataclass(frozen=True)
class SoftLabelsStep:
    """A step that makes soft labels from the ``LogitsStep`` of each member of the ensemble.

    If ``weights`` is null, they are searched on calib in steps of ``grid``. ``target_entropy`` is
    in nats.
    """

    name: str
    members: tuple[str, ...]
    fusion: Literal["logits", "probabilities", "calibrated"]
    weights: tuple[float, ...] | None
    grid: float
    target_entropy: float

    @property
    def folder(self) -> str:
        """The name of the step's result folder below the job's output."""
        return step_folder(self.name)


AnyStep = Step | LogitsStep | SoftLabelsStep
_KINDS: dict[str, type[AnyStep]] = {
    "training": Step,
    "logits": LogitsStep,
    "softlabels": SoftLabelsStep,
}


def step_folder(name: str) -> str:
    """Return the folder name of the step ``name``, an asset's label such as ``teacher[B0]``."""
    return name.replace("[", "_").replace("]", "")


@dataclass(frozen=True)
class PackedJob:
    """A checked ``job.json``. ``about`` holds facts for the later import of the results."""

    folder: Path
    steps: tuple[AnyStep, ...]
    seed: int
    preprocess: Preprocess
    manifest_sha256: str
    about: dict[str, Any]
    key: str

    def faces(self, split: str, size: int | None = None) -> FaceSet:
        """Read the faces of one split, at ``size`` px or else at the job's size."""
        preprocess = self.preprocess if size is None else _resized(self.preprocess, size)
        folder = self.folder / split_folder(split, self.preprocess, preprocess)
        path = folder / "rows.npz"
        arrays = read_npz(path, "y", "sample_id", "votes")
        try:
            y = arrays["y"].astype(np.int64)
            files = sorted(folder.glob("images*.npy")) or [folder / images_file(0)]
            images = stacked([read_npy(file) for file in files])
            if len(images) != len(y):
                raise ValueError(f"{len(images):,} images of {len(y):,} faces")
            return FaceSet(
                images=images,
                y=y,
                sample_ids=tuple(name.decode() for name in arrays["sample_id"]),
                preprocess=preprocess,
                votes=arrays["votes"],
                weight=arrays.get("weight"),
                negative=arrays["negative"].astype(np.int64) if "negative" in arrays else None,
                fold=arrays.get("fold"),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise FerError(
                f"the file does not hold the faces of a packed training: {error}",
                code="damaged-packed-training",
                where=path,
                fix="copy the folder again",
            ) from error


def images_file(number: int) -> str:
    """Return the name of the ``number``-th file of images, so that names sort like numbers."""
    return f"images_{number:05d}.npy" if number else "images.npy"


def soft_file(kind: str) -> str:
    """Return the file name of one kind of soft labels (see ``Training.soft_labels``)."""
    return SOFT_FILE if kind == "standard" else f"softlabels_{kind}.npz"


def read_soft_targets(path: Path) -> SoftTargets:
    """Read the soft labels of the training rows, as ``write_soft_targets`` wrote them."""
    if not path.is_file():
        raise FerError(
            "a step distils, but there are no soft labels for it",
            code="missing-soft-labels",
            where=path,
            fix="copy the folder again",
        )
    arrays = read_npz(path)
    try:
        seed = int(arrays["view_seed"])
        return SoftTargets(
            arrays["logits"].astype(np.float32),
            float(arrays["kd_temperature"]),
            None if seed < 0 else seed,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FerError(
            f"the file does not hold the soft labels of a packed training: {error}",
            code="damaged-packed-training",
            where=path,
            fix="copy the folder again",
        ) from error


def write_soft_targets(path: Path, soft: SoftTargets) -> None:
    """Write soft labels for a packed training; ``view_seed`` -1 means one centre view."""
    np.savez(
        path,
        logits=soft.logits.astype(np.float16),
        kd_temperature=np.float64(soft.kd_temperature),
        view_seed=np.int64(-1 if soft.view_seed is None else soft.view_seed),
    )


def _resized(preprocess: Preprocess, size: int) -> Preprocess:
    resized: Preprocess = read_plain(Preprocess, {**preprocess.plain(), "size": size}, "preprocess")
    return resized


def split_folder(split: str, base: Preprocess, used: Preprocess) -> str:
    """Return a split's folder: ``train``, or ``train_384`` for a size that is not the job's."""
    return split if used.size == base.size else f"{split}_{used.size}"


def write_rows(path: Path, faces: FaceSet) -> None:
    """Write the ``rows.npz`` of a split: labels, sample ids, votes, weights and folds."""
    arrays: dict[str, Any] = {
        "y": faces.y.astype(np.uint8),
        "sample_id": np.array(faces.sample_ids, dtype="S32"),
        "votes": faces.votes,
    }
    if faces.weight is not None:
        arrays["weight"] = faces.weight
    if faces.negative is not None:
        arrays["negative"] = faces.negative.astype(np.int8)
    if faces.fold is not None:
        arrays["fold"] = faces.fold
    np.savez(path, **arrays)


def write_job(
    folder: Path,
    *,
    steps: Sequence[AnyStep],
    seed: int,
    preprocess: Preprocess,
    manifest_sha256: str,
    about: dict[str, Any],
) -> None:
    """Write ``job.json``, which names and hashes every file already in ``folder``; call it last."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOB_FILE
    }
    write_json(
        folder / JOB_FILE,
        {
            "schema_version": 2,
            "steps": [
                {"kind": kind, **asdict(step)}
                for step in steps
                for kind, made in _KINDS.items()
                if isinstance(step, made)
            ],
            "seed": seed,
            "preprocess": preprocess.plain(),
            "classes": list(CLASSES),
            "manifest_sha256": manifest_sha256,
            "files": files,
            "about": about,
        },
    )


def read_job(folder: Path) -> PackedJob:
    """Read a packed training; ``FerError`` if it is invalid or a file does not match its hash."""
    path = folder / JOB_FILE
    try:
        data = read_file(path, MAX_JOB)
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        document = upgraded("packed training", document, path)
        return _job(folder, path, document, hashlib.sha256(data).hexdigest())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FerError(
            f"not a packed training: {type(error).__name__}: {str(error)[:200]}",
            code="not-a-packed-training",
            where=path,
            fix="make one with: fer pack ASSET FOLDER",
        ) from error


def read_about(path: Path) -> dict[str, dict[str, Any]]:
    """Return the origin of each step in a ``job.json``, by the step's label."""
    try:
        about = json.loads(read_file(path, MAX_JOB))["about"]
        if not all(isinstance(origin, dict) for origin in about.values()):
            raise ValueError("an origin is no JSON object")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FerError(
            f"job.json is damaged: {str(error)[:200]}",
            code="damaged-packed-training",
            where=path,
            fix="copy the folder again",
        ) from error
    return dict(about)


def _job(folder: Path, path: Path, document: dict[str, Any], key: str) -> PackedJob:
    if document.get("classes") != list(CLASSES):
        raise FerError(
            f"class order of the job is {document.get('classes')}",
            code="wrong-class-order",
            where=path,
            allowed=list(CLASSES),
        )
    for name, digest in document["files"].items():
        if not stays_below(name):
            raise FerError(
                f"the path {name!r} leads out of the folder",
                code="path-leaves-root",
                where=path,
                allowed="paths inside the folder",
            )
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            raise FerError(
                f"{name} is {'damaged' if file.is_file() else 'missing'}",
                code="damaged-packed-training",
                where=folder,
                fix="copy the folder again",
            )
    steps = []
    for number, entry in enumerate(document["steps"]):
        kind = entry.pop("kind")
        if kind not in _KINDS:
            raise FerError(
                f"step {number} has the unknown kind {kind!r}",
                code="unknown-step-kind",
                where=path,
                allowed=", ".join(_KINDS),
            )
        steps.append(read_plain(_KINDS[kind], entry, f"steps.{number}"))
        # Its results go into a folder of this name.
        if not stays_below(steps[-1].folder) or "/" in steps[-1].folder:
            raise FerError(
                f"step {number} has the name {steps[-1].name!r}, which cannot name a folder",
                code="invalid-step-name",
                where=path,
                fix="pack the training again",
            )
    return PackedJob(
        folder=folder,
        steps=tuple(steps),
        seed=document["seed"],
        preprocess=read_preprocess(document["preprocess"]),
        manifest_sha256=document["manifest_sha256"],
        about=document["about"],
        key=key,
    )
