"""What unifying found of leakage: twins in other splits, their kinds, and what sources share."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fer_ml.manifests.groups import first_rows, number_hashes
from fer_ml.recipes.profile import Near

#: Kinds of twins beside ``near.KINDS``: of equal pixels, and connected by a chain of other faces
#: alone. And pairs compared at once.
SAME_PIXELS, THROUGH_OTHERS = "identical pixels", "through others"
_PAIRS_AT_ONCE = 1024


def twin_pairs(frame: pl.DataFrame, kept: pl.DataFrame, leaking: pl.DataFrame) -> pl.DataFrame:
    """Return each row with a twin in another split (``row``), and one such twin (``other``).

    These are leaking rows, with a twin in the split of higher precedence, and kept test rows, with
    one outside test. A twin of the same pixels comes first, then the group's first row. ``same``
    says whether the pixels are the same.
    """
    placed = frame.select("row", "sample_id", "group_id", "split")
    test, rest = pl.col("split") == "test", ~pl.col("split").is_in(["test", "unassigned"])
    asked = kept.filter(test & pl.col("twin_in").is_not_null())
    pairs = []
    for rows, others in (
        (asked.with_columns(pl.lit("rest").alias("twin")), placed.filter(rest)),
        (leaking, placed),
    ):
        where = pl.lit("rest") if rows is not leaking else pl.col("split")
        others = others.select(pl.col("row").alias("other"), "sample_id", "group_id", where)
        others = others.rename({others.columns[-1]: "twin"})
        wanted = rows.select("row", "sample_id", "group_id", "twin")
        for key, name in (("sample_id", "same"), ("group_id", "first")):
            least = others.group_by(key, "twin").agg(pl.col("other").min().alias(name))
            wanted = wanted.join(least, on=[key, "twin"], how="left")
        pairs.append(wanted)
    return (
        pl.concat(pairs)
        .select(
            "row",
            pl.coalesce("same", "first").alias("other"),
            pl.col("same").is_not_null().alias("same"),
        )
        .sort("row")
    )


def twin_kinds(
    pairs: pl.DataFrame, thumbs: Callable[[np.ndarray], np.ndarray], near: Near
) -> pl.Series:
    """Return the kind of each twin: same pixels, one of ``KINDS``, or near through other faces.

    ``pairs`` as ``twin_pairs`` returns them; ``thumbs(rows)`` are ``[n, 576] uint8``.
    """
    # Imported where it is needed: SciPy takes a third of a second.
    from fer_ml.manifests.near import kinds

    names = np.full(len(pairs), SAME_PIXELS, object)
    others = np.flatnonzero(~pairs["same"].to_numpy())
    row, other = (pairs[name].to_numpy() for name in ("row", "other"))
    for start in range(0, len(others), _PAIRS_AT_ONCE):
        some = others[start : start + _PAIRS_AT_ONCE]
        batch_kinds = kinds(thumbs(other[some]), thumbs(row[some]), near)
        names[some] = np.where(batch_kinds == "", THROUGH_OTHERS, batch_kinds)
    return pl.Series(names.tolist(), dtype=pl.String)


class Leakage:
    """Counts for ``leakage.json``, from all rows of some groups at a time.

    ``sources`` are the names behind their numbers.
    """

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources
        self._kept, self._test, self._twins = (np.zeros(len(sources), np.int64) for _ in range(3))
        self._kinds = Counter[tuple[int, str]]()
        self._samples = np.zeros(len(sources), np.int64)
        self._shared, self._same = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.groups = {
            "photos": 0,
            "groups": 0,
            "joined_by_nearness": 0,
            "largest_group_rows": 0,
            "largest_group_photos": 0,
        }

    def count_groups(self, group: np.ndarray, photo: np.ndarray) -> None:
        """Count the groups, those that join several photos, and the size of the largest.

        ``group`` ``[n]`` are the numbers of the rows' groups, ``photo`` ``[n] S16`` their photos.
        """
        rows = np.bincount(group)
        # A photo lies in one group.
        photos = np.bincount(group[first_rows(number_hashes(photo))], minlength=len(rows))
        found = self.groups
        found["photos"] += int(photos.sum())
        found["groups"] += len(photos)
        found["joined_by_nearness"] += int((photos > 1).sum())
        for name, sizes in (("largest_group_rows", rows), ("largest_group_photos", photos)):
            found[name] = max(found[name], int(sizes.max(initial=0)))

    def count_twins(self, source: np.ndarray, test: np.ndarray, twin: np.ndarray) -> None:
        """Count kept rows: ``source`` ``[n]`` numbers, ``test`` and ``twin`` ``[n] bool``."""
        size = len(self._sources)
        self._kept += np.bincount(source, minlength=size)
        self._test += np.bincount(source[test], minlength=size)
        self._twins += np.bincount(source[test & twin], minlength=size)

    def count_kinds(self, source: np.ndarray, kind: pl.Series) -> None:
        """Count test rows with a twin outside test: ``source`` ``[n]``, ``kind`` ``[n]``."""
        self._kinds.update(zip(source.tolist(), kind, strict=True))

    def count_overlaps(self, sample: np.ndarray, source: np.ndarray, label: np.ndarray) -> None:
        """Count the samples that two sources share: ``[n] S16``, ``[n]``, ``[n]`` of kept rows.

        The first row of a sample in a source counts.
        """
        number = number_hashes(sample)
        _, rows = np.unique(number * len(self._sources) + source, return_index=True)
        self._samples += np.bincount(source[rows], minlength=len(self._sources))
        often = rows[np.bincount(number[rows])[number[rows]] > 1]
        shared = pl.DataFrame(
            {"sample": number[often], "source": source[often], "label": label[often]}
        )
        pairs = shared.join(shared, on="sample", suffix="_b").filter(
            pl.col("source") < pl.col("source_b")
        )
        same = (pl.col("label") == pl.col("label_b")).sum().alias("same")
        counted = pairs.group_by("source", "source_b").agg(pl.len(), same)
        for a, b, samples, agreeing in counted.iter_rows():
            self._shared[a, b] += samples
            self._same[a, b] += agreeing

    def document(self) -> dict[str, Any]:
        """Return ``leakage.json``.

        ``test_twins`` are test rows that have a twin outside test, by the publishers' splits; the
        twins themselves were taken out of the other splits. ``overlaps`` has an entry for each pair
        of sources with at least one common ``sample_id``, and how often their labels agree.
        """
        by_source = zip(self._sources, self._test.tolist(), self._twins.tolist(), strict=True)
        by_kind: dict[str, dict[str, int]] = {
            name: {} for name, kept in zip(self._sources, self._kept, strict=True) if kept
        }
        for (source, kind), rows in sorted(self._kinds.items()):
            by_kind[self._sources[source]][kind] = rows
        return {
            "schema_version": 3,
            "test_twins": {
                name: {"test_rows": rows, "with_twin": twins, "share": round(twins / rows, 6)}
                for name, rows, twins in by_source
                if rows
            },
            "test_twins_by_kind": by_kind,
            "groups": self.groups,
            "overlaps": [self._overlap(a, b) for a, b in sorted(self._shared)],
        }

    def _overlap(self, a: int, b: int) -> dict[str, Any]:
        samples = self._shared[a, b]
        return {
            "a": self._sources[a],
            "b": self._sources[b],
            "samples": samples,
            "same_label": self._same[a, b],
            "share_of_smaller": round(samples / int(min(self._samples[a], self._samples[b])), 6),
        }
