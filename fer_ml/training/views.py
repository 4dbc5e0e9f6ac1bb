"""Faces in memory-mapped arrays, and augmented views of them as network inputs.

A view depends only on the face's identity, a seed and a number, not on the batch, the number of
processes or earlier draws. So a stopped training resumes with the same views, and a student sees
exactly the view that its teacher labelled.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import grid_sample

from fer_ml.base.errors import FerError
from fer_ml.base.npz import Stacked
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Augmented

#: Uniform draws that a view takes.
DRAWS = 16


@dataclass(frozen=True)
class Selection:
    """Selected rows ``[N]`` of an array, read on access, so a memory map is not loaded."""

    array: np.ndarray | Stacked
    rows: np.ndarray

    def __getitem__(self, key: Any) -> np.ndarray:
        rows: np.ndarray = self.array[self.rows[key]]
        return rows


@dataclass(frozen=True)
class FaceSet:
    """The rows of a manifest with their pixels.

    ``images [N, P, P, 3] uint8 RGB`` is memory-mapped, P is ``preprocess.packed_size``; ``y [N]
    int64`` indexes ``CLASSES``; ``votes [N, C] float32`` are shares of the annotators' votes
    (one-hot where there are none); ``weight [N] float32`` is the manifest's; ``negative [N] int64``
    is a class that the face does not show, or -1; ``fold [N] int8`` is the training fold of the
    face's group.
    """

    images: np.ndarray | Stacked | Selection
    y: np.ndarray
    sample_ids: tuple[str, ...]
    preprocess: Preprocess
    votes: np.ndarray | None = None
    weight: np.ndarray | None = None
    negative: np.ndarray | None = None
    fold: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def without_fold(self, fold: int) -> "FaceSet":
        """Return the rows of all folds but ``fold``."""
        assert self.fold is not None
        assert not isinstance(self.images, Selection)
        rows = np.flatnonzero(self.fold != fold)
        return replace(
            self,
            images=Selection(self.images, rows),
            y=self.y[rows],
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            votes=None if self.votes is None else self.votes[rows],
            weight=None if self.weight is None else self.weight[rows],
            negative=None if self.negative is None else self.negative[rows],
            fold=self.fold[rows],
        )


@dataclass(frozen=True)
class SoftTargets:
    """Soft labels: ``logits [N, V, C] float32`` on V views of each training row, in row order.

    ``view_seed`` reproduces these views; ``None`` means one centre view, and the student uses its
    own augmentation. ``kd_temperature`` was derived from their mean entropy.
    """

    logits: np.ndarray
    kd_temperature: float
    view_seed: int | None = None


def face_keys(sample_ids: Iterable[str]) -> np.ndarray:
    """Return for each face a key ``[N] uint64`` that decides its views, a hash of its sample id."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in sample_ids)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def uniforms(keys: np.ndarray, seed: int, number: int, count: int = DRAWS) -> torch.Tensor:
    """Return draws ``[N, count] float32`` in 0..1 of each key, seed and view number.

    They are those of SplitMix64 (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        start = _mix(keys ^ _mix(np.uint64(seed) * _GOLDEN + np.uint64(number) + np.uint64(1)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(start[:, None] + steps[None, :])
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    x = np.asarray(x, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def to_input(
    images: np.ndarray, preprocess: Preprocess, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Crop ``[N, P, P, 3] uint8`` to the centre and normalise it: ``[N, 3, S, S] float32``.

    The memory layout is channels last.
    """
    cut = (preprocess.packed_size - preprocess.size) // 2
    rows = slice(cut, cut + preprocess.size)
    # A copy: slices of the memory map are read-only, which torch cannot express.
    return _normalise(_unit(np.array(images[:, rows, rows]), device), preprocess)


def views(
    images: np.ndarray,
    draws: torch.Tensor,
    recipe: Augmented,
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return one augmented view of each face: ``[N, P, P, 3] uint8`` to ``[N, 3, S, S] float32``.

    ``images`` must not be a memory map; ``draws [N, DRAWS]`` are uniform in 0..1.

    ``affine``, at ``strength`` 1: flip, up to 10 degrees, 15% in size, 8% of the side, 20% in
    contrast and 0.3 in normalised brightness; 0 leaves the flip. ``crop``: an area of 70% to 100%
    with sides 3:4 to 4:3, flip, and 20% in brightness and contrast, 10% in saturation, 2% of the
    colour circle in hue (a rotation in YIQ). ``camera`` moves a face half as far again as
    ``affine``, and then shows it as a camera may, up to ``strength``.
    """
    d = draws.to(device)
    pixels = _unit(images, device)
    wide = 1.5 if recipe.augment == "camera" else 1.0
    theta = _crop(d) if recipe.augment == "crop" else _affine(d, wide * recipe.strength, preprocess)
    grid = _grid(theta, preprocess.size)
    moved = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if recipe.augment == "crop":
        batch = _normalise(_jitter(moved, d), preprocess)
    elif recipe.augment == "camera":
        batch = _normalise(_unit(_photographed(moved, draws, recipe.strength), device), preprocess)
    else:
        gain = 1 + 0.2 * recipe.strength * _signed(d[:, 5]).view(-1, 1, 1, 1)
        offset = 0.3 * recipe.strength * _signed(d[:, 6]).view(-1, 1, 1, 1)
        batch = _normalise(moved, preprocess).mul_(gain).add_(offset)
    return _erase(batch, d, recipe.erase) if recipe.erase else batch


def _photographed(batch: torch.Tensor, draws: torch.Tensor, strength: float) -> np.ndarray:
    """Apply camera corruptions to faces ``[N, 3, S, S]`` in 0..1; return ``[N, S, S, 3] uint8``."""
    try:
        from fer_ml.images.corruptions import seen_by_a_camera
    except ModuleNotFoundError as error:  # A packed training runs where only torch may be.
        raise FerError(
            f"augment = 'camera' needs OpenCV, but {error.name} is not installed",
            code="missing-package",
            fix="pip install opencv-python",
        ) from error

    pixels = batch.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    # Two draws that nothing else takes are 48 bits for a generator of each face's own.
    seeds = (draws[:, 14:16].double() * (1 << 24)).long().tolist()
    for row, seed in enumerate(seeds):
        pixels[row] = seen_by_a_camera(pixels[row], strength, np.random.default_rng(seed))
    return pixels


def _grid(theta: torch.Tensor, side: int) -> torch.Tensor:
    """``torch``'s ``affine_grid`` without its matrix product: ``[N, 2, 3]`` to ``[N, S, S, 2]``."""
    line = (2 * torch.arange(side, device=theta.device) + 1) / side - 1
    by_column = theta[:, None, :, 0] * line[None, :, None]
    by_row = theta[:, None, :, 1] * line[None, :, None] + theta[:, None, :, 2]
    return by_column[:, None] + by_row[:, :, None]


def _signed(draw: torch.Tensor) -> torch.Tensor:
    return 2 * draw - 1


def _unit(images: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """``[N, H, W, 3] uint8`` to ``[N, 3, H, W] float32`` in 0..1, channels last."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255.0)


def _normalise(batch: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    mean = torch.tensor(preprocess.mean, device=batch.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=batch.device).view(1, 3, 1, 1)
    batch = batch.mul_(1 / std).sub_(mean / std)
    return batch.contiguous(memory_format=torch.channels_last)


def _affine(d: torch.Tensor, strength: float, preprocess: Preprocess) -> torch.Tensor:
    angle = strength * np.pi / 18 * _signed(d[:, 0])
    scale = (1 + 0.15 * strength * _signed(d[:, 1])) * (preprocess.packed_size / preprocess.size)
    flip = torch.where(d[:, 2] < 0.5, -1.0, 1.0)
    # The grid spans -1..1, so 0.16 is 8% of the side.
    shift_x, shift_y = (0.16 * strength * _signed(d[:, k]) for k in (3, 4))
    row_x = torch.stack([torch.cos(angle) / scale * flip, -torch.sin(angle) / scale, shift_x], 1)
    row_y = torch.stack([torch.sin(angle) / scale * flip, torch.cos(angle) / scale, shift_y], 1)
    return torch.stack([row_x, row_y], 1)


def _crop(d: torch.Tensor) -> torch.Tensor:
    area = 0.7 + 0.3 * d[:, 0]
    ratio = torch.exp(_signed(d[:, 1]) * float(np.log(4 / 3)))
    # A side longer than the image is cut to it.
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    flip = torch.where(d[:, 2] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    row_x = torch.stack([width * flip, zero, (1 - width) * _signed(d[:, 3])], 1)
    row_y = torch.stack([zero, height, (1 - height) * _signed(d[:, 4])], 1)
    return torch.stack([row_x, row_y], 1)


_LUMA = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def _jitter(images: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation, hue, in this order, cut to 0..1 at the end.

    All four are linear in RGB, so one matrix and one grey offset of each image do it in one pass.
    """
    device, n = images.device, len(d)
    luma = torch.tensor(_LUMA, device=device)
    bright, contrast, colour = (
        (1 + half * _signed(d[:, k])).view(-1, 1, 1) for k, half in ((5, 0.2), (6, 0.2), (7, 0.1))
    )
    yiq, angle = torch.tensor(_YIQ, device=device), 2 * np.pi * 0.02 * _signed(d[:, 8])
    turn = torch.zeros(n, 3, 3, device=device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -torch.sin(angle), torch.sin(angle)
    hue = torch.linalg.inv(yiq) @ turn @ yiq
    saturation = colour * torch.eye(3, device=device) + (1 - colour) * luma.expand(3, 3)
    matrix = hue @ saturation * (bright * contrast)
    # Saturation and hue leave grey as it is, and contrast adds the image's mean grey.
    grey = (images.mean(dim=(2, 3)) * luma).sum(1).view(-1, 1, 1) * bright * (1 - contrast)
    pixels = images.flatten(2)
    return torch.baddbmm(grey.expand_as(pixels), matrix, pixels).clamp_(0, 1).view_as(images)


def _erase(batch: torch.Tensor, d: torch.Tensor, probability: float) -> torch.Tensor:
    """A rectangle of 2% to 20% of the area, filled with the mean (Zhong et al. 2020)."""
    side = batch.shape[-1]
    area = 0.02 + 0.18 * d[:, 9]
    ratio = torch.exp(_signed(d[:, 10]) * float(np.log(3.0)))
    place = torch.arange(side, device=batch.device).view(1, -1) + 0.5
    inside = []
    for extent, centre in (((area * ratio).sqrt(), d[:, 11]), ((area / ratio).sqrt(), d[:, 12])):
        length = side * extent.clamp(max=1)
        start = (side - length) * centre
        inside.append((place >= start.view(-1, 1)) & (place < (start + length).view(-1, 1)))
    hit = (d[:, 13] < probability).view(-1, 1, 1) & inside[1][:, :, None] & inside[0][:, None, :]
    return batch.masked_fill_(hit[:, None], 0.0)


def epoch_order(y: np.ndarray, seed: int, epoch: int, sampler: str = "shuffle") -> np.ndarray:
    """Return the rows of one epoch in the order of training.

    ``shuffle`` is a permutation of all N rows. ``balanced`` takes N / C rows (rounded down) of each
    class. It goes through a class in rounds, each a new permutation, and continues in the next
    epoch where it stopped. So rows of rare classes repeat, and all rows of frequent ones are used.
    """
    n = len(y)
    if sampler == "shuffle":
        return np.random.default_rng((seed, epoch)).permutation(n)
    classes = np.unique(y)
    share = n // len(classes)
    parts = [_round_robin(np.flatnonzero(y == c), share, seed, int(c), epoch) for c in classes]
    order = np.concatenate(parts)
    return order[np.random.default_rng((seed, epoch)).permutation(len(order))]


def _round_robin(rows: np.ndarray, count: int, seed: int, label: int, epoch: int) -> np.ndarray:
    first, last = epoch * count, (epoch + 1) * count
    rounds = range(first // len(rows), (last - 1) // len(rows) + 1)
    drawn = [rows[np.random.default_rng((seed, label, k)).permutation(len(rows))] for k in rounds]
    start = first - rounds[0] * len(rows)
    return np.concatenate(drawn)[start : start + count]


def batches(order: np.ndarray, size: int, *, drop_last: bool) -> Iterator[np.ndarray]:
    """Yield consecutive slices of ``order``; a last batch of one row is dropped (BatchNorm)."""
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        if len(rows) == size or (not drop_last and len(rows) > 1):
            yield rows
