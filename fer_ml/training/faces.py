"""Decoded faces, packed once for each manifest and preprocessing, and batches made from them."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from fer_ml.errors import FerError
from fer_ml.images import prepare, read_image
from fer_ml.labels import CLASS_INDEX
from fer_ml.manifests.identity import photo_hash, sample_hash
from fer_ml.manifests.schema import boxes
from fer_ml.preprocess import Preprocess


@dataclass(frozen=True)
class FaceSet:
    """Rows of a manifest with their pixels.

    ``images [N, S, S, 3] uint8 RGB`` is memory-mapped; ``y [N] int64`` indexes ``CLASSES``.
    """

    images: np.ndarray
    y: np.ndarray
    sample_ids: tuple[str, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.y)


def load_faces(frame: pl.DataFrame, root: Path, preprocess: Preprocess, cache: Path) -> FaceSet:
    """The faces of ``frame``, from the packed cache or decoded into it.

    While decoding, every face's ``sample_id`` is computed again: an image that is not the one that
    the manifest was written about is refused.
    """
    if frame.is_empty():
        raise FerError("no rows to load faces from")
    ids = tuple(frame["sample_id"])
    key = hashlib.sha256((preprocess.digest() + "\n".join(ids)).encode()).hexdigest()[:24]
    path = cache / f"faces-{key}.npy"
    if not path.is_file():
        _pack(frame, root, preprocess, path)
    images = np.load(path, mmap_mode="r")
    labels = np.array([CLASS_INDEX[label] for label in frame["label"]], dtype=np.int64)
    return FaceSet(images, labels, ids, preprocess)


def _pack(frame: pl.DataFrame, root: Path, preprocess: Preprocess, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.npy")
    shape = (frame.height, preprocess.size, preprocess.size, 3)
    try:
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        rows = zip(frame["image_path"], boxes(frame), frame["sample_id"], strict=True)
        for index, (name, box, sample_id) in enumerate(
            tqdm(rows, total=frame.height, desc="pack faces", disable=None)
        ):
            image = read_image(root / name)
            if sample_hash(photo_hash(image), box) != sample_id:
                raise FerError(
                    "the image is not the one that the manifest was written about",
                    where=root / name,
                    fix="materialize the manifests again; nothing trains on changed pixels",
                )
            packed[index] = prepare(image, box, preprocess)
        packed.flush()
        del packed
        os.replace(temporary, path)  # noqa: PTH105 - replace() is what must be atomic here
    finally:
        temporary.unlink(missing_ok=True)


def to_input(images: np.ndarray, preprocess: Preprocess) -> torch.Tensor:
    """``[N, S, S, 3] uint8`` to the normalised ``[N, 3, S, S] float32``, channels last."""
    # A copy: slices of the memory map are read-only, which torch cannot express.
    batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    mean = torch.tensor(preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std).view(1, 3, 1, 1)
    batch = (batch.float() / 255.0 - mean) / std
    return batch.contiguous(memory_format=torch.channels_last)


def augment(batch: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Random flip, rotation, scale, shift, gain and offset.

    At ``strength`` 1: up to 10 degrees, 15% in size, 8% of the side, 20% in contrast and 0.3 in
    normalised brightness; 0 leaves only the flip. ``batch [N, 3, S, S]`` normalised, and so is the
    result. All draws come from ``generator``.
    """
    n = batch.shape[0]

    def draw(half: float) -> torch.Tensor:
        return strength * half * (2 * torch.rand(n, generator=generator) - 1)

    angle = draw(np.pi / 18)
    scale = 1 + draw(0.15)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.cos(angle) / scale * flip
    theta[:, 0, 1] = -torch.sin(angle) / scale
    theta[:, 1, 0] = torch.sin(angle) / scale * flip
    theta[:, 1, 1] = torch.cos(angle) / scale
    theta[:, 0, 2] = draw(0.16)  # The grid spans -1..1, so 0.16 is 8% of the side.
    theta[:, 1, 2] = draw(0.16)
    grid = torch.nn.functional.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(
        batch, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    gain, offset = 1 + draw(0.2).view(n, 1, 1, 1), draw(0.3).view(n, 1, 1, 1)
    return (moved * gain + offset).contiguous(memory_format=torch.channels_last)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(n)`` that differs from epoch to epoch and covers every row."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def batches(order: np.ndarray, size: int, *, drop_last: bool) -> Iterator[np.ndarray]:
    """Consecutive slices of ``order``. A last batch of one row is dropped: BatchNorm needs two."""
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        if len(rows) == size or (not drop_last and len(rows) > 1):
            yield rows
