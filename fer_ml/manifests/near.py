"""Near-identical faces: copies of one photo, also mirrored, moved, turned, cropped or re-lit.

Two faces are copies when they pass, in this order,

1. ``Near.code``: their codes (``likeness``) are similar, or one's and the other's mirrored;
2. ``Near.view``: so is some coarse view of one to the other (``alignment``);
3. ``Near.detail``: so is their fine detail after alignment; or else ``Near.grey``: so are all
   greys without alignment.

The search is exact: it finds the same pairs as a comparison of all pairs. For the first step a k-d
tree with overlap splits the first eight numbers of the codes: each cell meets only the points
within reach of its box. Mirrored faces are points of their own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from threadpoolctl import threadpool_limits

from fer_ml.base.errors import FerError
from fer_ml.base.shards import in_threads, map_sharing
from fer_ml.images.inspection import THUMB_SIDE, THUMB_SIZE
from fer_ml.manifests import alignment
from fer_ml.manifests.likeness import CODE_LENGTH, CODE_SIZE, codes, mirror_signs
from fer_ml.recipes.profile import Near

#: Below this standard deviation (in greys) a thumb is flat. Rounding to whole greys adds a variance
#: of 1/12, so two copies of a picture with deviation s correlate at about s^2 / (s^2 + 1/12), which
#: is under 0.98 for s < 2.
FLAT_STD = 2.0

#: Numbers of a code by which the tree goes, and the squared distance there (of codes of length 1)
#: that copies have at most.
_AXES, _REACH = 8, 0.18
#: Rows read at once, core points of one task and of one leaf, pairs compared at once.
_ROWS, _TASK, _LEAF, _PAIRS = 4096, 8192, 256, 128
#: Points that meet a leaf's core in one product: OpenBLAS is fastest below a million operations.
#: Many products run in one call, because threads wait for each other between calls.
_SOME, _PRODUCTS = 128, 32
#: Candidates that wait, those that are compared before the groups are looked at again, and faces
#: whose views are held at once.
_BATCH, _TRIED, _VIEWED = 1 << 18, 2048, 32
#: Points are copied together when a cell uses less than one in so many of them.
_SPARSE = 8

#: What a copy is, beside the other: the first of these that holds.
KINDS = ("near-identical", "mirrored", "turned", "another crop", "re-lit")
#: From so many degrees, px of 24, and parts of the scale on, a copy was moved.
_TURNED, _SHIFTED, _SCALED = 2.0, 0.5, 0.03


@dataclass(frozen=True)
class NearGroups:
    """Groups of near-identical rows and the pairs that connect them.

    ``first [N] int64``: the first row of each row's group, its own index when it is alone.
    ``pairs [M, 2] int64``: confirmed pairs (smaller index first, rows sorted) that connect each
    group without a loop, so that M is N minus the number of groups. ``likeness [M] float64``:
    the correlation that confirmed each. ``flat [N] bool``: rows without contrast, which are near to
    nothing.
    """

    first: np.ndarray
    pairs: np.ndarray
    likeness: np.ndarray
    flat: np.ndarray


def near_groups(
    thumbs: np.ndarray,
    *,
    fresh: np.ndarray | None = None,
    rule: Near | None = None,
    workers: int | None = None,
) -> NearGroups:
    """Return the connected components of 'the two are copies by ``rule``'.

    ``thumbs [N, 576] uint8`` may be a memory map; it is read in blocks. With ``fresh [N] bool``,
    only pairs with at least one such row are searched, and groups are what these pairs connect.
    This suits a set that grew by a few rows and whose other pairs are known. ``workers`` threads
    (default: one for each core) do not change the result, and the order of the rows does not change
    the groups. Flat rows (see ``FLAT_STD``) are alone, even those with equal bytes. Raises
    ``FerError`` for another shape or type.
    """
    if thumbs.ndim != 2 or thumbs.shape[1] != THUMB_SIZE or thumbs.dtype != np.uint8:
        raise FerError(
            f"thumbnails have the shape {thumbs.shape} and type {thumbs.dtype}",
            code="invalid-array",
            allowed="[N, 576] uint8",
        )
    workers = workers or os.cpu_count() or 1
    digest = _Digest(np.asarray(thumbs), rule or Near())
    reach = _REACH * CODE_LENGTH**2
    # Threads of BLAS would wait for each other busily, beside the workers.
    with threadpool_limits(1, "blas"):
        for _ in in_threads(digest.read, range(0, len(thumbs), _ROWS), workers):
            pass
        twins = digest.twins()
        forest = _Forest(len(thumbs))
        forest.add(twins, np.ones(len(twins)))
        for links in map_sharing(
            partial(_search, reach=reach),
            digest,
            _cells(digest.root(twins, fresh), _TASK, reach),
            workers=workers,
        ):
            forest.add(*links)
    return forest.groups(digest.flat)


class _Digest:
    """Data kept of each thumb: its code, a hash, whether it is flat; and the rule of copies."""

    def __init__(self, thumbs: np.ndarray, rule: Near) -> None:
        count = len(thumbs)
        self.thumbs = thumbs
        self.rule = rule
        self.flat = np.empty(count, bool)
        self.hash = np.empty(count, np.uint64)
        self.fresh = np.ones(count, bool)
        self.codes = np.empty((count, CODE_SIZE), np.int8)
        #: The mirrored faces stand behind the faces.
        self.points = np.empty((_AXES, 2 * count), np.float32)
        self._weights = np.random.default_rng(0).integers(0, 2**64, THUMB_SIZE // 8, np.uint64) | 1

    def read(self, start: int) -> None:
        """Compute the data of the rows from ``start`` on."""
        part = slice(start, min(start + _ROWS, len(self.thumbs)))
        raw = np.ascontiguousarray(self.thumbs[part])
        self.hash[part] = (raw.view(np.uint64) * self._weights).sum(1)
        grey = raw.astype(np.float32) - 128  # Whole sums below 2^24: float32 does not round them.
        total, square = (each.astype(np.float64) for each in (grey.sum(1), (grey * grey).sum(1)))
        self.flat[part] = THUMB_SIZE * square - total**2 < (FLAT_STD * THUMB_SIZE) ** 2
        self.codes[part] = codes(raw)
        first = self.codes[part, :_AXES].T.astype(np.float32)
        self.points[:, part] = first
        mirrored = slice(len(self.thumbs) + part.start, len(self.thumbs) + part.stop)
        self.points[:, mirrored] = first * mirror_signs()[:_AXES, None]

    def twins(self) -> np.ndarray:
        """Return ``[M, 2]``: rows (second) with the same bytes as an earlier row (first)."""
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
        """Return one cell with all rows that are neither flat nor a twin of an earlier one.

        Pairs of two halo points are not compared, so rows that are not fresh are the halo.
        """
        alone = ~self.flat
        alone[twins[:, 1]] = False
        self.fresh = alone if fresh is None else alone & fresh
        core = self.fresh
        halo = np.concatenate((np.flatnonzero(alone & ~core), len(alone) + np.flatnonzero(alone)))
        return _Cell(
            points=self.points,
            ids=np.arange(2 * len(alone)),
            core=np.flatnonzero(core),
            halo=halo,
            gap=np.zeros(len(halo), np.float32),
            low=np.full(_AXES, -np.inf, np.float32),
            high=np.full(_AXES, np.inf, np.float32),
        )

    def once(self, pairs: np.ndarray) -> np.ndarray:
        """Return which of ``pairs [M, 2]`` of ids do not also occur the other way round."""
        row, other = pairs[:, 0], pairs[:, 1] % len(self.thumbs)
        again = (pairs[:, 1] != other) & self.fresh[other]
        return ~again | (row < other)

    def codes_of(self, ids: np.ndarray) -> np.ndarray:
        """Return ``[M, 64] float32`` of rows; ids beyond the rows are mirrored ones."""
        signs = np.where((ids >= len(self.thumbs))[:, None], mirror_signs(), 1)
        return (self.codes[ids % len(self.thumbs)] * signs).astype(np.float32)

    def oriented(self, pairs: np.ndarray) -> np.ndarray:
        """Return ``pairs [M, 2]`` of ids sorted, each once and one way, whatever the rows' order.

        The first one is a row; the second one is a row or a mirrored one.
        """
        count = len(self.thumbs)
        row, other = pairs[:, 0], pairs[:, 1] % count
        turn = self.hash[row] > self.hash[other]
        mirrored = pairs[:, 1] - other
        turned = np.stack((np.where(turn, other, row), np.where(turn, row, other) + mirrored), 1)
        return np.unique(turned, axis=0)

    def likeness(self, pairs: np.ndarray) -> np.ndarray:
        """Return ``[M] float64`` of oriented pairs: 0 for pairs that are not copies."""
        scores = [np.empty(0)]
        for some in _chunks(pairs, _PAIRS):
            mirrored = some[:, 1] >= len(self.thumbs)
            second = self.thumbs[some[:, 1] % len(self.thumbs)]
            second[mirrored] = flipped(second[mirrored])
            scores.append(compare(self.thumbs[some[:, 0]], second, self.rule).likeness)
        return np.concatenate(scores)


@dataclass(frozen=True)
class Compared:
    """Results for pairs ``[P]``: likeness (0 for no copies), the first's move, grey likeness."""

    likeness: np.ndarray
    moves: np.ndarray
    grey: np.ndarray


def flipped(thumbs: np.ndarray) -> np.ndarray:
    """Return the mirrored thumbs."""
    square = thumbs.reshape(-1, THUMB_SIDE, THUMB_SIDE)
    return square[:, :, ::-1].reshape(len(thumbs), THUMB_SIZE)


def compare(first: np.ndarray, second: np.ndarray, rule: Near) -> Compared:
    """Apply the second and third step of the rule to pairs of thumbs ``[P, 576]``.

    Equal rows of ``first`` should be adjacent: their views are then computed once.
    """
    new = np.r_[True, (first[1:] != first[:-1]).any(1)][: len(first)]
    bounds = np.append(np.flatnonzero(new), len(first))
    others = alignment.inner(alignment.coarse(second))
    seen = np.empty(len(first))
    moves = np.empty((len(first), 4))
    for some in _chunks(np.arange(len(bounds) - 1), _VIEWED):
        views = alignment.views(alignment.coarse(first[bounds[some]]))
        for place, each in zip(some, views, strict=True):
            span = slice(bounds[place], bounds[place + 1])
            seen[span], best = alignment.best_view(each, others[span])
            moves[span] = alignment.view_moves()[best]
    grey = alignment.grey(first, second)
    likeness = np.where(grey >= rule.grey, grey, 0)
    left = np.flatnonzero(seen >= rule.view)
    moves[left] = alignment.align(first[left], second[left], moves[left])
    fine = alignment.detail(first[left], second[left], moves[left])
    likeness[left] = np.maximum(likeness[left], np.where(fine >= rule.detail, fine, 0))
    return Compared(likeness, moves, grey)


def kinds(first: np.ndarray, second: np.ndarray, rule: Near) -> np.ndarray:
    """Return what ``second [P, 576]`` is of ``first``: one of ``KINDS``, or '' for no copies."""
    plain, mirrored = compare(first, second, rule), compare(first, flipped(second), rule)
    turned = mirrored.likeness > plain.likeness
    a, b, x, y = plain.moves.T
    return np.select(
        [
            (plain.likeness == 0) & (mirrored.likeness == 0),
            plain.grey >= rule.grey,
            turned,
            abs(np.rad2deg(np.arctan2(b, a))) >= _TURNED,
            (np.maximum(abs(x), abs(y)) >= _SHIFTED) | (abs(np.hypot(a, b) - 1) >= _SCALED),
        ],
        ["", *KINDS[:4]],
        KINDS[4],
    )


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


@dataclass
class _Cell:
    """The core points of a box, and its halo: points outside that may be near a core point.

    Each pair of points is compared in one cell only: of two boxes, the first has the second's
    points in its halo.
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
        """Return the same cell with only its own points, contiguous in memory."""
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
        """Return two cells: half the core each, cut on its widest axis, with all in ``reach``."""
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
    """Return squares of the positive values, 0 for the others."""
    positive = np.maximum(distance, 0)
    return positive * positive


def _cells(cell: _Cell, size: int, reach: float) -> Iterator[_Cell]:
    """Yield cells of at most ``size`` core points that cover each pair within ``reach``."""
    waiting = [cell] if len(cell.core) else []
    while waiting:
        cell = waiting.pop()
        if _SPARSE * (len(cell.core) + len(cell.halo)) < len(cell.ids):
            cell = cell.packed()
        if len(cell.core) <= size:
            yield cell
        else:
            waiting.extend(reversed(cell.halves(reach)))


def _search(digest: _Digest, cell: _Cell, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs ``[M, 2]`` that connect the copies of one cell, and their likeness."""
    cell = cell.packed()
    links = _Links(cell.ids, digest)
    rows, points = digest.codes_of(cell.ids), np.ascontiguousarray(cell.points.T)
    limit = digest.rule.code * CODE_LENGTH**2
    for leaf in _cells(replace(cell, ids=np.arange(len(cell.ids))), _LEAF, reach):
        core, halo = leaf.ids[leaf.core], leaf.ids[leaf.halo]
        group = links.label(core)
        if (group == group[0]).all():
            # In a crowd of equal faces nearly all is connected after a few leaves.
            halo = halo[links.label(halo) != group[0]]
        inner = np.ascontiguousarray(rows[core].T)
        outer = np.concatenate((core, halo))
        outer = np.concatenate((outer, core[:1].repeat(-len(outer) % _SOME)))  # To whole products.
        for some in _chunks(outer, _PRODUCTS * _SOME):
            product = rows.take(some, axis=0).reshape(-1, _SOME, CODE_SIZE) @ inner
            j, i = np.divmod(np.flatnonzero(product >= limit), len(core))
            pairs = np.stack((core[i], some[j]), 1)
            apart = points[pairs[:, 0]] - points[pairs[:, 1]]
            pairs = pairs[(apart * apart).sum(1) <= reach]
            links.add(pairs[digest.once(cell.ids[pairs])])
    return links.result()


class _Links:
    """Copies among the rows of one task; pairs that are already connected are not compared."""

    def __init__(self, ids: np.ndarray, digest: _Digest) -> None:
        self._ids = ids
        self._digest = digest
        #: A face and its mirrored one are one node.
        self._rows, self._node = np.unique(ids % len(digest.thumbs), return_inverse=True)
        self._group = np.arange(len(self._rows))
        self._waiting: list[np.ndarray] = []
        self._size = 0
        self._pairs = [np.empty((0, 2), np.int64)]
        self._likeness = [np.empty(0)]

    def label(self, places: np.ndarray) -> np.ndarray:
        """Return the group of each place so far."""
        return self._group[self._node[places]]

    def add(self, pairs: np.ndarray) -> None:
        """Add candidate pairs ``[M, 2]``, as places in ``ids``."""
        self._waiting.append(self._apart(pairs))
        self._size += len(self._waiting[-1])
        if self._size >= _BATCH:
            self._settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        self._settle()
        return np.concatenate(self._pairs), np.concatenate(self._likeness)

    def _settle(self) -> None:
        if self._size:
            pairs = self._digest.oriented(self._ids[np.concatenate(self._waiting)])
            self._waiting, self._size = [], 0
            # A few at a time: in a crowd, most are connected by the first ones.
            for some in _chunks(pairs, _TRIED):
                self._compare(some)

    def _apart(self, pairs: np.ndarray) -> np.ndarray:
        """Return the pairs that connect two groups."""
        return pairs[self.label(pairs[:, 0]) != self.label(pairs[:, 1])]

    def _compare(self, pairs: np.ndarray) -> None:
        nodes = np.searchsorted(self._rows, pairs % len(self._digest.thumbs))
        apart = self._group[nodes[:, 0]] != self._group[nodes[:, 1]]
        pairs, nodes = pairs[apart], nodes[apart]
        likeness = self._digest.likeness(pairs)
        near = likeness > 0
        nodes, likeness = nodes[near], likeness[near]
        chosen, group = _span(self._group[nodes], likeness, len(self._group))
        self._pairs.append(self._rows[nodes[chosen]])
        self._likeness.append(likeness[chosen])
        self._group = group[self._group]


class _Forest:
    """The strongest pairs that connect the rows which all added pairs connect."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pairs: list[np.ndarray] = []
        self._likeness: list[np.ndarray] = []

    def add(self, pairs: np.ndarray, likeness: np.ndarray) -> None:
        self._pairs.append(pairs)
        self._likeness.append(likeness)
        if sum(map(len, self._pairs)) > 2 * self._count:
            self._thin()

    def groups(self, flat: np.ndarray) -> NearGroups:
        group = self._thin()
        rows = np.arange(self._count)
        first = np.empty_like(rows)
        first[group[::-1]] = rows[::-1]  # Of equal places, the last one written stays.
        pairs = self._pairs[0]
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return NearGroups(first[group], pairs[order], self._likeness[0][order], flat)

    def _thin(self) -> np.ndarray:
        pairs = np.sort(np.concatenate(self._pairs), axis=1)
        likeness = np.concatenate(self._likeness)
        chosen, group = _span(pairs, likeness, self._count)
        self._pairs, self._likeness = [pairs[chosen]], [likeness[chosen]]
        return group


def _span(ends: np.ndarray, likeness: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which edges ``ends [M, 2]`` span a forest, strongest first, and each node's tree."""
    ends = np.sort(ends, axis=1)
    order = np.lexsort((ends[:, 1], ends[:, 0], -likeness))
    # A sparse graph adds parallel edges up; only the strongest may come in.
    _, strongest = np.unique(ends[order] @ (count, 1), return_index=True)
    order = order[np.sort(strongest)]
    rank = np.arange(1, len(order) + 1, dtype=float)
    # SciPy before 1.17.1 spans graphs of 32-bit indices only.
    graph = coo_array((rank, tuple(ends[order].T.astype(np.int32))), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr())
    _, group = connected_components(tree, directed=False)
    return order[np.sort(tree.data).astype(np.int64) - 1], group
