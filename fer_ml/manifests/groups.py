"""Groups: faces that a split must not separate.

All faces of one photo, pixel-identical photos, and near-identical faces of any source form one
group. Near-identity is found from the faces' grey thumbs by ``near``. A ``sample_id`` decides its
thumb, so the result for a set of samples is cached and reused for its subsets.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.buckets import ROWS_A_BUCKET, Buckets, bucket_of, buckets_for, scratch
from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, temporary
from fer_ml.base.kept import is_kept, keep
from fer_ml.base.reading import Refused, regular
from fer_ml.images.inspection import THUMB_SIZE
from fer_ml.recipes.profile import Near

#: Raised when the search would find other groups in the same thumbs.
NEAR_VERSION = 4
#: Remembered sets: the unified manifest, which covers the curated ones, and a few foreign ones.
MAX_REMEMBERED = 6
_ROWS_AT_ONCE = 20_000

Thumbs = Callable[[np.ndarray], np.ndarray]


def near_of(sample_ids: pl.Series, thumbs: Thumbs, cache: Path, rule: Near) -> pl.Series:
    """Return for each sample the least ``sample_id`` of its near-identical faces by ``rule``.

    ``thumbs(rows) -> [len(rows), 576] uint8`` returns the thumbs of those rows of ``sample_ids``.
    Nearness is transitive here: a near b and b near c makes one group of all three. Null stays
    null.
    """
    rows = pl.DataFrame({"sample_id": sample_ids}).with_row_index("row")
    known = _remembered(rows, cache, rule)
    if known is None:
        distinct = rows.drop_nulls("sample_id").unique("sample_id").sort("sample_id")
        groups = _search(distinct, thumbs, cache, rule)
        _remember(groups, cache, rule)
        known = rows.join(groups, on="sample_id", how="left", maintain_order="left")
    return known["near"]


def near_by_part(
    parts: Callable[[], Iterable[pl.Series]], thumbs: Thumbs, cache: Path, rule: Near
) -> "Others":
    """Return what gives for any of the ``sample_ids`` in ``parts`` what ``near_of`` gives for all.

    ``parts()`` yields them part by part, in the order of ``thumbs``. Where all are remembered,
    memory grows only with the faces that have a near-identical one; a search needs all of them.
    """
    for file in _files(cache, rule):
        try:
            if is_kept(file) and _covers(file, parts(), cache):
                groups = pl.scan_parquet(regular(file), glob=False)
                return _near_others(groups)
        except (OSError, Refused, pl.exceptions.PolarsError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise  # The scratch files' disk; all at once would need more.
            continue  # Deleted: a cache may be.
    ids = pl.concat([pl.Series("sample_id", [], pl.String), *parts()])
    found = pl.LazyFrame({"sample_id": ids, "near": near_of(ids, thumbs, cache, rule)})
    return _near_others(found.unique("sample_id"))


def _near_others(groups: pl.LazyFrame) -> "Others":
    others = groups.filter(pl.col("near") != pl.col("sample_id")).collect(engine="streaming")
    return Others(bytes_of(others["sample_id"]), bytes_of(others["near"]))


class Others:
    """Gives another hash for some hashes (``old``, ``new``), and for the rest the same."""

    def __init__(self, old: np.ndarray, new: np.ndarray) -> None:
        order = np.argsort(old)
        self._old, self._new = old[order], new[order]

    def of_bytes(self, hashes: np.ndarray) -> np.ndarray:
        """Return ``[n] S16`` for ``hashes`` ``[n] S16``."""
        given = hashes.copy()
        if len(self._old):
            place = np.minimum(np.searchsorted(self._old, hashes), len(self._old) - 1)
            found = self._old[place] == hashes
            given[found] = self._new[place[found]]
        return given

    def __call__(self, hashes: pl.Series) -> pl.Series:
        """Return it for hashes of 32 hexadecimal digits, of which null stays null."""
        rows = hashes.drop_nulls()
        if len(self._old) and len(rows):
            given = texts_of(self.of_bytes(bytes_of(rows)))
            where = pl.arg_where(hashes.is_not_null(), eager=True)
            return hashes.clone().scatter(where, given)
        return hashes


def bytes_of(hashes: pl.Series) -> np.ndarray:
    """Return ``[n] S16``, which sorts like the hashes of 32 hexadecimal digits; none is null."""
    if hashes.null_count():
        raise FerError(
            f"{hashes.null_count():,} of {len(hashes):,} rows have no {hashes.name}",
            code="missing-hash",
            fix="make the manifest again",
        )
    return np.frombuffer(bytes.fromhex(hashes.str.join("").item() or ""), "S16")


def texts_of(hashes: np.ndarray) -> pl.Series:
    """Return ``[n] S16`` as 32 hexadecimal digits each."""
    digits = pl.Series([hashes.tobytes().hex()]).str.extract_all("[0-9a-f]{32}")
    return digits.explode(empty_as_null=False)


def halves_of(hashes: np.ndarray) -> np.ndarray:
    """Return ``[n] S16`` as ``[n, 2] uint64``, which sort alike."""
    return np.frombuffer(hashes.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2)


def _covers(file: Path, parts: Iterable[pl.Series], cache: Path) -> bool:
    """Whether a remembered set has all of these samples."""
    groups = pl.scan_parquet(regular(file), glob=False).select("sample_id")
    rows = groups.select(pl.len()).collect().item()
    count = buckets_for(rows)
    with scratch(cache / "scratch") as folder:
        asked, known = (
            Buckets(folder, name, np.dtype("S16"), count) for name in ("asked", "known")
        )
        starts = range(0, rows, ROWS_A_BUCKET)
        held = (groups.slice(start, ROWS_A_BUCKET).collect()["sample_id"] for start in starts)
        for buckets, samples in ((asked, parts), (known, held)):
            for part in samples:
                ids = bytes_of(part.drop_nulls())
                buckets.add(ids, bucket_of(halves_of(ids)[:, 0], count))
        return all(_has_all(b, a) for a, b in zip(asked, known, strict=True))


def _has_all(known: np.ndarray, asked: np.ndarray) -> bool:
    """Whether each of ``asked`` ``[n] S16`` is among ``known``."""
    number = number_hashes(np.concatenate([known, asked]))
    has = np.zeros(int(number.max(initial=-1)) + 1, bool)
    has[number[: len(known)]] = True
    return bool(has[number[len(known) :]].all())


def _search(distinct: pl.DataFrame, thumbs: Thumbs, cache: Path, rule: Near) -> pl.DataFrame:
    """Return ``sample_id`` and ``near`` of distinct, sorted samples, of which it has the ``row``.

    A set that grew is searched anew: a new face can take the place of a neighbour.
    """
    rows = distinct["row"].to_numpy()
    # Imported where it is needed: mostly all is known, and SciPy takes a third of a second.
    from fer_ml.manifests.near import near_groups

    ids = distinct["sample_id"]
    cache.mkdir(parents=True, exist_ok=True)
    file = temporary(cache / "thumbs")
    mapped_thumbs = None
    try:
        # On disk, because half a million thumbs would fill the memory that the search needs.
        with file.open("wb") as out:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                out.write(thumbs(rows[start : start + _ROWS_AT_ONCE]).tobytes())
        mapped_thumbs = np.memmap(regular(file), np.uint8, "r", shape=(len(rows), THUMB_SIZE))
        first = near_groups(mapped_thumbs, rule=rule).first
    finally:
        mapped_thumbs = None  # What is mapped cannot be deleted everywhere.
        discard(file)
    return pl.DataFrame({"sample_id": ids, "near": ids.gather(first)})


def _remembered(rows: pl.DataFrame, cache: Path, rule: Near) -> pl.DataFrame | None:
    """Return ``rows`` with ``near`` from a cached search that covers all their samples."""
    if rows["sample_id"].null_count() == len(rows):
        return rows.with_columns(near=pl.lit(None, pl.String))
    for file in filter(is_kept, _files(cache, rule)):
        try:
            groups = pl.read_parquet(regular(file), glob=False)
        except (OSError, Refused, pl.exceptions.PolarsError):
            continue  # Deleted: a cache may be.
        known = rows.join(groups, on="sample_id", how="left", maintain_order="left")
        if known["near"].null_count() == rows["sample_id"].null_count():
            return known
    return None


def _remember(groups: pl.DataFrame, cache: Path, rule: Near) -> None:
    digest = hashlib.sha256("\n".join(groups["sample_id"]).encode()).hexdigest()[:16]
    file = cache / f"{_name(rule)}-{digest}.parquet"
    partial = temporary(file)
    groups.write_parquet(partial)
    keep(partial, file)
    for old in _files(cache, rule)[MAX_REMEMBERED:]:
        discard(old)


def _name(rule: Near) -> str:
    """Return the cache name of a rule; results of another rule do not apply."""
    return f"v{NEAR_VERSION}-{hashlib.sha256(rule.model_dump_json().encode()).hexdigest()[:8]}"


def _files(cache: Path, rule: Near) -> list[Path]:
    """Return the cached sets, the latest first."""
    files = cache.glob(f"{_name(rule)}-*.parquet") if cache.is_dir() else ()
    return sorted(files, key=_changed_at, reverse=True)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0  # Another process deleted it.


def numbers_of(hashes: pl.Series) -> np.ndarray:
    """Return ``number_hashes`` for hashes of 32 hexadecimal digits."""
    return number_hashes(bytes_of(hashes))


def number_hashes(hashes: np.ndarray) -> np.ndarray:
    """Return ``[N] int64``: a number for each of ``[N] S16``, from 0 without gaps, in their order.

    They are sorted, because a hash table of millions of them does not fit a processor's cache and
    takes several times longer.
    """
    halves = halves_of(hashes)
    first, second = halves[:, 0].copy(), halves[:, 1]
    order = np.argsort(first)
    same = first[order][1:] == first[order][:-1]
    if (same & (second[order][1:] != second[order][:-1])).any():
        order = np.lexsort((second, first))
        same = (halves[order][1:] == halves[order][:-1]).all(axis=1)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(np.r_[True, ~same][: len(order)]) - 1
    return numbers


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """Return the index of one row for each number ``0..max``."""
    rows = np.empty(int(numbers.max(initial=-1)) + 1, np.int64)
    rows[numbers[::-1]] = np.arange(len(numbers))[::-1]  # Of equal places, the last one stays.
    return rows


def join_groups(photos: pl.Series, near: pl.Series) -> pl.Series:
    """Return the group of each row: the least photo hash that photo or nearness connects to it.

    ``photos`` are hashes of whole photos; ``near`` is the result of ``near_of`` for each row's
    face. Both have 32 hexadecimal digits.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    photo, close = numbers_of(photos), numbers_of(near)
    of_photo, of_close = first_rows(photo), first_rows(close)
    # Each near class hangs on its first row's photo: an edge for each row with another one.
    other = photo[of_close][close]
    apart = np.flatnonzero(photo != other)
    count = len(of_photo)
    edges = coo_array(
        (np.ones(len(apart), np.int8), (photo[apart], other[apart])), shape=(count, count)
    )
    _, component = connected_components(edges, directed=False)
    # Photos are numbered in the order of their hashes: a component's first one is its least.
    least = first_rows(component)[component]
    return photos.gather(of_photo[least][photo]).alias("group_id")


_PAIR = np.dtype([("near", "S16"), ("photo", "S16")])


def join_by_part(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path, buckets: int
) -> Others:
    """Return what gives for a photo the group that ``join_groups`` gives for all rows.

    ``parts`` are photos and near faces ``[n] S16`` of some rows each; ``folder`` is for scratch
    files. In memory are only the photos of which a face is near to a face of another photo.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = Buckets(folder, "near", _PAIR, buckets)
    for photo, near in parts:
        records = np.empty(len(photo), _PAIR)
        records["photo"], records["near"] = photo, near
        pairs.add(records, bucket_of(halves_of(near)[:, 0], buckets))
    edges = [np.empty((2, 0), "S16")]
    for bucket in pairs:
        number = number_hashes(bucket["near"])
        # Each near class hangs on its first row's photo: an edge for each row with another one.
        other = bucket["photo"][first_rows(number)][number]
        apart = bucket["photo"] != other
        edges.append(np.stack([bucket["photo"][apart], other[apart]]))
    ends = np.concatenate(edges, axis=1)
    photos, place = np.unique(ends, return_inverse=True)
    a, b = place.reshape(ends.shape)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(photos), len(photos)))
    _, component = connected_components(graph, directed=False)
    # Photos are sorted: a component's first one is its least.
    least = photos[first_rows(component)[component]]
    changed = least != photos
    return Others(photos[changed], least[changed])
