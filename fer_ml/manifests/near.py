"""Near-identical faces: copies of one photo, also mirrored, moved, turned, cropped or re-lit.

Two faces are copies when they pass, in this order,

1. ``Near.code``: their codes (``likeness``) are similar, or one's and the other's mirrored;
2. ``Near.view``: so is some coarse view of one to the other (``alignment``);
3. ``Near.detail``: so is their fine detail after alignment; or else ``Near.grey``: so are all
   greys without alignment.

Compared are each face and its mirrored face with the most similar ones by their codes
(``neighbours``). So the compared pairs grow with the faces, and not with their square. The faces
of a group that is larger than these are compared again, with faces of other groups, in up to
``ROUNDS`` rounds.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from threadpoolctl import threadpool_limits

from fer_ml.base.errors import FerError
from fer_ml.base.shards import in_threads, map_sharing
from fer_ml.images.inspection import THUMB_SIDE, THUMB_SIZE
from fer_ml.manifests import alignment
from fer_ml.manifests.likeness import CODE_LENGTH, CODE_SIZE, codes
from fer_ml.manifests.neighbours import NEAREST, Neighbours, Search
from fer_ml.recipes.profile import Near

#: Below this standard deviation (in greys) a thumb is flat. Rounding to whole greys adds a variance
#: of 1/12, so two copies of a picture with deviation s correlate at about s^2 / (s^2 + 1/12), which
#: is under 0.98 for s < 2.
FLAT_STD = 2.0

#: Rows read at once, and pairs compared at once.
_ROWS, _PAIRS = 4096, 128
#: Pairs of one task, those compared before its groups are looked at again, and faces whose views
#: are held at once.
_TASK, _TRIED, _VIEWED = 1 << 14, 2048, 32
#: What the detail of a copy lacks at most after the first step of its alignment: few altered copies
#: of real faces lack more, and most other candidates do.
_EARLY = 0.25
#: How often, at most, the faces of a group that grew are compared.
ROUNDS = 4

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
    rule: Near | None = None,
    workers: int | None = None,
) -> NearGroups:
    """Return the connected components of the pairs that were compared and are copies by ``rule``.

    ``thumbs [N, 576] uint8`` may be a memory map; it is read in blocks. ``workers`` threads
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
    # Threads of BLAS would wait for each other busily, beside the workers.
    with threadpool_limits(1, "blas"):
        for _ in in_threads(digest.read, range(0, len(thumbs), _ROWS), workers):
            pass
        twins = digest.twins()
        forest = _Forest(len(thumbs))
        forest.add(twins, np.ones(len(twins)))
        alone = ~digest.flat
        alone[twins[:, 1]] = False
        rows = np.flatnonzero(alone)
        index = Neighbours(digest.codes, rows, digest.hash, workers=workers)
        asked, group = alone, np.arange(len(thumbs))
        for _ in range(ROUNDS):
            search = Search(asked, group, digest.rule.code * CODE_LENGTH**2)
            found = map_sharing(_candidates, (index, search), index.tasks, workers=workers)
            for links in map_sharing(
                _links, digest, _tasks(_distinct(found), len(thumbs)), workers=workers
            ):
                forest.add(*links)
            before, group = group, forest.group()
            size = np.bincount(group[rows], minlength=len(group))
            was = np.bincount(before[rows], minlength=len(group))
            # All that such a face was compared with may be of its own group.
            asked = alone & (size[group] > NEAREST) & (was[before] < size[group])
            if not asked.any():
                break
    return forest.groups(digest.flat)


def _candidates(asked: tuple[Neighbours, Search], task: tuple[int, int]) -> np.ndarray:
    """Return ``numbered`` pairs of the faces of a task and their neighbours."""
    index, search = asked
    return numbered(index.of_task(task, search), index.content)


def _distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return the numbers in all parts, sorted; ``np.unique`` takes several times the memory."""
    numbers = np.concatenate([np.empty(0, np.int64), *parts])
    numbers.sort()
    return numbers[np.r_[True, numbers[1:] != numbers[:-1]][: len(numbers)]]


def numbered(pairs: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return one number for each of ``pairs [M, 2]`` of ids, the same whatever the rows' order.

    The first id is a row; the second one is a row or, from the number of rows on, a mirrored one.
    The one with the lesser hash becomes the first: aligning is not symmetric.
    """
    count = len(content)
    row, other = pairs[:, 0], pairs[:, 1] % count
    turn = content[row] > content[other]
    mirrored = pairs[:, 1] - other
    first, second = np.where(turn, other, row), np.where(turn, row, other)
    return first * 2 * count + second + mirrored


def _tasks(numbers: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield the pairs ``[M, 2]`` of sorted numbers in tasks."""
    return (np.stack(np.divmod(some, 2 * count), 1) for some in _chunks(numbers, _TASK))


class _Digest:
    """Data kept of each thumb: its code, a hash, whether it is flat; and the rule of copies."""

    def __init__(self, thumbs: np.ndarray, rule: Near) -> None:
        count = len(thumbs)
        self.thumbs = thumbs
        self.rule = rule
        self.flat = np.empty(count, bool)
        self.hash = np.empty(count, np.uint64)
        self.codes = np.empty((count, CODE_SIZE), np.int8)
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

    def likeness(self, pairs: np.ndarray) -> np.ndarray:
        """Return ``[M] float64`` of pairs (see ``numbered``): 0 for pairs that are not copies."""
        mirrored = pairs[:, 1] >= len(self.thumbs)
        second = self.thumbs[pairs[:, 1] % len(self.thumbs)]
        second[mirrored] = flipped(second[mirrored])
        return compare(self.thumbs[pairs[:, 0]], second, self.rule).likeness


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
    grey = np.empty(len(first))
    for some in _chunks(np.arange(len(first)), _PAIRS):
        grey[some] = alignment.grey(first[some], second[some])
    likeness = np.where(grey >= rule.grey, grey, 0)
    left = np.flatnonzero(seen >= rule.view)
    fine = np.empty(len(first))
    for steps, least in ((alignment.FIRST, rule.detail - _EARLY), (alignment.LATER, rule.detail)):
        for some in _chunks(left, _PAIRS):
            moves[some] = alignment.align(first[some], second[some], moves[some], steps)
            fine[some] = alignment.detail(first[some], second[some], moves[some])
        left = left[fine[left] >= least]
    likeness[left] = np.maximum(likeness[left], fine[left])
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


def _links(digest: _Digest, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs ``[M, 2]`` of rows that connect the copies among sorted pairs, and likeness.

    Pairs that others connect are not compared: in a crowd, most are connected by the first ones.
    """
    rows, nodes = np.unique(pairs % len(digest.thumbs), return_inverse=True)
    nodes = nodes.reshape(pairs.shape)  # A face and its mirrored one are one node.
    group = np.arange(len(rows))
    chosen_pairs, chosen_likeness = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for some in _chunks(np.arange(len(pairs)), _TRIED):
        some = some[group[nodes[some, 0]] != group[nodes[some, 1]]]
        likeness = digest.likeness(pairs[some])
        ends, likeness = nodes[some][likeness > 0], likeness[likeness > 0]
        chosen, joined = _span(group[ends], likeness, len(group))
        chosen_pairs.append(rows[ends[chosen]])
        chosen_likeness.append(likeness[chosen])
        group = joined[group]
    return np.concatenate(chosen_pairs), np.concatenate(chosen_likeness)


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

    def group(self) -> np.ndarray:
        """Return the number of each row's group so far."""
        return self._thin()

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
