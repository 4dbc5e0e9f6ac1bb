"""Packing, batches and augmentation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fer_ml.errors import FerError
from fer_ml.images import encode_png, prepare, read_image
from fer_ml.labels import CLASSES
from fer_ml.manifests.identity import sample_hash
from fer_ml.preprocess import Preprocess
from fer_ml.training.faces import augment, batches, epoch_order, load_faces, to_input

Make = Callable[..., pl.DataFrame]
SPEC = Preprocess(size=16)


def test_faces_are_in_the_rows_order_and_prepared_as_anywhere(
    make_manifest: Make, tmp_path: Path
) -> None:
    frame = make_manifest(4)
    box = (2, 3, 20, 22)
    boxed = frame.row(0, named=True) | {
        "bbox_left": 2,
        "bbox_top": 3,
        "bbox_right": 20,
        "bbox_bottom": 22,
        "sample_id": sample_hash(frame["group_id"][0], box),
    }
    frame = pl.concat([frame, pl.DataFrame([boxed], schema=frame.schema)])[[4, 2, 0, 3, 1]]
    faces = load_faces(frame, tmp_path, SPEC, tmp_path / "cache")
    assert [CLASSES[i] for i in faces.y] == frame["label"].to_list()
    assert faces.sample_ids == tuple(frame["sample_id"])
    for i, path in enumerate(frame["image_path"]):
        wanted = prepare(read_image(tmp_path / path), box if i == 0 else None, SPEC)
        assert (faces.images[i] == wanted).all()


def test_the_cache_is_used_and_is_of_its_rows_and_preprocessing(
    make_manifest: Make, tmp_path: Path
) -> None:
    frame, cache = make_manifest(3), tmp_path / "cache"
    first = np.array(load_faces(frame, tmp_path, SPEC, cache).images)
    load_faces(frame[::-1], tmp_path, SPEC, cache)
    load_faces(frame, tmp_path, Preprocess(size=16, clahe_clip=0), cache)
    assert len(list(cache.iterdir())) == 3
    for path in frame["image_path"]:
        (tmp_path / path).unlink()
    assert (load_faces(frame, tmp_path, SPEC, cache).images == first).all()


def test_an_exchanged_image_is_refused_and_leaves_no_cache(
    make_manifest: Make, tmp_path: Path
) -> None:
    frame, cache = make_manifest(3), tmp_path / "cache"
    path = tmp_path / frame["image_path"][1]
    path.write_bytes(encode_png(np.zeros((24, 24, 3), np.uint8)))
    with pytest.raises(FerError, match="not the one that the manifest") as caught:
        load_faces(frame, tmp_path, SPEC, cache)
    assert caught.value.where == str(path)
    assert list(cache.iterdir()) == []


def test_no_rows_are_refused(make_manifest: Make, tmp_path: Path) -> None:
    with pytest.raises(FerError, match="no rows"):
        load_faces(make_manifest(1)[:0], tmp_path, SPEC, tmp_path)


def test_epochs_cover_every_row_in_another_order() -> None:
    """The first pipeline drew the same batches in every epoch."""
    orders = [epoch_order(100, 1337, epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (epoch_order(100, 1337, 2) == orders[2]).all()
    assert (epoch_order(100, 1338, 2) != orders[2]).any()


@pytest.mark.parametrize(
    ("n", "size", "drop_last", "sizes"),
    [
        (10, 4, True, [4, 4]),
        (10, 4, False, [4, 4, 2]),
        (9, 4, False, [4, 4]),  # BatchNorm cannot train on one row.
        (8, 4, True, [4, 4]),
        (3, 4, True, []),
        (3, 4, False, [3]),
        (1, 4, False, []),
    ],
)
def test_batches(n: int, size: int, drop_last: bool, sizes: list[int]) -> None:
    order = np.arange(n)[::-1]
    found = list(batches(order, size, drop_last=drop_last))
    assert [len(rows) for rows in found] == sizes
    assert np.concatenate([*found, []]).tolist() == order[: sum(sizes)].tolist()


def faces(n: int = 32) -> torch.Tensor:
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return to_input(images, SPEC)


def test_augmentation_follows_its_generator_alone() -> None:
    batch = faces()
    before = batch.clone()
    one, again, other = (augment(batch, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(batch, before)
    assert one.shape == batch.shape
    assert torch.isfinite(one).all()


def test_strength_zero_is_only_the_flip() -> None:
    batch = faces()
    out = augment(batch, torch.Generator().manual_seed(0), 0.0)
    same = (out - batch).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (out - batch.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert 8 < mirrored.sum() < 24


def test_strength_bounds_the_change() -> None:
    flat = torch.zeros(500, 3, 16, 16)
    for strength in (0.3, 1.0):
        out = augment(flat, torch.Generator().manual_seed(0), strength)
        assert 0.25 * strength < out.abs().max() <= 0.3 * strength + 1e-6
