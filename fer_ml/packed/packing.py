"""Packed faces of a manifest, decoded once for each manifest and preprocessing and then cached."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, temporary
from fer_ml.base.kept import keep, kept
from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.base.npz import read_npy
from fer_ml.images.identity import photo_hash, sample_hash
from fer_ml.images.pixels import cut_square, prepare_packed, read_image
from fer_ml.manifests.schema import boxes
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.training.views import FaceSet, face_keys


def load_faces(frame: pl.DataFrame, root: Path, preprocess: Preprocess, cache: Path) -> FaceSet:
    """Load the faces of the manifest rows ``frame``; decode them into ``cache`` if necessary.

    While decoding, every face's ``sample_id`` is computed again: an image that changed since the
    manifest was written is refused. ``FerError`` if there are no rows.
    """
    if frame.is_empty():
        raise FerError("there are no rows to load faces from", code="no-rows")
    return faces_of(frame, packed_faces(frame, root, preprocess, cache), preprocess)


def faces_of(frame: pl.DataFrame, packed: Path, preprocess: Preprocess) -> FaceSet:
    """Return the faces of ``frame`` with pixels from ``packed``, a file of ``packed_faces``."""
    images = read_npy(packed)
    labels = np.array([CLASS_INDEX[label] for label in frame["label"]], dtype=np.int64)
    return FaceSet(
        images,
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
    return np.array([CLASS_INDEX.get(name, -1) for name in frame["neg_label"]], dtype=np.int64)


def packed_faces(frame: pl.DataFrame, root: Path, preprocess: Preprocess, cache: Path) -> Path:
    """Return the cached ``.npy`` of the faces of ``frame``, ``[N, P, P, 3] uint8 RGB``.

    The file is made if it is missing or its bytes have changed.
    """
    key = hashlib.sha256((preprocess.digest() + "\n".join(frame["sample_id"])).encode())
    path = cache / f"faces-{key.hexdigest()[:24]}.npy"
    return kept(path) or _pack(frame, root, preprocess, path)


def _pack(frame: pl.DataFrame, root: Path, preprocess: Preprocess, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    side = preprocess.packed_size
    packed = None
    try:
        packed = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.uint8, shape=(frame.height, side, side, 3)
        )
        rows = zip(frame["image_path"], boxes(frame), frame["sample_id"], strict=True)
        for index, (name, box, sample_id) in enumerate(
            tqdm(rows, total=frame.height, desc="pack faces", disable=None)
        ):
            image = read_image(root / name)
            if sample_hash(photo_hash(image), box) != sample_id:
                raise FerError(
                    "the image is not the one that the manifest was written about",
                    code="changed-image",
                    where=root / name,
                    fix="materialize the manifests again; nothing trains on changed pixels",
                )
            packed[index] = prepare_packed(image, box, preprocess)
        packed.flush()
        packed = None
        return keep(partial, path)
    finally:
        packed = None  # What is mapped cannot be moved or deleted everywhere.
        discard(partial)


def drawn_faces(frame: pl.DataFrame, faces: int, seed: int) -> pl.DataFrame:
    """Return at most ``faces`` rows, drawn at random by a hash of ``seed`` and sample id."""
    keys = face_keys(tuple(f"{seed}:{name}" for name in frame["sample_id"]))
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
    keys = face_keys(tuple(group_ids))
    return (keys % np.uint64(folds)).astype(np.int8)


def vote_shares(frame: pl.DataFrame, labels: np.ndarray) -> np.ndarray:
    """Return the shares of the annotators' votes, ``[N, C] float32``; one-hot without votes."""
    shares: np.ndarray = np.eye(len(CLASSES), dtype=np.float32)[labels]
    for row, votes in enumerate(frame["votes"]):
        if votes is not None:
            counted = np.array([float(vote) for vote in votes.split(";")], dtype=np.float32)
            if counted.sum() > 0:
                shares[row] = counted / counted.sum()
    return shares
