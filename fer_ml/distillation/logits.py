"""A teacher's logits on every face that is needed later, and the files that hold them.

Needs torch and numpy alone. With folds, the logits of training faces are out-of-fold: they come
from a network that saw neither the face nor a near-identical one in training.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, temporary, write_json
from fer_ml.base.kept import keep, kept
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npy, read_npz
from fer_ml.base.reading import read_json, sha256_file
from fer_ml.base.versions import upgraded
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Views
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.views import FaceSet, face_keys, to_input, uniforms, views

CENTRE_FILE = "logits.npy"
VIEWS_FILE = "views.npy"
IN_SAMPLE_FILE = "in_sample.npy"
ROWS_FILE = "rows.npz"
META_FILE = "logits.json"
#: Training rows in one file of what is done so far: what a kill costs at most.
SHARD = 2048
BATCH = 256


@dataclass(frozen=True)
class Logits:
    """Logits ``values [N, C]`` with the sample id of each row, for lookup by ``sample_id``."""

    values: np.ndarray
    sample_ids: tuple[str, ...]

    def of(self, sample_ids: Sequence[str]) -> np.ndarray:
        """Return the rows of ``sample_ids`` in that order, float32; ``FerError`` if one lacks."""
        index = {sample_id: i for i, sample_id in enumerate(self.sample_ids)}
        missing = [sample_id for sample_id in sample_ids if sample_id not in index]
        if missing:
            raise FerError(
                f"{len(missing)} of {len(sample_ids)} faces have no logits, first {missing[0]}",
                code="missing-logits",
                fix="materialize teacher_logits again, after the manifests",
            )
        rows = [index[sample_id] for sample_id in sample_ids]
        return np.asarray(self.values[rows], dtype=np.float32)


def write_logits(folder: Path, logits: Logits, **columns: np.ndarray) -> None:
    """Write ``logits.npy``, float16 ``[N, C]``, and ``rows.npz``: sample ids and ``columns``."""
    np.save(folder / CENTRE_FILE, logits.values.astype(np.float16))
    ids = np.array(logits.sample_ids, dtype="S32")
    np.savez(folder / ROWS_FILE, sample_id=ids, **columns)  # type: ignore[arg-type]


def read_logits(folder: Path) -> Logits:
    """Read the files of ``write_logits``, memory-mapped; nothing is unpickled."""
    ids = tuple(name.decode() for name in read_npz(folder / ROWS_FILE, "sample_id")["sample_id"])
    return Logits(read_npy(folder / CENTRE_FILE), ids)


@dataclass(frozen=True)
class Teacher:
    """A trained network that labels faces, with its T from calib and its checkpoint's hash.

    ``preprocess`` is the preprocessing of the faces that it was trained on.
    """

    network: nn.Module
    temperature: float
    checkpoint_sha256: str
    preprocess: Preprocess

    @classmethod
    def load(cls, folder: Path) -> "Teacher":
        """Load the teacher from the run directory of its training."""
        path = folder / CHECKPOINT_FILE
        calibration = read_json(folder / "calibration.json")
        checkpoint = load_checkpoint(path)
        temperature = calibration["global_temperature"]
        return cls(checkpoint.network(), temperature, sha256_file(path), checkpoint.preprocess)

    def demand(self, preprocess: Preprocess) -> None:
        """Raise ``FerError`` unless the teacher was trained on faces prepared by ``preprocess``."""
        expected, given = self.preprocess.plain(), preprocess.plain()
        different = [name for name in expected if expected[name] != given[name]]
        if different:
            raise FerError(
                "the teacher was trained on faces prepared in another way than those it should "
                "label: "
                + ", ".join(f"{name} {expected[name]} and {given[name]}" for name in different),
                code="preprocess-mismatch",
                where=f"checkpoint {self.checkpoint_sha256[:12]}",
                fix="train or adopt the teacher with the profile's preprocess",
            )


def label_faces(
    folder: Path,
    teacher: Teacher,
    folds: Sequence[Teacher],
    train: FaceSet,
    others: FaceSet,
    plan: Views | None,
    *,
    keep: Path,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Write a teacher's logits into ``folder``; return the contents of ``logits.json``.

    The ``train`` rows come first, each labelled by ``folds[row.fold]``, or by ``teacher`` without
    folds; ``others`` are labelled by ``teacher``. A training row gets logits of its centre view, of
    the views of ``plan`` (``views.npy`` float16 ``[T, V, C]``) and, with folds, of the teacher that
    trained on it (``in_sample.npy`` ``[T, C]``), all in one pass over the images. Finished shards
    stay in ``keep`` and are not computed again. ``FerError`` if a teacher was trained on faces
    with another preprocessing.
    """
    for each in (teacher, *folds):
        each.demand(train.preprocess)
        each.network.to(device).eval()
    keep.mkdir(parents=True, exist_ok=True)
    ask = _Ask(train, tuple(folds) or (teacher,), train.fold if folds else None, plan)
    if folds:
        ask = replace(ask, also=teacher)
    labelled = np.concatenate(
        [_kept(keep / f"train_{r.start}.npy", ask, r) for r in _shards(train)]
    )
    plain = _Ask(others, (teacher,))
    rest = [_kept(keep / f"others_{r.start}.npy", plain, r)[:, 0] for r in _shards(others)]
    centre = np.concatenate([labelled[:, 0], *rest])
    column = np.full(len(centre), -1, dtype=np.int8)
    if folds:
        assert train.fold is not None
        column[: len(train)] = train.fold
        np.save(folder / IN_SAMPLE_FILE, labelled[:, -1])
    write_logits(folder, Logits(centre, (*train.sample_ids, *others.sample_ids)), fold=column)
    if plan is not None:
        np.save(folder / VIEWS_FILE, labelled[:, 1 : 1 + plan.count])
    meta = {
        "schema_version": 2,
        "classes": list(CLASSES),
        "rows": len(centre),
        "train_rows": len(train),
        "temperature": teacher.temperature,
        "checkpoint_sha256": teacher.checkpoint_sha256,
        "folds": [
            {"checkpoint_sha256": each.checkpoint_sha256, "temperature": each.temperature}
            for each in folds
        ],
        "out_of_fold": bool(folds),
        "views": asdict(plan) if plan else None,
        "preprocess_sha256": train.preprocess.digest(),
    }
    write_json(folder / META_FILE, meta)
    return meta


def _shards(faces: FaceSet) -> list[slice]:
    return [slice(start, start + SHARD) for start in range(0, len(faces), SHARD)]


@dataclass(frozen=True)
class _Ask:
    """Who answers which faces: ``teachers[fold]`` the centre and the views, ``also`` the centre."""

    faces: FaceSet
    teachers: tuple[Teacher, ...]
    fold: np.ndarray | None = None
    plan: Views | None = None
    also: Teacher | None = None


def _kept(path: Path, ask: _Ask, rows: slice) -> np.ndarray:
    """The answers for a shard, from ``path`` where it is finished."""
    earlier = kept(path)
    if earlier is not None:
        return np.array(read_npy(earlier))
    answers = _answers(ask, np.arange(len(ask.faces))[rows])
    partial = temporary(path)
    try:
        with partial.open("wb") as file:
            np.save(file, answers)
        keep(partial, path)
    finally:
        discard(partial)
    return answers


def _answers(ask: _Ask, rows: np.ndarray) -> np.ndarray:
    """``[n, 1 + V (+ 1), C] float16``: the centre, the views, and what ``also`` says."""
    faces, plan = ask.faces, ask.plan
    count = plan.count if plan else 0
    heads = 1 + count + (ask.also is not None)
    out = np.empty((len(rows), heads, len(CLASSES)), dtype=np.float16)
    for number, teacher in enumerate(ask.teachers):
        device = next(teacher.network.parameters()).device
        positions = (
            np.flatnonzero(ask.fold[rows] == number) if ask.fold is not None else rows - rows[0]
        )
        for start in range(0, len(positions), BATCH):
            at = positions[start : start + BATCH]
            images = faces.images[rows[at]]
            centre = to_input(images, faces.preprocess, device)
            out[at, 0] = _logits(teacher, centre)
            if ask.also is not None:
                out[at, -1] = _logits(ask.also, centre)
            if plan is None:
                continue
            keys = face_keys(faces.sample_ids[row] for row in rows[at])
            for view in range(count):
                draws = uniforms(keys, plan.seed, view)
                seen = views(images, draws, plan, faces.preprocess, device)
                out[at, 1 + view] = _logits(teacher, seen)
    return out


def _logits(teacher: Teacher, batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = teacher.network(batch).float().cpu().numpy()
    return answer


@dataclass(frozen=True)
class Taught:
    """One teacher's logits, as ``read_taught`` returns them.

    ``centre`` has the logits of every face's centre view. For the T training rows, in their order,
    ``train [T, V, C] float32`` has those of the views (or of the centre view alone). With folds,
    the logits of a training row in both come from the fold's network, which never saw the row, and
    are divided by that network's temperature and multiplied by the teacher's, both from calib.
    ``in_sample [T, C]`` has the centre view's logits by the teacher, which trained on these rows.
    Without folds, all logits are the teacher's.
    """

    centre: Logits
    train: np.ndarray
    in_sample: np.ndarray
    fold: np.ndarray
    temperature: float
    meta: dict[str, Any]

    @property
    def train_ids(self) -> tuple[str, ...]:
        """Return the sample ids of ``train``, in its order."""
        return self.centre.sample_ids[: len(self.train)]


def read_taught(folder: Path) -> Taught:
    """Read a teacher's logits from a folder of ``label_faces``."""
    meta = read_json(folder / META_FILE)
    meta = upgraded("labels of a teacher", meta, folder)
    logits, rows = read_logits(folder), meta["train_rows"]
    fold = read_npz(folder / ROWS_FILE, "fold")["fold"][:rows]
    values = logits.values.astype(np.float32)
    scale = np.ones(rows, dtype=np.float32)
    in_sample = values[:rows]
    if meta["folds"]:
        temperatures = np.array([each["temperature"] for each in meta["folds"]], dtype=np.float32)
        scale = (np.float32(meta["temperature"]) / temperatures)[fold]
        in_sample = read_npy(folder / IN_SAMPLE_FILE).astype(np.float32)
        values[:rows] *= scale[:, None]
    train = values[:rows, None]
    if meta["views"]:
        train = read_npy(folder / VIEWS_FILE) * scale[:, None, None]
    centre = Logits(values, logits.sample_ids)
    return Taught(centre, train, in_sample, fold, meta["temperature"], meta)
