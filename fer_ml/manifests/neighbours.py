"""The faces whose codes are most similar to a face's, among any number of faces.

Each face lies in the cell whose centre is most similar to it, and is compared with the faces of
the ``_PROBED`` cells whose centres are (an inverted file, as in Jegou et al. 2011). So a face meets
some thousands of many faces. Where there are no more cells, all are compared.

Codes, centres and all sums are whole numbers that their type holds exactly, and a face's content
decides between equals. So the neighbours are the same on each processor, with any number of threads
and in any order of the faces.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from fer_ml.base.shards import in_threads
from fer_ml.manifests.likeness import CODE_LENGTH, CODE_SIZE, mirror_signs

#: The most neighbours of a face, and of its mirrored face. ``benchmarks/near_duplicates.py`` says
#: what is found with so many.
NEAREST = 6
#: Faces of a cell: at least, and by the root of their number when there are millions.
_CELL, _ROOT = 512, 4
#: Cells in which a face's neighbours are looked for, and those near its own from which they are
#: chosen.
_PROBED, _NEAR = 32, 512
#: Faces by which each centre is placed, and how often.
_SAMPLE, _ROUNDS = 50, 4
#: Faces that may be found in a cell, in means of all cells: the others of a larger crowd of equal
#: codes only find.
_LARGEST = 16
#: Faces whose cell is found at once, those of one task and of one product at most, and neighbours
#: that wait to be sorted.
_ROWS, _ASKING, _MEETING, _WAITING = 256, 2048, 256, 1 << 17
#: Parts of 1 by which a face's content decides between equally similar ones: its first 9 bits. A
#: similarity has 15 bits before the point, and single precision holds 24.
_TIES, _TIE_BITS = 512, np.uint64(55)


class Neighbours:
    """Cells of the faces that may be neighbours.

    ``codes [N, 64] int8``; ``rows``: those to find; ``content [N] uint64``: a hash of each face.
    """

    def __init__(
        self, codes: np.ndarray, rows: np.ndarray, content: np.ndarray, *, workers: int
    ) -> None:
        self._codes = codes
        self.content = content
        rows = rows[np.argsort(content[rows], kind="stable")]
        count = max(1, min(len(rows) // _CELL, math.isqrt(_ROOT**2 * len(rows))))
        centres = _centres(codes, rows, count, workers)
        # Of equal centres, as in a crowd of equal codes, one has all the faces.
        used, home = np.unique(_homes(codes, rows, centres, workers), return_inverse=True)
        self._centres, count = centres[used], len(used)
        self._largest = _LARGEST * max(_CELL, len(rows) // max(count, 1))
        self._rows, self._bounds = _by_cell(home, rows, count)
        #: By cell: the cells whose centres are nearest to its own.
        self._near = [
            np.argsort(-(self._centres @ each), kind="stable")[:_NEAR].astype(np.int32)
            for each in self._centres
        ]
        #: Rows and mirrored rows (behind the rows) by their centre, and where each task begins.
        every = np.concatenate((rows, len(codes) + rows))
        mirrored = _homes(codes, rows, self._centres * mirror_signs(), workers)
        self._asking, bounds = _by_cell(np.concatenate((home, mirrored)), every, count)
        self._tasks = _cut(bounds, _ASKING)

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """The tasks of a search: what ``of_task`` takes."""
        starts = [*self._tasks, len(self._asking)]
        return list(itertools.pairwise(starts))

    def of_task(self, task: tuple[int, int], search: "Search") -> np.ndarray:
        """Return pairs ``[M, 2] int64``: rows, and their neighbours among the faces of a task.

        The second one is counted on from the number of faces when it is the mirrored face that has
        the first one as its neighbour.
        """
        ids = self._asking[slice(*task)]
        rows = ids % len(self._codes)
        asked = search.asked[rows]
        ids, rows = ids[asked], rows[asked]
        if not len(ids):
            return np.empty((0, 2), np.int64)
        signs = np.where((ids >= len(self._codes))[:, None], mirror_signs(), 1)
        asking = np.ones((len(ids), CODE_SIZE + 1), np.float32)
        asking[:, :-1] = self._codes[rows] * signs
        best = _Best(len(ids), search.least, self.content)
        groups = search.group[rows]
        for other, places in self._meetings(self._near[self._tasks[task[0]]], asking[:, :-1]):
            start, stop = self._bounds[other : other + 2]
            others = self._rows[start : min(stop, start + self._largest)]
            points = np.empty((len(others), CODE_SIZE + 1), np.float32)
            points[:, :-1] = self._codes[others]
            points[:, -1] = (self.content[others] >> _TIE_BITS) / _TIES
            similar, theirs = asking[places] @ points.T, search.group[others]
            # A crowd in one group would be listed whole.
            similar[groups[places][:, None] == theirs] = -np.inf
            best.add(similar, places, others)
        place, neighbour, _ = best.settle()
        return np.stack((neighbour, ids[place]), 1)

    def _meetings(self, near: np.ndarray, asking: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield cells, and the places of the faces that are compared with theirs."""
        # Of equally similar centres, the earlier one is probed.
        similar = asking @ self._centres[near].T - np.arange(len(near), dtype=np.float32) / _TIES
        probed = min(_PROBED, len(near))
        column = np.argpartition(-similar, probed - 1, axis=1)[:, :probed].ravel()
        order = np.argsort(column, kind="stable")
        bounds = np.searchsorted(column[order], np.arange(len(near) + 1))
        for index, other in enumerate(near.tolist()):
            places = order[bounds[index] : bounds[index + 1]] // probed
            for start in range(0, len(places), _MEETING):
                yield other, places[start : start + _MEETING]


@dataclass(frozen=True)
class Search:
    """What is asked: the neighbours of some rows in other groups, from a least similarity on.

    ``asked [N] bool``, ``group [N]``, ``least``: a product of two codes.
    """

    asked: np.ndarray
    group: np.ndarray
    least: float


class _Best:
    """The best ones so far of each face of a task."""

    def __init__(self, count: int, least: float, content: np.ndarray) -> None:
        self._content = content
        #: What a similarity must have to be among a face's best.
        self._floor = np.full(count, np.ceil(least), np.float32)
        self._found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        self._count = 0

    def add(self, similar: np.ndarray, places: np.ndarray, others: np.ndarray) -> None:
        """Add the similarities ``[places, others]``."""
        row, column = np.divmod(np.flatnonzero(similar >= self._floor[places, None]), len(others))
        self._found.append((places[row], others[column], similar[row, column]))
        self._count += len(row)
        if self._count > _WAITING:
            self.settle()

    def settle(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return places, rows and similarities, at most ``NEAREST`` for each place."""
        place, other, similar = (np.concatenate(each) for each in zip(*self._found, strict=True))
        order = np.lexsort((self._content[other], -similar, place))
        place, other, similar = place[order], other[order], similar[order]
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        best, last = rank < NEAREST, rank == NEAREST - 1
        self._floor[place[last]] = similar[last]
        self._found = [(place[best], other[best], similar[best])]
        self._count = int(best.sum())
        return self._found[0]


def _centres(codes: np.ndarray, rows: np.ndarray, count: int, workers: int) -> np.ndarray:
    """Return ``[count, 64] float32``, whole: spherical k-means on some of the rows."""
    centres: np.ndarray = codes[rows[:count]].astype(np.float32)
    some = rows[: count * _SAMPLE]
    for _ in range(_ROUNDS if count > 1 else 0):
        home = _homes(codes, some, centres, workers)
        placed, bounds = _by_cell(home, some, count)
        for cell in np.flatnonzero(np.diff(bounds)):
            total = codes[placed[bounds[cell] : bounds[cell + 1]]].sum(0, dtype=np.int64)
            length = np.sqrt(float((total * total).sum()))
            if length:
                centres[cell] = np.rint(CODE_LENGTH * total / length)
    return centres


def _homes(codes: np.ndarray, rows: np.ndarray, centres: np.ndarray, workers: int) -> np.ndarray:
    """Return ``[len(rows)] int32``: the most similar centre of each row's code."""
    home = partial(_home, codes, np.ascontiguousarray(centres.T))
    parts = (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))
    return np.concatenate([np.empty(0, np.int32), *in_threads(home, parts, workers)])


def _home(codes: np.ndarray, centres: np.ndarray, rows: np.ndarray) -> np.ndarray:
    home: np.ndarray = (codes[rows].astype(np.float32) @ centres).argmax(1).astype(np.int32)
    return home


def _by_cell(home: np.ndarray, ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``ids`` by their cell, and the first place of each cell, and of none."""
    order = np.argsort(home, kind="stable")
    return ids[order], np.searchsorted(home[order], np.arange(count + 1))


def _cut(bounds: np.ndarray, most: int) -> dict[int, int]:
    """Return the first place of each part of at most ``most``, and its cell; none is empty."""
    spans = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return {
        place: cell
        for cell, (start, stop) in enumerate(spans)
        for place in range(start, stop, most)
    }
