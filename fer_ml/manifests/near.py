"""Near-identical faces: groups of faces whose small grey pictures correlate at 0.98 or more.

The search is exact: it finds what comparing each pair would find. Scale each thumb to zero mean
and unit norm; then ``|u - v|^2 = 2 - 2 * correlation``. A projection onto orthonormal axes only
shortens distances, and so does replacing what is left over by its norm. So near thumbs are near in
these few numbers too, and pairs that are farther apart there need no comparison. A k-d tree with
overlap goes through the numbers: each cell meets only the points within reach of its box. The few
pairs that remain are compared over all 576 greys, in whole numbers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from fer_ml.base.errors import FerError
from fer_ml.base.shards import in_threads, map_sharing
from fer_ml.images.inspection import THUMB_SIDE, THUMB_SIZE

#: Correlation from which on two thumbs are near-identical.
THRESHOLD = 0.98
#: Below this standard deviation (in greys) a thumb is flat. Rounding to whole greys adds a variance
#: of 1/12, so two copies of a picture with deviation s correlate at about s^2 / (s^2 + 1/12), which
#: is under 0.98 for s < 2.
FLAT_STD = 2.0

_AXES = 12
_SAMPLE = 10_000
#: Cosine waves along each side among which the axes are sought.
_WAVES = 10
#: Added under the root of the left-over norm. Distances stay as short as they were, and an error
#: of 1e-6 there becomes one of 5e-5 at most.
_SOFT = 1e-4
#: Added to the squared reach: more than float32 can be wrong by.
_SLACK = 2e-4
#: Rows read at once, core points of one task and of one leaf, pairs compared at once.
_ROWS, _TASK, _LEAF, _PAIRS = 4096, 8192, 256, 2048
#: Points that meet a leaf's core in one product: OpenBLAS is fastest below a million operations.
#: Many products run in one call, because threads wait for each other between calls.
_SOME, _PRODUCTS = 128, 32
#: Candidates that are looked at together.
_BATCH = 1 << 16
#: All products of the rows of a few pairs are faster than the pairs, up to so many for each pair.
_DENSE = 16
#: Points are copied together when a cell uses less than one in so many of them.
_SPARSE = 8


@dataclass(frozen=True)
class NearGroups:
    """Groups of near-identical rows and the pairs that connect them.

    ``first [N] int64``: the first row of each row's group, its own index when it is alone.
    ``pairs [M, 2] int64``: confirmed pairs (smaller index first, rows sorted) that connect each
    group without a loop, so that M is N minus the number of groups. ``correlation [M] float64``:
    theirs. ``flat [N] bool``: rows without contrast, which are near to nothing.
    """

    first: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray
    flat: np.ndarray


def near_groups(
    thumbs: np.ndarray,
    *,
    fresh: np.ndarray | None = None,
    threshold: float = THRESHOLD,
    workers: int | None = None,
) -> NearGroups:
    """Connected components of 'the Pearson correlation is at least ``threshold``'.

    ``thumbs [N, 576] uint8`` may be a memory map; it is read in blocks. With ``fresh [N] bool``,
    only pairs with at least one such row are looked for, and groups are what these pairs connect:
    for a set that grew by a few rows and whose other pairs are known. ``threshold`` is above 0
    and at most 1; the nearer to 1, the faster. ``workers`` threads (default: one for each core) do
    not change the result, and the order of the rows does not change the groups. Flat rows (see
    ``FLAT_STD``) are alone, even those with equal bytes. Raises ``FerError`` for another shape,
    type or threshold.
    """
    if thumbs.ndim != 2 or thumbs.shape[1] != THUMB_SIZE or thumbs.dtype != np.uint8:
        raise FerError(
            f"thumbs of shape {thumbs.shape} and type {thumbs.dtype}", allowed="[N, 576] uint8"
        )
    if not 0 < threshold <= 1:
        raise FerError(f"threshold {threshold}", allowed="above 0, at most 1")
    workers = workers or os.cpu_count() or 1
    reach = 2 - 2 * threshold + _SLACK
    digest = _Digest(np.asarray(thumbs))
    for _ in in_threads(digest.read, range(0, len(thumbs), _ROWS), workers):
        pass
    twins = digest.twins()
    forest = _Forest(len(thumbs))
    forest.add(twins, np.ones(len(twins)))
    for found in map_sharing(
        partial(_search, threshold=threshold, reach=reach),
        digest,
        _cells(digest.root(twins, fresh), _TASK, reach),
        workers=workers,
    ):
        forest.add(*found)
    return forest.groups(digest.flat)


class _Digest:
    """What is kept of each thumb: 12 projections and the norm of the rest, two sums, a hash."""

    def __init__(self, thumbs: np.ndarray) -> None:
        count = len(thumbs)
        self.thumbs = thumbs
        self.total = np.empty(count, np.float32)
        self.square = np.empty(count, np.float32)
        self.flat = np.empty(count, bool)
        self.hash = np.empty(count, np.uint64)
        self.points = np.empty((_AXES + 1, count), np.float32)
        self._weights = np.random.default_rng(0).integers(0, 2**64, THUMB_SIZE // 8, np.uint64) | 1
        # Any orthonormal axes give the same result; the principal ones pass over the most pairs.
        # Faces are smooth: the low waves hold these axes, and the fit is small.
        waves = np.cos(
            np.outer(np.arange(_WAVES), 2 * np.arange(THUMB_SIDE) + 1) * np.pi / (2 * THUMB_SIDE)
        )
        waves /= np.linalg.norm(waves, axis=1, keepdims=True)
        planes = np.kron(waves, waves)[1:].T
        sample = _unit(thumbs[:: max(1, count // _SAMPLE)])[0] @ planes
        spread = sample - sample[::-1]
        axes = planes @ np.linalg.eigh(spread.T @ spread)[1][:, -_AXES:]
        self._axes = axes.astype(np.float32)

    def read(self, start: int) -> None:
        """Fill in the rows from ``start`` on."""
        part = slice(start, start + _ROWS)
        raw = np.ascontiguousarray(self.thumbs[part])
        self.hash[part] = (raw.view(np.uint64) * self._weights).sum(1)
        unit, self.total[part], self.square[part], norm = _unit(raw)
        self.flat[part] = norm < FLAT_STD * THUMB_SIDE
        seen = unit @ self._axes
        rest = 1 - np.einsum("ij,ij->i", seen, seen)
        self.points[:_AXES, part] = seen.T
        self.points[_AXES, part] = np.sqrt(np.maximum(rest, 0) + _SOFT)

    def twins(self) -> np.ndarray:
        """``[M, 2]``: rows (second) whose bytes are those of an earlier row (first)."""
        rows = np.flatnonzero(~self.flat)
        rows = rows[np.argsort(self.hash[rows], kind="stable")]
        hashes = self.hash[rows]
        new = np.r_[True, hashes[1:] != hashes[:-1]][: len(rows)]
        earliest = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        pairs = np.stack((earliest, rows), 1)[~new]
        equal = [
            (self.thumbs[some[:, 0]] == self.thumbs[some[:, 1]]).all(1)
            for some in _chunks(pairs, _PAIRS)
        ]
        return pairs[np.concatenate([np.empty(0, bool), *equal])]

    def root(self, twins: np.ndarray, fresh: np.ndarray | None) -> "_Cell":
        """One cell with all rows that are neither flat nor a twin of an earlier one.

        Pairs of two halo points are not met, so rows that are not fresh are the halo.
        """
        alone = ~self.flat
        alone[twins[:, 1]] = False
        core = alone if fresh is None else alone & fresh
        halo = np.flatnonzero(alone & ~core)
        return _Cell(
            points=self.points,
            ids=np.arange(len(alone)),
            core=np.flatnonzero(core),
            halo=halo,
            gap=np.zeros(len(halo), np.float32),
            low=np.full(_AXES + 1, -np.inf, np.float32),
            high=np.full(_AXES + 1, np.inf, np.float32),
        )

    def correlations(self, pairs: np.ndarray) -> np.ndarray:
        """``[M] float64`` of ``pairs [M, 2]`` over all greys, from exact sums."""
        found = [np.empty(0)]
        for some in _chunks(pairs, _PAIRS):
            i, j = some.T
            found.append(
                _covariance(self._products(i, j), self.total[i], self.total[j])
                / np.sqrt(self._variance(i) * self._variance(j))
            )
        return np.minimum(np.concatenate(found), 1)

    def _variance(self, rows: np.ndarray) -> np.ndarray:
        return _covariance(self.square[rows], self.total[rows], self.total[rows])

    def _products(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Sums of products of greys. They are whole and below 2^24: float32 does not round them."""
        left, in_left = np.unique(i, return_inverse=True)
        right, in_right = np.unique(j, return_inverse=True)
        if len(left) * len(right) > _DENSE * len(i):
            return np.einsum("ij,ij->i", _grey(self.thumbs[i]), _grey(self.thumbs[j]))
        return (_grey(self.thumbs[left]) @ _grey(self.thumbs[right]).T)[in_left, in_right]


def _grey(raw: np.ndarray) -> np.ndarray:
    """Greys around 0, so that the sum of 576 products stays below 2^24."""
    return raw.astype(np.float32) - 128


def _covariance(product: np.ndarray, total_i: np.ndarray, total_j: np.ndarray) -> np.ndarray:
    """576^2 times the covariance, exact in float64."""
    return THUMB_SIZE * product.astype(np.float64) - total_i.astype(np.float64) * total_j


def _unit(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of zero mean and unit norm; sum and sum of squares of their greys; their norm before."""
    grey = _grey(raw)
    total = grey.sum(1)
    square = np.einsum("ij,ij->i", grey, grey)
    norm = np.sqrt(_covariance(square, total, total)) / THUMB_SIDE
    grey -= (total / THUMB_SIZE)[:, None]
    grey *= (1 / np.maximum(norm, 1)).astype(np.float32)[:, None]
    return grey, total, square, norm


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


@dataclass
class _Cell:
    """The core points of a box, and the halo: points elsewhere that may be near one of them.

    Each pair of points is met in one cell only: of two boxes, the first has the second's points in
    its halo.
    """

    points: np.ndarray  # [13, n] float32
    ids: np.ndarray  # [n]: what each column of points stands for
    core: np.ndarray  # columns
    halo: np.ndarray  # columns
    gap: np.ndarray  # [halo]: squared distance from the box
    low: np.ndarray  # [13]
    high: np.ndarray  # [13]

    def __reduce__(self) -> tuple[type["_Cell"], tuple[object, ...]]:
        # Another machine needs no more than the cell's own points.
        packed = self.packed()
        return _Cell, tuple(getattr(packed, each.name) for each in fields(packed))

    def packed(self) -> "_Cell":
        """The same cell with nothing but its own points, close together in memory."""
        columns = np.concatenate((self.core, self.halo))
        place = np.arange(len(columns))
        return replace(
            self,
            points=self.points.take(columns, axis=1),
            ids=self.ids[columns],
            core=place[: len(self.core)],
            halo=place[len(self.core) :],
        )

    def halves(self, reach: float) -> tuple["_Cell", "_Cell"]:
        """The cell cut across the axis on which the core is widest."""
        some = self.core[:: max(1, len(self.core) // 1024)]
        axis = int(np.argmax(self.points.take(some, axis=1).var(1)))
        value = self.points[axis].take(self.core)
        first = np.zeros(len(value), bool)
        first[np.argpartition(value, len(value) // 2)[: len(value) // 2]] = True
        below, above = self.core[first], self.core[~first]
        left, right = value[first].max(), value[~first].min()
        halo = self.points[axis].take(self.halo)
        left_gap = self.gap + _beyond(halo - left) - _beyond(halo - self.high[axis])
        right_gap = self.gap + _beyond(right - halo) - _beyond(self.low[axis] - halo)
        left_gap = np.concatenate((left_gap, _beyond(value[~first] - left)))
        near = np.flatnonzero(left_gap <= reach)
        left_cell = replace(
            self,
            core=below,
            halo=np.concatenate((self.halo, above)).take(near),
            gap=left_gap.take(near),
            high=self.high.copy(),
        )
        left_cell.high[axis] = left
        near = np.flatnonzero(right_gap <= reach)
        right_cell = replace(
            self,
            core=above,
            halo=self.halo.take(near),
            gap=right_gap.take(near),
            low=self.low.copy(),
        )
        right_cell.low[axis] = right
        return left_cell, right_cell


def _beyond(distance: np.ndarray) -> np.ndarray:
    """Squares of the positive ones, 0 for the others."""
    positive = np.maximum(distance, 0)
    return positive * positive


def _cells(cell: _Cell, size: int, reach: float) -> Iterator[_Cell]:
    """Cells of at most ``size`` core points in which each pair within ``reach`` is met."""
    waiting = [cell] if len(cell.core) else []
    while waiting:
        cell = waiting.pop()
        if _SPARSE * (len(cell.core) + len(cell.halo)) < len(cell.ids):
            cell = cell.packed()
        if len(cell.core) <= size:
            yield cell
        else:
            waiting.extend(reversed(cell.halves(reach)))


def _search(
    digest: _Digest, cell: _Cell, threshold: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``[M, 2]`` that connect the near points of one cell, and their correlations."""
    cell = cell.packed()
    links = _Links(cell.ids, digest, threshold)
    rows = np.ascontiguousarray(cell.points.T)
    limit = np.float32(1 + _SOFT - reach / 2)  # All points have the squared norm 1 + _SOFT.
    for leaf in _cells(replace(cell, ids=np.arange(len(cell.ids))), _LEAF, reach):
        core, halo = leaf.ids[leaf.core], leaf.ids[leaf.halo]
        group = links.label[core]
        if (group == group[0]).all():
            # In a crowd of equal faces nearly all is connected after a few leaves.
            halo = halo[links.label[halo] != group[0]]
        inner = np.ascontiguousarray(rows[core].T)
        outer = np.concatenate((core, halo))
        outer = np.concatenate((outer, core[:1].repeat(-len(outer) % _SOME)))  # To whole products.
        for some in _chunks(outer, _PRODUCTS * _SOME):
            product = rows.take(some, axis=0).reshape(-1, _SOME, _AXES + 1) @ inner
            j, i = np.divmod(np.flatnonzero(product >= limit), len(core))
            links.add(np.stack((core[i], some[j]), 1))
    return links.result()


class _Links:
    """Near pairs among the rows of one task; those already connected are not compared again."""

    def __init__(self, rows: np.ndarray, digest: _Digest, threshold: float) -> None:
        self.label = np.arange(len(rows))
        self._rows = rows
        self._digest = digest
        self._threshold = threshold
        self._waiting: list[np.ndarray] = []
        self._size = 0
        self._pairs = [np.empty((0, 2), np.int64)]
        self._correlation = [np.empty(0)]

    def add(self, pairs: np.ndarray) -> None:
        """Candidates ``[M, 2]``, places in ``rows``."""
        self._waiting.append(pairs)
        self._size += len(pairs)
        if self._size >= _BATCH:
            self._settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        if self._size:
            self._settle()
        return self._rows[np.concatenate(self._pairs)], np.concatenate(self._correlation)

    def _settle(self) -> None:
        pairs = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0
        # One pair for each two groups first: in a crowd, the others are then connected.
        pairs, ends = self._apart(pairs)
        some = np.sort(np.unique(ends @ (len(self.label), 1), return_index=True)[1])
        self._compare(pairs[some])
        self._compare(self._apart(np.delete(pairs, some, axis=0))[0])

    def _apart(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs that connect two groups, and these groups (smaller label first)."""
        ends = np.sort(self.label[pairs], axis=1)
        apart = ends[:, 0] != ends[:, 1]
        return pairs[apart], ends[apart]

    def _compare(self, pairs: np.ndarray) -> None:
        correlation = self._digest.correlations(self._rows[pairs])
        near = correlation >= self._threshold
        pairs, correlation = pairs[near], correlation[near]
        chosen, group = _span(self.label[pairs], correlation, len(self.label))
        self._pairs.append(pairs[chosen])
        self._correlation.append(correlation[chosen])
        self.label = group[self.label]


class _Forest:
    """The strongest pairs that connect all rows which the pairs added so far connect."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pairs: list[np.ndarray] = []
        self._correlation: list[np.ndarray] = []

    def add(self, pairs: np.ndarray, correlation: np.ndarray) -> None:
        self._pairs.append(pairs)
        self._correlation.append(correlation)
        if sum(map(len, self._pairs)) > 2 * self._count:
            self._thin()

    def groups(self, flat: np.ndarray) -> NearGroups:
        group = self._thin()
        rows = np.arange(self._count)
        first = np.empty_like(rows)
        first[group[::-1]] = rows[::-1]  # Of equal places, the last one written stays.
        pairs = self._pairs[0]
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return NearGroups(first[group], pairs[order], self._correlation[0][order], flat)

    def _thin(self) -> np.ndarray:
        pairs = np.sort(np.concatenate(self._pairs), axis=1)
        correlation = np.concatenate(self._correlation)
        chosen, group = _span(pairs, correlation, self._count)
        self._pairs, self._correlation = [pairs[chosen]], [correlation[chosen]]
        return group


def _span(ends: np.ndarray, correlation: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the edges ``ends [M, 2]`` span a forest, the strongest first; each node's tree."""
    ends = np.sort(ends, axis=1)
    order = np.lexsort((ends[:, 1], ends[:, 0], -correlation))
    # A sparse graph adds parallel edges up; only the strongest may come in.
    _, strongest = np.unique(ends[order] @ (count, 1), return_index=True)
    order = order[np.sort(strongest)]
    rank = np.arange(1, len(order) + 1, dtype=float)
    # SciPy before 1.17.1 spans graphs of 32-bit indices only.
    graph = coo_array((rank, tuple(ends[order].T.astype(np.int32))), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr())
    _, group = connected_components(tree, directed=False)
    return order[np.sort(tree.data).astype(np.int64) - 1], group
