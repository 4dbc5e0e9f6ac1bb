"""The faces whose codes are most similar to a face's, among any number of faces.

Each face lies in the cell whose centre is most similar to it, and is compared with the faces of
the ``_PROBED`` cells whose centres are (an inverted file, as in Jegou et al. 2011). So the work of
a face hardly grows with the number of faces. Up to ``_CELL * _PROBED`` faces are all compared.

Codes, centres and all sums are whole numbers that their type holds exactly, and a face's content
decides between equals. So the neighbours are the same on each processor, with any number of threads
and in any order of the faces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from fer_ml.base.shards import in_threads
from fer_ml.manifests.likeness import CODE_LENGTH, CODE_SIZE, mirror_signs

#: The most neighbours of a face, and of its mirrored face. Among half a million faces, of 99.6% of
#: the altered copies either is one of the six nearest of the original, or the original one of its.
NEAREST = 6
#: Faces of a cell: at least, and by the root of their number when there are millions.
_CELL, _ROOT = 512, 4
#: Cells in which a face's neighbours are looked for, and those near its own from which they are
#: chosen.
_PROBED, _NEAR = 32, 512
#: Faces by which each centre is placed, and how often.
_SAMPLE, _ROUNDS = 50, 4
#: Faces whose cell is found at once, and neighbours that wait to be sorted.
_ROWS, _WAITING = 1024, 1 << 17
#: Parts of 1 by which a face's content decides between equally similar ones. A similarity has 15
#: bits before the point, and single precision holds 24.
_TIES = 512


class Neighbours:
    """Cells of the faces that may be neighbours.

    ``codes [N, 64] int8``; ``rows``: those to find; ``content [N] uint64``: a hash of each face.
    """

    def __init__(
        self, codes: np.ndarray, rows: np.ndarray, content: np.ndarray, *, workers: int
    ) -> None:
        self._codes = codes
        self._content = content
        rows = rows[np.argsort(content[rows], kind="stable")]
        count = max(1, int(min(len(rows) / _CELL, _ROOT * len(rows) ** 0.5)))
        centres = _centres(codes, rows, count, workers)
        self._centres = centres
        #: By cell: the cells whose centres are nearest to its own.
        self._near = [np.argsort(-(centres @ each), kind="stable")[:_NEAR] for each in centres]
        #: Rows, and rows and mirrored rows (behind the rows), by their cell.
        homes = [
            _homes(codes, rows, signs, centres, workers)
            for signs in (np.ones(CODE_SIZE, np.int8), mirror_signs())
        ]
        self._rows, self._bounds = _by_cell(homes[0], rows, count)
        every = np.concatenate((rows, len(codes) + rows))
        self._asking, self._asked = _by_cell(np.concatenate(homes), every, count)

    @property
    def cells(self) -> range:
        """The numbers of the cells."""
        return range(len(self._centres))

    def of_cell(self, cell: int, search: "Search") -> np.ndarray:
        """Return pairs ``[M, 2] int64``: rows, and their neighbours among the faces of a cell.

        The second one is counted on from the number of faces when it is the mirrored face that has
        the first one as its neighbour.
        """
        ids = self._asking[self._asked[cell] : self._asked[cell + 1]]
        rows = ids % len(self._codes)
        asked = search.asked[rows]
        ids, rows = ids[asked], rows[asked]
        if not len(ids):
            return np.empty((0, 2), np.int64)
        signs = np.where((ids >= len(self._codes))[:, None], mirror_signs(), 1)
        asking = np.ones((len(ids), CODE_SIZE + 1), np.float32)
        asking[:, :-1] = self._codes[rows] * signs
        best = _Best(len(ids), search.least)
        groups = search.group[rows]
        for other, places in self._meetings(cell, asking[:, :-1]):
            others = self._rows[self._bounds[other] : self._bounds[other + 1]]
            points = np.empty((len(others), CODE_SIZE + 1), np.float32)
            points[:, :-1] = self._codes[others]
            points[:, -1] = self._content[others] % _TIES / _TIES
            best.add(asking[places] @ points.T, places, others, groups, search.group)
        place, neighbour = best.result(self._content)
        return np.stack((neighbour, ids[place]), 1)

    def _meetings(self, cell: int, asking: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield cells, and the places of the faces of a cell that are compared with theirs."""
        near = self._near[cell]
        similar = asking @ self._centres[near].T
        probed = min(_PROBED, len(near))
        column = np.argpartition(-similar, probed - 1, axis=1)[:, :probed].ravel()
        order = np.argsort(column, kind="stable")
        bounds = np.searchsorted(column[order], np.arange(len(near) + 1))
        for index, other in enumerate(near.tolist()):
            places = order[bounds[index] : bounds[index + 1]] // probed
            if len(places):
                yield other, places


@dataclass(frozen=True)
class Search:
    """What is asked: the neighbours of some rows in other groups, from a least similarity on.

    ``asked [N] bool``, ``group [N]``, ``least``: a product of two codes.
    """

    asked: np.ndarray
    group: np.ndarray
    least: float


class _Best:
    """The best ones so far of each face of a cell."""

    def __init__(self, count: int, least: float) -> None:
        #: What a similarity must have to be among a face's best.
        self._floor = np.full(count, least, np.float32)
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(
        self,
        similar: np.ndarray,
        places: np.ndarray,
        others: np.ndarray,
        groups: np.ndarray,
        group: np.ndarray,
    ) -> None:
        """Add similarities ``[places, others]``; those of one group do not count."""
        row, column = np.divmod(np.flatnonzero(similar >= self._floor[places, None]), len(others))
        place, other = places[row], others[column]
        apart = groups[place] != group[other]
        self._found.append((place[apart], other[apart], similar[row, column][apart]))
        self._count += len(self._found[-1][0])
        if self._count > _WAITING:
            self._settle()

    def result(self, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return places and rows of at most ``NEAREST`` for each place."""
        place, other, similar = self._settle()
        order = np.lexsort((content[other], -similar, place))
        place = place[order]
        order = order[np.arange(len(order)) - np.searchsorted(place, place) < NEAREST]
        return self._found[0][0][order], other[order]

    def _settle(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, other, similar = (np.concatenate(each) for each in zip(*self._found, strict=True))
        order = np.lexsort((-similar, place))
        kth = order[NEAREST - 1 :]
        # The one before it by NEAREST - 1 is of the same face: the face has so many.
        kth = kth[place[order[: len(kth)]] == place[kth]]
        np.maximum.at(self._floor, place[kth], similar[kth])
        stays = similar >= self._floor[place]
        self._found = [(place[stays], other[stays], similar[stays])]
        self._count = len(self._found[0][0])
        return self._found[0]


def _centres(codes: np.ndarray, rows: np.ndarray, count: int, workers: int) -> np.ndarray:
    """Return ``[count, 64] float32``, whole: spherical k-means on some of the rows."""
    centres: np.ndarray = codes[rows[:count]].astype(np.float32)
    some = rows[: count * _SAMPLE]
    for _ in range(_ROUNDS if count > 1 else 0):
        home = _homes(codes, some, np.ones(CODE_SIZE, np.int8), centres, workers)
        placed, bounds = _by_cell(home, some, count)
        for cell in np.flatnonzero(np.diff(bounds)):
            total = codes[placed[bounds[cell] : bounds[cell + 1]]].sum(0, dtype=np.int64)
            length = np.sqrt(float((total * total).sum()))
            if length:
                centres[cell] = np.rint(CODE_LENGTH * total / length)
    return centres


def _homes(
    codes: np.ndarray, rows: np.ndarray, signs: np.ndarray, centres: np.ndarray, workers: int
) -> np.ndarray:
    """Return ``[len(rows)] int32``: the nearest centre of each row's code times ``signs``."""
    nearest = partial(_nearest, codes, signs, np.ascontiguousarray(centres.T))
    parts = (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))
    return np.concatenate([np.empty(0, np.int32), *in_threads(nearest, parts, workers)])


def _nearest(
    codes: np.ndarray, signs: np.ndarray, centres: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    similar = (codes[rows] * signs).astype(np.float32) @ centres
    home: np.ndarray = similar.argmax(1).astype(np.int32)
    return home


def _by_cell(home: np.ndarray, ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``ids`` by their cell, and the first place of each cell, and of none."""
    order = np.argsort(home, kind="stable")
    return ids[order], np.searchsorted(home[order], np.arange(count + 1))
