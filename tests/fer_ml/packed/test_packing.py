"""From a manifest to packed faces."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.images.identity import sample_hash
from fer_ml.images.pixels import encode_png, prepare, read_image
from fer_ml.packed import packing
from fer_ml.packed.packing import folds_of, load_faces, packed_faces, vote_shares
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.training.views import to_input
from tests.refusals import refused

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
    load_faces(frame, tmp_path, Preprocess(size=16, clahe_clip=0.0), cache)
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
    with refused("changed-image") as caught:
        load_faces(frame, tmp_path, SPEC, cache)
    assert caught.value.where == str(path)
    assert list(cache.iterdir()) == []


def test_many_faces_are_shards_and_read_as_one_array(
    make_manifest: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, cache = make_manifest(7), tmp_path / "cache"
    whole = np.array(load_faces(frame, tmp_path, SPEC, tmp_path / "other").images)
    monkeypatch.setattr(packing, "SHARD_BYTES", 3 * 16 * 16 * 3)
    faces = load_faces(frame, tmp_path, SPEC, cache)
    assert len(list(cache.iterdir())) == 3
    assert (np.asarray(faces.images) == whole).all()
    rows = np.array([6, 0, 3, 3])
    assert (faces.images[rows] == whole[rows]).all()
    fold = np.arange(7, dtype=np.int8) % 3
    some = replace(faces, fold=fold).without_fold(0)
    assert (some.images[1:3] == whole[fold != 0][1:3]).all()


def test_a_stopped_packing_goes_on_with_the_shards_that_it_made(
    make_manifest: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, cache = make_manifest(7), tmp_path / "cache"
    monkeypatch.setattr(packing, "SHARD_BYTES", 3 * 16 * 16 * 3)
    broken = tmp_path / frame["image_path"][4]
    whole = broken.read_bytes()
    broken.write_bytes(encode_png(np.zeros((24, 24, 3), np.uint8)))
    with refused("changed-image"):
        load_faces(frame, tmp_path, SPEC, cache)
    (first,) = cache.iterdir()
    broken.write_bytes(whole)
    (tmp_path / frame["image_path"][0]).unlink()
    assert packed_faces(frame, tmp_path, SPEC, cache)[0] == first


def test_processes_pack_what_one_process_packs(
    make_manifest: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = make_manifest(9)
    (alone,) = packed_faces(frame, tmp_path, SPEC, tmp_path / "alone")
    monkeypatch.setattr(packing, "PARALLEL_FROM", 1)
    monkeypatch.setattr(packing, "_BYTES_AT_ONCE", 2 * 16 * 16 * 3)
    (shared,) = packed_faces(frame, tmp_path, SPEC, tmp_path / "shared")
    assert shared.read_bytes() == alone.read_bytes()


def test_no_rows_are_refused(make_manifest: Make, tmp_path: Path) -> None:
    with refused("no-rows"):
        load_faces(make_manifest(1)[:0], tmp_path, SPEC, tmp_path)


def test_an_oversized_pack_holds_what_serving_cuts_out(make_manifest: Make, tmp_path: Path) -> None:
    """The network's input in training and evaluation is ``prepare`` of the photo, to the bit."""
    spec = Preprocess(size=16, oversize=1.25, mean=(0.0,) * 3, std=(1.0,) * 3)
    frame = make_manifest(3)
    faces = load_faces(frame, tmp_path, spec, tmp_path / "cache")
    assert faces.images.shape == (3, 20, 20, 3)
    shown = (to_input(faces.images, spec) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for i, path in enumerate(frame["image_path"]):
        assert (shown[i] == prepare(read_image(tmp_path / path), None, spec)).all()


def test_votes_become_shares_and_their_absence_the_label() -> None:
    frame = pl.DataFrame({"votes": ["0;0;0;6;2;0;0", None, "0;0;0;0;0;0;0"]})
    shares = vote_shares(frame, np.array([3, 1, 2]))
    assert shares.tolist() == [
        [0, 0, 0, 0.75, 0.25, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
    ]


def test_folds_are_of_groups_alone_and_of_like_size() -> None:
    groups = [f"g{i // 2}" for i in range(6000)]
    folds = folds_of(groups, 3)
    assert (folds[::2] == folds[1::2]).all(), "twins share a fold"
    assert (folds_of(groups[::-1], 3)[::-1] == folds).all(), "whatever stands beside them"
    # 3,000 groups in 3 folds: binomial with a standard deviation of 26 groups, 52 rows.
    assert np.abs(np.bincount(folds) - 2000).max() < 4 * 52


@pytest.mark.parametrize("form", ["black", "swapped", "torn"])
@pytest.mark.threat("caches or snapshots are exchanged or damaged")
def test_faces_that_are_not_those_that_were_packed_are_packed_again(
    make_manifest: Make, tmp_path: Path, form: str
) -> None:
    frame, cache = make_manifest(3), tmp_path / "cache"
    (path,) = packed_faces(frame, tmp_path, SPEC, cache)
    good = np.load(path).copy()
    if form == "black":
        held = np.load(path, mmap_mode="r+")
        held[:] = 0
        held.flush()
        del held
    elif form == "swapped":
        path.write_bytes(packed_faces(frame[::-1], tmp_path, SPEC, cache)[0].read_bytes())
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert (load_faces(frame, tmp_path, SPEC, cache).images == good).all()
