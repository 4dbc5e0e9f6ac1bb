"""Codes: 64 small whole numbers of a face, similar for copies that were moved, turned or re-lit.

A code consists of histograms of gradient directions in a few blurred cells, projected onto the axes
on which different photos differ most and altered copies of one photo least (Fisher's discriminant
on altered copies of FER+ training faces; ``benchmarks/near_duplicates.py --fit`` fits axes anew).
When the face is mirrored, each axis keeps its value or changes its sign.

All sums are of whole numbers that their type holds exactly. So a code is the same on each
processor, with any number of threads.
"""

from functools import cache
from pathlib import Path

import numpy as np

from fer_ml.base.npz import read_npz
from fer_ml.images.inspection import THUMB_SIDE

#: Numbers in a code, and the length of each code: the largest number of nearly all is below 128.
CODE_SIZE = 64
CODE_LENGTH = 150
#: Directions of a gradient, eight steps of 45 degrees, ten long.
_DIRECTIONS = np.array(
    [(10, 0), (7, 7), (0, 10), (-7, 7), (-10, 0), (-7, -7), (0, -10), (7, -7)], np.float32
)
#: Cells along a side, and the width (px) of the Gaussian by which each is weighted.
_GRIDS = ((4, 4.0), (6, 2.0))
#: Length of the histograms of a grid.
_LENGTH = 255
#: Faces read at once: what is made of them stays in the processor's caches.
_ROWS = 128
AXES_FILE = Path(__file__).with_name("likeness.npz")


def codes(thumbs: np.ndarray) -> np.ndarray:
    """Return ``[N, 64] int8`` codes of ``thumbs [N, 576] uint8``; all zero without any gradient."""
    mean, axes, _ = _axes()
    out = np.empty((len(thumbs), CODE_SIZE), np.int8)
    for start in range(0, len(thumbs), _ROWS):
        place = (histograms(thumbs[start : start + _ROWS]) - mean) @ axes
        wide = place.astype(np.float64)
        length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        wide *= (CODE_LENGTH / np.maximum(length, 1))[:, None]
        out[start : start + _ROWS] = np.clip(np.rint(wide), -127, 127)
    return out


def mirror_signs() -> np.ndarray:
    """Return ``[64] int8``: the signs by which mirroring a face multiplies its code."""
    return _axes()[2]


def histograms(thumbs: np.ndarray) -> np.ndarray:
    """Return ``[N, 416] float32``, whole: roots of the shares of each direction, cell and grid."""
    grey = thumbs.reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float32)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    steep = np.stack([np.maximum(x * across + y * down, 0) for x, y in _DIRECTIONS], 1)
    parts = []
    for weights in _cells():
        # Not in one product of three: single precision holds the first sums, and not the second.
        rows = np.matmul(steep, weights).astype(np.float64)
        sums = np.matmul(weights.T.astype(np.float64), rows).reshape(len(grey), -1)
        shares = sums / np.maximum(sums.sum(1, keepdims=True), 1)
        parts.append(np.rint(_LENGTH * np.sqrt(shares)))
    return np.concatenate(parts, 1).astype(np.float32)


def mirrored_histogram() -> np.ndarray:
    """Return the index in a face's histograms of each number of the mirrored face's histograms."""
    turned = [
        int(np.flatnonzero((each * (-1, 1) == _DIRECTIONS).all(1))[0]) for each in _DIRECTIONS
    ]
    parts, start = [], 0
    for cells, _ in _GRIDS:
        size = len(_DIRECTIONS) * cells * cells
        places = start + np.arange(size).reshape(len(_DIRECTIONS), cells, cells)
        parts.append(places[turned][:, :, ::-1].reshape(-1))
        start += size
    return np.concatenate(parts)


@cache
def _cells() -> list[np.ndarray]:
    """Return whole weights ``[24, cells]`` of each grid."""
    weights = []
    for cells, width in _GRIDS:
        centre = (np.arange(cells) - (cells - 1) / 2) * 20 / cells + (THUMB_SIDE - 1) / 2
        distance = np.arange(THUMB_SIDE)[:, None] - centre
        weights.append(np.rint(64 * np.exp(-(distance**2) / (2 * width**2))).astype(np.float32))
    return weights


@cache
def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean ``[416]`` and axes ``[416, 64]``, whole, and signs ``[64]`` of mirrored ones."""
    arrays = read_npz(AXES_FILE)
    return (
        arrays["mean"].astype(np.float32),
        arrays["axes"].astype(np.float32),
        arrays["signs"].astype(np.int8),
    )


def fit(faces: np.ndarray, copies: np.ndarray) -> dict[str, np.ndarray]:
    """Fit the content of the axes' file from thumbs ``[N, 576]`` and an altered copy of each."""
    both = [histograms(thumbs).astype(float) for thumbs in (faces, copies)]
    mirror = mirrored_histogram()
    mean = np.rint((both[0] + both[0][:, mirror]).mean(0) / 2)
    ratios, axes, signs = [], [], []
    for sign in (1, -1):
        face, copy = (((h - mean) + sign * (h - mean)[:, mirror]) / 2 for h in both)
        basis = np.linalg.svd((np.eye(len(mirror)) + sign * np.eye(len(mirror))[mirror]) / 2)
        space = basis[0][:, basis[1] > 0.5]
        within = np.cov(((face - copy) @ space).T) / 2
        within += np.eye(len(within)) * 1e-3 * np.trace(within) / len(within)
        root = np.linalg.inv(np.linalg.cholesky(within))
        ratio, vectors = np.linalg.eigh(root @ np.cov((face @ space).T) @ root.T)
        ratios.append(ratio)
        axes.append(space @ root.T @ vectors)
        signs.append(np.full(len(ratio), sign))
    every, parity = np.concatenate(ratios), np.concatenate(signs)
    best = np.argsort(-every)[:CODE_SIZE]
    chosen = np.concatenate(axes, 1)[:, best]
    # Histograms are at most 361 long: projections stay below 2^23, sums of their squares 2^53.
    chosen *= 2**23 / (2 * _LENGTH + np.linalg.norm(mean)) / np.linalg.norm(chosen, axis=0).max()
    return {
        "mean": mean.astype(np.int16),
        "axes": np.rint(chosen).astype(np.int32),
        "signs": parity[best],
    }
