"""Packed faces of a manifest, decoded once for each manifest and preprocessing and then cached."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, temporary
from fer_ml.base.kept import keep, kept
from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.base.npz import read_npy, stacked
from fer_ml.base.processes import processors
from fer_ml.base.shards import in_threads, map_shards
from fer_ml.images.pixels import cut_square, prepare_packed, read_image
from fer_ml.images.preparation import Faces, prepare_faces
from fer_ml.manifests.inspection import PARALLEL_FROM
from fer_ml.manifests.schema import boxes
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.training.views import FaceSet, face_keys

#: About the bytes of a shard, which is made, checked and kept as a whole; and of the faces that a
#: process prepares at once.
SHARD_BYTES, _BYTES_AT_ONCE = 1 << 28, 1 << 24


def load_faces(frame: pl.DataFrame, root: Path, preprocess: Preprocess, cache: Path) -> FaceSet:
    """Load the faces of the manifest rows ``frame``; decode them into ``cache`` if necessary.

    While decoding, every face's ``sample_id`` is computed again: an image that changed since the
    manifest was written is refused. ``FerError`` if there are no rows.
    """
    if frame.is_empty():
        raise FerError("there are no rows to load faces from", code="no-rows")
    return faces_of(frame, packed_faces(frame, root, preprocess, cache), preprocess)


def faces_of(frame: pl.DataFrame, packed: Sequence[Path], preprocess: Preprocess) -> FaceSet:
    """Return the faces of ``frame`` with pixels from ``packed``, the files of ``packed_faces``."""
    labels = frame["label"].replace_strict(CLASS_INDEX, return_dtype=pl.Int64).to_numpy()
    return FaceSet(
        stacked([read_npy(file) for file in packed]),
        labels,
        tuple(frame["sample_id"]),
        preprocess,
        votes=vote_shares(frame, labels),
        weight=frame["weight"].fill_null(1.0).cast(pl.Float32).to_numpy(),
        negative=_negatives(frame),
    )


def _negatives(frame: pl.DataFrame) -> np.ndarray | None:
    """Class indices of ``neg_label``, -1 where empty; ``None`` when no row has one."""
    if frame["neg_label"].null_count() == frame.height:
        return None
    names = frame["neg_label"]
    return names.replace_strict(CLASS_INDEX, default=-1, return_dtype=pl.Int64).to_numpy()


def packed_faces(
    frame: pl.DataFrame, root: Path, preprocess: Preprocess, cache: Path
) -> list[Path]:
    """Return the cached shards of the faces of ``frame``: ``.npy`` files, in the rows' order.

    Each is ``[n, P, P, 3] uint8 RGB``. It is made if it is missing or its bytes have changed, by
    all processors; what a stopped run has made is used.
    """
    parts = list(frame.iter_slices(max(1, SHARD_BYTES // _face_bytes(preprocess))))
    paths = [cache / f"faces-{_digest(part, preprocess)}.npy" for part in parts]
    cache.mkdir(parents=True, exist_ok=True)
    found = in_threads(kept, paths, processors())
    with tqdm(total=frame.height, desc="pack faces", disable=None) as bar:
        files = []
        for part, path, file in zip(parts, paths, found, strict=True):
            files.append(file or _pack(part, root, preprocess, path, bar))
    return files


def _digest(frame: pl.DataFrame, preprocess: Preprocess) -> str:
    text = preprocess.digest() + "\n".join(frame["sample_id"])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _face_bytes(preprocess: Preprocess) -> int:
    return 3 * preprocess.packed_size**2


def _pack(
    frame: pl.DataFrame, root: Path, preprocess: Preprocess, path: Path, bar: "tqdm[Any]"
) -> Path:
    partial, size = temporary(path), _face_bytes(preprocess)
    shape = (frame.height, preprocess.packed_size, preprocess.packed_size, 3)
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            begin = file.tell()
            file.truncate(begin + frame.height * size)
        step = max(1, _BYTES_AT_ONCE // size)
        shards = (
            Faces(
                root,
                part["image_path"].to_list(),
                list(boxes(part)),
                part["sample_id"].to_list(),
                preprocess,
                partial,
                begin + number * step * size,
            )
            for number, part in enumerate(frame.iter_slices(step))
        )
        workers = 1 if frame.height < PARALLEL_FROM else None
        for done in map_shards(prepare_faces, shards, workers=workers):
            bar.update(done)
        return keep(partial, path)
    finally:
        discard(partial)


def drawn_faces(frame: pl.DataFrame, faces: int, seed: int) -> pl.DataFrame:
    """Return at most ``faces`` rows, drawn at random by a hash of ``seed`` and sample id."""
    keys = face_keys(f"{seed}:{name}" for name in frame["sample_id"])
    return frame[np.sort(np.argsort(keys, kind="stable")[:faces])]


def squares(frame: pl.DataFrame, root: Path, around: Frame) -> list[np.ndarray]:
    """Return each row's face, ``[H, W, 3] uint8 RGB``: the file, or the square ``around`` its box.

    Nothing else of the preprocessing is done yet, so ``prepared`` gives what ``load_faces`` does.
    """
    faces = []
    for name, box in zip(frame["image_path"], boxes(frame), strict=True):
        image = read_image(root / name)
        if box is not None:
            image = cut_square(image, box, around, max(1, round(around.side * (box[3] - box[1]))))
        faces.append(image)
    return faces


def prepared(faces: Sequence[np.ndarray], preprocess: Preprocess) -> FaceSet:
    """Prepare ``squares`` for a network, without labels."""
    images = np.stack([prepare_packed(face, None, preprocess) for face in faces])
    return FaceSet(images, np.zeros(len(images), np.int64), ("",) * len(images), preprocess)


def folds_of(group_ids: Iterable[str], folds: int) -> np.ndarray:
    """Return the fold 0..``folds``-1 of each row, ``[N] int8``, derived from its group id alone.

    So near-duplicates share a fold, and it does not depend on which other rows there are.
    """
    keys = face_keys(group_ids)
    return (keys % np.uint64(folds)).astype(np.int8)


def vote_shares(frame: pl.DataFrame, labels: np.ndarray) -> np.ndarray:
    """Return the shares of the annotators' votes, ``[N, C] float32``; one-hot without votes."""
    shares: np.ndarray = np.eye(len(CLASSES), dtype=np.float32)[labels]
    # Ten annotators give few different votes: each text is read once.
    texts = frame["votes"].drop_nulls().unique().sort()
    counted = np.array([text.split(";") for text in texts], np.float32).reshape(-1, len(CLASSES))
    total = counted.sum(axis=1, keepdims=True)
    given = dict(zip(texts, np.where(total[:, 0] > 0, np.arange(len(texts)), -1), strict=True))
    place = frame["votes"].replace_strict(given, default=-1, return_dtype=pl.Int64).to_numpy()
    rows = np.flatnonzero(place >= 0)
    shares[rows] = (counted / np.where(total > 0, total, 1))[place[rows]]
    return shares
