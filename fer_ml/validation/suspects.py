"""Find, part by part, the few rows of a manifest that the rules on shared values must see together.

A rule on leakage, say, compares all rows of a group. In most manifests no group breaks it. So each
value is reduced to a hash with the splits, sources, labels or paths that it occurs with, and only
the rows of values that may break a rule are put together; the rules then judge these rows alone.
Two values of one hash are taken for one, which gives more rows to judge, and no other finding.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.buckets import Buckets, bucket_of
from fer_ml.base.frames import apart
from fer_ml.manifests.schema import BOX
from fer_ml.recipes.profile import SPLITS
from fer_ml.validation.rules import folded

#: A hash of the value, what it occurs with, and in how many rows.
_RECORD = np.dtype([("key", "u8"), ("what", "u8"), ("rows", "u8")])
#: What the rules on shared values read of a row: a manifest of copies is all suspects.
COMPARED = (
    *("line", "image_path", "source", "label", "split", "twin_in", "sample_id", "group_id"),
    *("face", "photo", "near", *BOX),
)
#: How an image was looked at, in the two lowest bits of a path's hash.
_REFUSED, _FAILED, _DECODED = 0, 1, 2
_STATE_BITS = 2
_LABEL_BITS = 32


class Suspects:
    """Collects what values occur with (``add``), then tells the rows that may break a rule."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self._buckets = {
            name: Buckets(folder, name, _RECORD, buckets)
            for name in ("path", "face", "group_id", "photo", "near")
        }
        self._codes: tuple[dict[str | None, int], dict[str | None, int]] = ({None: 0}, {None: 0})
        self._found: dict[str, np.ndarray] = {}
        #: Distinct images that were opened, and those of them that decoded.
        self.attempted = self.decoded = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows of ``Evidence``; each call deduplicates, so a value of all rows costs little."""
        for name, buckets in self._buckets.items():
            seen = rows.select(
                _key(rows, name).alias("key"), self._what(rows, name).alias("what")
            ).drop_nulls()
            # Mostly each value has one row, and nothing is to be counted.
            several = seen["key"].is_duplicated()
            counted = seen.filter(several).group_by("key", "what").agg(pl.len().alias("rows"))
            once = seen.filter(~several)
            records = np.empty(once.height + counted.height, _RECORD)
            records["rows"][: once.height] = 1
            records["rows"][once.height :] = counted["rows"]
            for field in ("key", "what"):
                records[field] = pl.concat([once[field], counted[field]])
            buckets.add(records, bucket_of(records["key"], buckets.count))

    def _what(self, rows: pl.DataFrame, name: str) -> pl.Expr:
        if name == "path":
            state = pl.col("state").cast(pl.String)
            look = (
                pl.when(state.is_in(["missing", "escapes"]))
                .then(_REFUSED)
                .otherwise(pl.when(state == "ok").then(_DECODED).otherwise(_FAILED))
            )
            path = pl.col("image_path").hash() // (1 << _STATE_BITS) * (1 << _STATE_BITS)
            return (path + look.cast(pl.UInt64)).cast(pl.UInt64)
        if name == "face":
            source, label = (
                _coded(rows[column], codes)
                for column, codes in zip(("source", "label"), self._codes, strict=True)
            )
            return pl.lit(source * (1 << _LABEL_BITS) + label)
        # Another word than a split's counts as a place for twins.
        place = pl.col("split").replace_strict(_PLACES, default=len(SPLITS))
        return pl.when(pl.col("split").is_not_null()).then(place.cast(pl.UInt64))

    def search(self) -> bool:
        """Find the values that may break a rule; return whether there are any."""
        for name, buckets in self._buckets.items():
            keys = [self._judge(name, bucket) for bucket in buckets]
            self._found[name] = np.sort(np.concatenate(keys))
        return any(map(len, self._found.values()))

    def _judge(self, name: str, records: np.ndarray) -> np.ndarray:
        """Return the keys of a bucket that may break a rule; of paths, also count the images."""
        seen, once = _apart(records)
        by_key, what = seen.group_by("key"), pl.col("what")
        if name == "path":
            path = what // (1 << _STATE_BITS)
            images = seen.group_by("key", path.alias("path")).agg((what % 4).max().alias("look"))
            look = np.concatenate([images["look"].to_numpy(), once["what"] % 4])
            self.attempted += int((look != _REFUSED).sum())
            self.decoded += int((look == _DECODED).sum())
            found = images.group_by("key").len().filter(pl.col("len") > 1)["key"]
        elif name == "face":
            label = what % (1 << _LABEL_BITS)
            source = (what // (1 << _LABEL_BITS)).alias("source")
            labels = by_key.agg(label.filter(label != 0).n_unique().alias("n"))
            again = seen.group_by("key", source).agg(pl.col("rows").sum().alias("n"))
            found = pl.concat(
                [part.filter(pl.col("n") > 1)["key"] for part in (labels, again)]
            ).unique()
        else:
            found = by_key.agg(what.n_unique().alias("n")).filter(pl.col("n") > 1)["key"]
        return found.to_numpy()

    def among(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ``COMPARED`` of those of ``rows`` that have a value which ``search`` found."""
        suspect = np.zeros(rows.height, bool)
        for name, found in self._found.items():
            if len(found):
                key = rows.select(_key(rows, name).alias("key"))["key"]
                # By sorting: the other way of numpy 2.0 overflows on hashes of 64 bits.
                suspect |= key.is_not_null().to_numpy() & np.isin(
                    key.fill_null(0).to_numpy(), found, kind="sort"
                )
        return rows.select(COMPARED).filter(pl.Series(suspect))


def _apart(records: np.ndarray) -> tuple[pl.DataFrame, np.ndarray]:
    """Return the records of values that occur more than once, and the other ones."""
    key, several = records["key"], records["rows"] > 1
    ordered = np.sort(key)
    if len(again := np.unique(ordered[1:][ordered[1:] == ordered[:-1]])):
        several |= again[np.minimum(np.searchsorted(again, key), len(again) - 1)] == key
    seen = records[several]
    return pl.DataFrame({field: seen[field] for field in _RECORD.names or ()}), records[~several]


_PLACES = {split: number for number, split in enumerate(SPLITS)}


def _key(rows: pl.DataFrame, name: str) -> pl.Expr:
    # A face is known by its pixels where they were read, else by the manifest.
    face = pl.coalesce("face", "sample_id")
    value = {"path": folded(rows), "face": face}.get(name, pl.col(name))
    return pl.when(value.is_not_null()).then(value.hash())


def _coded(values: pl.Series, codes: dict[str | None, int]) -> pl.Series:
    """Return numbers of texts, of which there are few; new ones are added to ``codes``."""
    for value in values.unique():
        codes.setdefault(value, len(codes))
    return values.replace_strict(codes, return_dtype=pl.UInt64)


def put_together(suspects: Suspects, parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the suspect rows of all ``parts``."""
    return pl.concat(apart(suspects.among(part)) for part in parts)
