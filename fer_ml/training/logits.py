"""A teacher's logits on every face that is needed later, and the files that hold them.

Needs torch and numpy alone. A training face is answered by the training that left its fold out, so
that no soft label comes from a network that saw the face, or a near-identical one, with its label.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_ml.errors import FerError
from fer_ml.files import sha256_file, write_atomic, write_json
from fer_ml.labels import CLASSES
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.faces import FaceSet, face_keys, to_input, uniforms, views
from fer_ml.training.recipe import Views

CENTRE_FILE = "logits.npy"
VIEWS_FILE = "views.npy"
ROWS_FILE = "rows.npz"
META_FILE = "logits.json"
#: Training rows in one file of what is done so far: what a kill costs at most.
SHARD = 2048
BATCH = 256


@dataclass(frozen=True)
class Logits:
    """``values [N, C]`` and the sample they belong to; a lookup by ``sample_id``."""

    values: np.ndarray
    sample_ids: tuple[str, ...]

    def of(self, sample_ids: Sequence[str]) -> np.ndarray:
        """The rows of ``sample_ids`` in that order, float32; a missing one is a ``FerError``."""
        index = {sample_id: i for i, sample_id in enumerate(self.sample_ids)}
        missing = [sample_id for sample_id in sample_ids if sample_id not in index]
        if missing:
            raise FerError(
                f"{len(missing)} of {len(sample_ids)} faces have no logits, first {missing[0]}",
                fix="materialize teacher_logits again, after the manifests",
            )
        rows = [index[sample_id] for sample_id in sample_ids]
        return np.asarray(self.values[rows], dtype=np.float32)


def write_logits(folder: Path, logits: Logits, **columns: np.ndarray) -> None:
    """``logits.npy`` float16 ``[N, C]`` and ``rows.npz``: sample ids and further columns."""
    np.save(folder / CENTRE_FILE, logits.values.astype(np.float16))
    ids = np.array(logits.sample_ids, dtype="S32")
    np.savez(folder / ROWS_FILE, sample_id=ids, **columns)  # type: ignore[arg-type]


def read_logits(folder: Path) -> Logits:
    """What ``write_logits`` wrote, memory-mapped; no pickled objects are read."""
    with np.load(folder / ROWS_FILE, allow_pickle=False) as held:
        ids = tuple(name.decode() for name in held["sample_id"])
    return Logits(np.load(folder / CENTRE_FILE, mmap_mode="r", allow_pickle=False), ids)


@dataclass(frozen=True)
class Teacher:
    """A finished training that answers: its network, its T from calib, its checkpoint's hash."""

    network: nn.Module
    temperature: float
    checkpoint_sha256: str

    @classmethod
    def load(cls, folder: Path, temperature: float) -> "Teacher":
        """The teacher of a run folder."""
        path = folder / CHECKPOINT_FILE
        return cls(load_checkpoint(path).network(), temperature, sha256_file(path))


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
    """Write a teacher's logits into ``folder``; returns what ``logits.json`` says.

    ``train`` rows come first, each answered by ``folds[row.fold]``, or by ``teacher`` without
    folds; ``others`` are answered by ``teacher``. Every training row gets its centre and, by
    ``plan``, its views, which are made once for all: ``views.npy`` float16 ``[T, V, C]``. Finished
    shards are kept in ``keep`` and not computed again.
    """
    answering = list(folds) or [teacher]
    fold = train.fold if folds else np.zeros(len(train), dtype=np.int8)
    assert fold is not None
    for each in (teacher, *answering):
        each.network.to(device).eval()
    keep.mkdir(parents=True, exist_ok=True)
    parts = [
        _kept(keep / f"train_{rows.start}.npy", train, rows, answering, fold, plan)
        for rows in _shards(train)
    ]
    nobody = np.zeros(len(others), dtype=np.int8)
    rest = [
        _kept(keep / f"others_{rows.start}.npy", others, rows, [teacher], nobody)
        for rows in _shards(others)
    ]
    labelled = np.concatenate(parts)
    centre = np.concatenate([labelled[:, 0], *(part[:, 0] for part in rest)])
    column = np.full(len(centre), -1, dtype=np.int8)
    if folds:
        column[: len(train)] = fold
    write_logits(folder, Logits(centre, (*train.sample_ids, *others.sample_ids)), fold=column)
    if plan is not None:
        np.save(folder / VIEWS_FILE, labelled[:, 1:])
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


def _kept(
    path: Path,
    faces: FaceSet,
    rows: slice,
    answering: Sequence[Teacher],
    fold: np.ndarray,
    plan: Views | None = None,
) -> np.ndarray:
    """Logits ``[n, 1 + V, C] float16`` of a shard, from ``path`` where it is finished."""
    if path.is_file():
        return np.load(path, allow_pickle=False)
    found = _answers(faces, np.arange(len(faces))[rows], answering, fold, plan)
    buffer = io.BytesIO()
    np.save(buffer, found)
    write_atomic(path, buffer.getvalue())
    return found


def _answers(
    faces: FaceSet,
    rows: np.ndarray,
    answering: Sequence[Teacher],
    fold: np.ndarray,
    plan: Views | None,
) -> np.ndarray:
    count = plan.count if plan else 0
    out = np.empty((len(rows), 1 + count, len(CLASSES)), dtype=np.float16)
    for number, each in enumerate(answering):
        device = next(each.network.parameters()).device
        own = np.flatnonzero(fold[rows] == number)
        for start in range(0, len(own), BATCH):
            at = own[start : start + BATCH]
            images = faces.images[rows[at]]
            keys = face_keys(tuple(faces.sample_ids[row] for row in rows[at]))
            with torch.inference_mode():
                centre = to_input(images, faces.preprocess, device)
                out[at, 0] = each.network(centre).float().cpu().numpy()
                for view in range(count):
                    assert plan is not None
                    draws = uniforms(keys, plan.seed, view)
                    seen = views(images, draws, plan, faces.preprocess, device)
                    out[at, 1 + view] = each.network(seen).float().cpu().numpy()
    return out


@dataclass(frozen=True)
class Taught:
    """One teacher's logits, read: all faces' centres, and the training rows as a student sees them.

    ``train [T, V, C] float32``: the views, or the centre as the only one. A fold's logits are
    scaled to the teacher's own sharpness: their T is divided out and the teacher's multiplied in.
    """

    centre: Logits
    train: np.ndarray
    fold: np.ndarray
    temperature: float
    meta: dict[str, Any]


def read_taught(folder: Path, meta: dict[str, Any]) -> Taught:
    """Read what ``label_faces`` wrote; ``meta`` is its ``logits.json``."""
    centre = read_logits(folder)
    rows = meta["train_rows"]
    with np.load(folder / ROWS_FILE, allow_pickle=False) as held:
        fold = held["fold"][:rows]
    if meta["views"]:
        train = np.load(folder / VIEWS_FILE, mmap_mode="r", allow_pickle=False)
    else:
        train = centre.values[:rows, None]
    values = np.asarray(train, dtype=np.float32)
    if meta["folds"]:
        own = np.array([each["temperature"] for each in meta["folds"]], dtype=np.float32)
        values *= (meta["temperature"] / own)[fold][:, None, None]
    return Taught(centre, values, fold, meta["temperature"], meta)
