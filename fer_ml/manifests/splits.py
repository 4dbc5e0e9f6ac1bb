"""Assign splits to groups, of which a few at a time are in memory.

What decides is small: how many rows each source has of each label, and for each draw the rank up to
which the groups of a stratum are taken. So the groups are read several times, in any order.

1. A group that a publisher placed in several splits stays in the first of ``PRECEDENCE``; its rows
   elsewhere leak; unassigned rows of a placed group join it.
2. Unassigned groups are drawn into train and test, by source and class.
3. Sources without a val part give some train groups to val.
4. A part of all val groups becomes calib.

A group that spans sources or classes is drawn with the rarest of them, so that each split has its
share of a class that is rare under one publisher's labels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from fer_ml.manifests.groups import first_rows, halves_of, number_hashes
from fer_ml.recipes.profile import Draw

#: When a group is in several splits, it stays in the first of these and leaves the others.
PRECEDENCE = ("test", "calib", "val", "train")
#: The splits of ``PRECEDENCE`` by number, and 'unassigned'.
PLACES = {split: place for place, split in enumerate((*PRECEDENCE, "unassigned"))}
UNASSIGNED, TRAIN, VAL = PLACES["unassigned"], PLACES["train"], PLACES["val"]

#: What decides the place of a row: hashes as bytes, source and label as numbers in their order.
ROW = np.dtype(
    [
        *(("row", "i8"), ("sample", "S16"), ("group", "S16"), ("photo", "S16")),
        *(("source", "u2"), ("label", "u2"), ("place", "u1")),
    ]
)
#: A group: its hash in two halves, the kind with which it is drawn, the first of its places in
#: order of precedence, and a bit for each of them.
GROUP = np.dtype(
    [("first", "u8"), ("second", "u8"), ("kind", "i8"), ("home", "i8"), ("places", "i8")]
)
#: Each draw fills this place.
_DRAWN = (PLACES["test"], VAL, PLACES["calib"])
#: A rank's first bits, by which the groups of a stratum are counted.
_BITS = 12


@dataclass(frozen=True)
class Kinds:
    """Of a kind are the rows of one source and label: number ``source * labels + label``.

    ``rows`` ``[sources, labels]`` counts them; ``has_val`` ``[sources]`` says whose publisher gives
    a val or calib part.
    """

    rows: np.ndarray
    has_val: np.ndarray

    def rarest_first(self) -> np.ndarray:
        """Return the kinds, those of the fewest rows first."""
        return np.argsort(self.rows.ravel(), kind="stable")


def groups_of(rows: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each row's group ``[n]``, and the groups (``GROUP``) in hash order.

    ``rows`` (``ROW``) are all rows of these groups.
    """
    number = number_hashes(rows["group"])
    groups = np.empty(int(number.max(initial=-1)) + 1, GROUP)
    rarest_first = kinds.rarest_first()
    kind = rows["source"].astype(np.int64) * kinds.rows.shape[1] + rows["label"]
    place = rows["place"].astype(np.int64)
    # One whole number a row, so that the least one of a group says all of its home at once.
    least, groups["places"] = _by_group(
        number, place * kinds.rows.size + np.argsort(rarest_first)[kind], 1 << place
    )
    groups["home"] = least // kinds.rows.size
    groups["kind"] = rarest_first[least % kinds.rows.size]
    halves = halves_of(rows["group"][first_rows(number)])
    groups["first"], groups["second"] = halves[:, 0], halves[:, 1]
    return number, groups


def _by_group(
    number: np.ndarray, least: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return by group the minimum of ``least``, and the union of ``bits``."""
    order = np.argsort(number)
    ordered = number[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    return (
        np.minimum.reduceat(least[order], starts),
        np.bitwise_or.reduceat(bits[order], starts),
    )


@dataclass(frozen=True)
class _Cut:
    """By stratum the last group that is drawn: its rank and second half; and whether any is."""

    rank: np.ndarray
    second: np.ndarray
    any: np.ndarray

    def takes(self, strata: np.ndarray, rank: np.ndarray, second: np.ndarray) -> np.ndarray:
        last = self.rank[strata]
        tie = (rank == last) & (second <= self.second[strata])
        takes: np.ndarray = self.any[strata] & ((rank < last) | tie)
        return takes


class Draws:
    """Groups are drawn into test, then into val, then into calib.

    A stratum gives the groups of least rank: one source and label, for val also either placed by a
    publisher or not, for calib the label alone. A rank is the group's own hash, mixed with the seed
    and the purpose by SplitMix64 (Steele et al. 2014). So it does not depend on the order of rows,
    nor on the other groups.
    """

    def __init__(
        self, groups: Callable[[], Iterable[np.ndarray]], kinds: Kinds, draw: Draw, seed: int
    ) -> None:
        """Find where each draw ends; ``groups()`` yields all groups (``GROUP``), each time anew."""
        self._kinds = kinds
        self._purposes = _mix(np.arange(3, dtype=np.uint64) + np.uint64(3 * seed))
        self._cuts: list[_Cut] = []
        for fraction in (draw.test, draw.val, draw.calib):
            self._cuts.append(self._cut(groups, fraction))

    def final(self, groups: np.ndarray) -> np.ndarray:
        """Return the place of each group ``[n] int64``, after all draws that are made so far."""
        final = np.where(groups["home"] == UNASSIGNED, TRAIN, groups["home"])
        for step, cut in enumerate(self._cuts):
            among, strata, rank = self._candidates(step, groups, final)
            final[among & cut.takes(strata, rank, groups["second"])] = _DRAWN[step]
        return final

    def _candidates(
        self, step: int, groups: np.ndarray, final: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which groups a draw is from, their strata and ranks."""
        home, strata, labels = groups["home"], groups["kind"], self._kinds.rows.shape[1]
        if step == 0:
            among = home == UNASSIGNED
        elif step == 1:
            among = (home >= TRAIN) & (final == TRAIN) & ~self._kinds.has_val[strata // labels]
            strata = strata + self._kinds.rows.size * (home == UNASSIGNED)
        else:
            among, strata = final == VAL, strata % labels
        return among, strata, _mix(groups["first"] ^ self._purposes[step])

    def _cut(self, groups: Callable[[], Iterable[np.ndarray]], fraction: float) -> _Cut:
        step, size = len(self._cuts), 2 * self._kinds.rows.size
        counts = np.zeros((size, 1 << _BITS), np.int64)
        for part in groups():
            among, strata, rank = self._candidates(step, part, self.final(part))
            bin_of = (strata << _BITS) + (rank >> np.uint64(64 - _BITS)).astype(np.int64)
            counts += np.bincount(bin_of[among], minlength=counts.size).reshape(counts.shape)
        of_stratum = counts.sum(axis=1)
        wanted = np.rint(fraction * of_stratum).astype(np.int64)
        wanted[(wanted == 0) & (of_stratum >= 5)] = 1  # Five or more are never left out of a split.
        below = counts.cumsum(axis=1)
        last = (below < wanted[:, None]).sum(axis=1)  # The bin in which a draw ends.
        strata_ = np.arange(size)
        left = wanted - below[strata_, last] + counts[strata_, last]
        found: list[np.ndarray] = []
        for part in groups():
            among, strata, rank = self._candidates(step, part, self.final(part))
            ends = among & ((rank >> np.uint64(64 - _BITS)).astype(np.int64) == last[strata])
            found.append(np.stack([strata.astype(np.uint64), rank, part["second"]])[:, ends])
        stratum, rank, second = np.concatenate([np.empty((3, 0), np.uint64), *found], axis=1)
        order = np.lexsort((second, rank, stratum))
        start = np.searchsorted(stratum[order], strata_.astype(np.uint64))
        cut = _Cut(np.zeros(size, np.uint64), np.zeros(size, np.uint64), wanted > 0)
        ends_at = order[(start + left - 1)[cut.any]]
        cut.rank[cut.any], cut.second[cut.any] = rank[ends_at], second[ends_at]
        return cut


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def other_places(groups: np.ndarray) -> np.ndarray:
    """Return bits of each group's places but its home and 'unassigned': ``[n] int64``."""
    others: np.ndarray = groups["places"] & ~(1 << groups["home"]) & ~(1 << UNASSIGNED)
    return others


def split_names(places: np.ndarray) -> pl.Series:
    """Return the names of places."""
    return pl.Series([*PRECEDENCE, "unassigned"]).gather(places)


def joined_names(bits: np.ndarray) -> pl.Series:
    """Return the names of the set bits, joined by '+', or null."""
    known = [
        "+".join(split for split in PRECEDENCE if value >> PLACES[split] & 1) or None
        for value in range(1 << len(PRECEDENCE))
    ]
    return pl.Series(known, dtype=pl.String).gather(bits)
