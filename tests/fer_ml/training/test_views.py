"""Batches, and views that depend on nothing but face, seed and number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, Training
from fer_ml.training.views import (
    DRAWS,
    FaceSet,
    batches,
    epoch_order,
    face_keys,
    to_input,
    uniforms,
    views,
)

SPEC = Preprocess(size=16)
RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)
Y = np.arange(100) % 7


def test_epochs_cover_every_row_in_another_order() -> None:
    """The first pipeline drew the same batches in every epoch."""
    orders = [epoch_order(Y, 1337, epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (epoch_order(Y, 1337, 2) == orders[2]).all()
    assert (epoch_order(Y, 1338, 2) != orders[2]).any()


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


def test_the_balanced_sampler_gives_each_class_its_share_and_leaves_no_row_out() -> None:
    """The first pipeline's one repeated its draws and saw 39% of the largest class."""
    y = np.repeat([0, 1, 2], [70, 20, 10])
    orders = [epoch_order(y, 1, epoch, "balanced") for epoch in range(6)]
    for order in orders:
        assert np.bincount(y[order]).tolist() == [33, 33, 33]
    drawn = np.bincount(np.concatenate(orders), minlength=100)
    for label, rows in ((0, 70), (1, 20), (2, 10)):
        times = drawn[y == label]
        assert times.min() >= 6 * 33 // rows, "no row waits while another of its class comes twice"
        assert times.max() <= times.min() + 1
    assert (orders[0] != orders[1]).any()
    assert (epoch_order(y, 1, 4, "balanced") == orders[4]).all(), "an epoch needs no memory"


def images(n: int = 32, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


KEYS = face_keys(tuple(f"s{i}" for i in range(500)))


def test_draws_are_uniform_and_independent() -> None:
    drawn = np.concatenate([uniforms(KEYS, 7, number).numpy() for number in range(40)])
    assert drawn.shape == (20_000, DRAWS)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in drawn.T])
    chi2 = ((counts - 1000) ** 2 / 1000).sum(axis=1)
    assert chi2.max() < 50, "the 0.01% point of chi squared with 19 degrees is 52"
    correlation = np.corrcoef(drawn.T) - np.eye(DRAWS)
    assert np.abs(correlation).max() < 0.04
    after = np.corrcoef(uniforms(KEYS, 7, 0)[:, 0], uniforms(KEYS, 7, 1)[:, 0])[0, 1]
    assert abs(after) < 0.15


@pytest.mark.parametrize("kind", ["affine", "crop", "camera"])
def test_a_view_depends_on_face_seed_and_number_alone(kind: str) -> None:
    recipe = replace(RECIPE, augment=kind, erase=0.5)
    held, keys = images(), KEYS[:32]
    one = views(held, uniforms(keys, 3, 0), recipe, SPEC)
    rows = np.array([9, 2, 30])
    alone = views(held[rows], uniforms(keys[rows], 3, 0), recipe, SPEC)
    torch.testing.assert_close(alone, one[rows], atol=2e-6, rtol=0)
    for seed, number in ((3, 1), (4, 0)):
        assert not torch.allclose(one, views(held, uniforms(keys, seed, number), recipe, SPEC))
    assert torch.isfinite(one).all()
    assert one.shape == (32, 3, 16, 16)


def test_strength_zero_is_only_the_flip() -> None:
    held = images()
    plain = to_input(held, SPEC)
    out = views(held, uniforms(KEYS[:32], 0, 0), replace(RECIPE, strength=0.0), SPEC)
    same = (out - plain).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (out - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert 8 < mirrored.sum() < 24


def test_strength_bounds_the_change() -> None:
    spec = Preprocess(size=16, mean=(128 / 255,) * 3)
    grey = np.full((500, 16, 16, 3), 128, np.uint8)
    for strength in (0.3, 1.0):
        out = views(grey, uniforms(KEYS, 0, 0), replace(RECIPE, strength=strength), spec)
        assert 0.25 * strength < out.abs().max() <= 0.3 * strength + 1e-5


def test_a_crop_shows_a_part_of_the_packed_face_by_hand() -> None:
    """With these draws: the whole area's 0.7, square, not mirrored, its left upper corner."""
    spec = Preprocess(size=20, oversize=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    ramp = np.broadcast_to(np.arange(20, dtype=np.uint8)[None, None, :, None] * 10, (1, 20, 20, 3))
    draws = torch.full((1, DRAWS), 0.5)
    draws[0, 0], draws[0, 2], draws[0, 3], draws[0, 4] = 0.0, 0.9, 0.0, 0.0
    out = views(np.array(ramp), draws, replace(RECIPE, augment="crop"), spec)[0, 0, 10] * 255
    side = 20 * 0.7**0.5
    wanted = [min(190.0, max(0.0, ((i + 0.5) / 20 * side - 0.5) * 10)) for i in range(20)]
    np.testing.assert_allclose(out.numpy(), wanted, atol=0.6)


def test_erasing_hits_the_share_that_was_asked_for() -> None:
    grey = np.full((500, 16, 16, 3), 255, np.uint8)
    recipe = replace(RECIPE, strength=0.0, erase=0.4)
    out = views(grey, uniforms(KEYS, 1, 0), recipe, Preprocess(size=16))
    erased = (out == 0).all(dim=1).float().mean(dim=(1, 2))
    assert 0.3 < (erased > 0).float().mean() < 0.5
    assert erased.max() <= 0.25


def test_a_set_without_a_fold_holds_every_other_row_as_it_was() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    names, fold = tuple(f"s{i}" for i in range(9)), (np.arange(9) % 3).astype(np.int8)
    votes = np.eye(9, 7, dtype=np.float32)
    whole = FaceSet(images, Y[:9], names, SPEC, votes=votes, weight=np.arange(9.0), fold=fold)
    held = whole.without_fold(1)
    rows = [0, 2, 3, 5, 6, 8]
    assert held.sample_ids == tuple(names[i] for i in rows)
    assert held.fold is not None and held.votes is not None and held.weight is not None
    assert (held.y == Y[rows]).all() and (held.votes == votes[rows]).all()
    assert held.weight.tolist() == rows
    assert set(held.fold) == {0, 2}
    assert (held.images[1:4] == images[rows[1:4]]).all()
    assert (held.images[np.array([4, 0])] == images[[6, 0]]).all()
