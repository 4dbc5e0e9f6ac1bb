"""Inspect the image behind every row of a manifest, or reuse the result of an unchanged file.

An inspection is cached (``segments``) by the file's device, inode, size and modification time, so
that a file is not decoded again under another name, in another manifest or on another day. A
manifest is read part by part; of each row only the place of its result stays.
"""

import mmap
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from fer_ml.base.buckets import Buckets, buckets_for, scratch
from fer_ml.base.shards import map_shards
from fer_ml.images.inspection import (
    FORMAT_NAMES,
    NO_KEY,
    STATES,
    Looks,
    Shard,
    file_key,
    look_at,
)
from fer_ml.images.pixels import Box
from fer_ml.manifests.groups import texts_of
from fer_ml.manifests.schema import BOX
from fer_ml.manifests.segments import (
    KEY_COLUMNS,
    KEYED,
    NO_EDGE,
    RECORD,
    Segment,
    SegmentWriter,
    bucket_of_keys,
    forget,
    frame_of,
    latest,
    open_segments,
    place_of,
    records_at,
    segment_of,
    thumbs_at,
)

SHARD_FILES = 1000
#: Fewer files are looked at in this process: starting others takes longer.
PARALLEL_FROM = 3000
_NAMES_AT_ONCE = 1 << 16
_ROWS_AT_ONCE = 1 << 18

Parts = Callable[[], Iterable[pl.DataFrame]]
_STATE = pl.Enum(STATES)
_FORMAT = pl.Enum(FORMAT_NAMES)
#: What is wrong with a path. A row with such a one has the place -1, -2, ... instead of a result's.
_FAULTS = ("no path", "NUL in the path", "absolute path", "'..' in the path")
_NO_PATH, _UNKNOWN = -1, -len(_FAULTS) - 1


@dataclass(frozen=True)
class Probe:
    """The result of inspecting the images of a manifest's rows.

    ``places [rows] int64`` are on disk; what was found is read of the ``segments`` when asked for.
    ``decoded`` are the numbers of those segments that this probe wrote.
    """

    places: np.ndarray
    segments: tuple[Segment, ...]
    decoded: frozenset[int]

    def looks(self, start: int = 0, count: int | None = None) -> pl.DataFrame:
        """Return what was found of ``count`` rows from ``start`` on, by default of all.

        Its columns are ``state`` (of ``STATES``), ``detail`` (why it is not ok), ``format``,
        ``image_width``, ``image_height``, ``photo`` (hash of the whole image), ``face`` (hash of
        image and box: the expected ``sample_id``), ``brightness`` (mean grey of the face, 0 to
        255), and ``checked`` ('decoded' now, or 'unchanged' since an earlier look).
        """
        places = self._places(start, len(self.places) if count is None else count)
        records = records_at(self.segments, places)
        seen = places >= 0
        state = records["state"].copy()
        state[~seen] = np.where(places[~seen] == _NO_PATH, _MISSING, _ESCAPES)
        texts = {name: texts_of(records[name]) for name in ("photo", "face")}
        ok, shown = pl.Series(state == _OK), pl.Series(seen)
        width, height = (pl.Series(records["size"][:, side]) for side in (0, 1))
        unchanged = seen & ~np.isin(segment_of(places), list(self.decoded))
        return pl.select(
            state=pl.Series(state).cat.to(_STATE),
            detail=self._details(places, records),
            format=pl.when(shown).then(pl.Series(records["format"]).cat.to(_FORMAT)),
            image_width=pl.when(width > 0).then(width),
            image_height=pl.when(height > 0).then(height),
            photo=pl.when(ok).then(texts["photo"]),
            face=pl.when(ok).then(texts["face"]),
            brightness=pl.when(shown).then(pl.Series(records["brightness"])),
            checked=pl.when(pl.Series(unchanged))
            .then(pl.lit("unchanged"))
            .otherwise(pl.lit("decoded")),
        )

    def _places(self, start: int, count: int) -> np.ndarray:
        return np.array(self.places[start : start + count])

    def _details(self, places: np.ndarray, records: np.ndarray) -> pl.Series:
        details: list[str | None] = [None] * len(places)
        for row in np.flatnonzero(records["length"]):
            details[row] = self.segments[segment_of(places[row])].reason(records[row])
        for row in np.flatnonzero(places < 0):
            details[row] = _FAULTS[-places[row] - 1]
        return pl.Series(details, dtype=pl.String)

    def faces(self) -> Iterator[pl.Series]:
        """Yield the column ``face`` of ``looks`` for all rows, some at a time."""
        for start in range(0, len(self.places), _ROWS_AT_ONCE):
            places = self._places(start, _ROWS_AT_ONCE)
            records = records_at(self.segments, places)
            ok = pl.Series((places >= 0) & (records["state"] == _OK))
            yield pl.select(face=pl.when(ok).then(texts_of(records["face"])))["face"]

    def thumbs(self, rows: np.ndarray) -> np.ndarray:
        """Return thumbs ``[len(rows), 576] uint8`` of these rows; black where there is no face."""
        return thumbs_at(self.segments, self.places[rows])

    def how(self) -> dict[str, Any]:
        """Return counts of how the rows were checked, for reports and receipts."""
        unchanged, oldest = 0, np.inf
        for start in range(0, len(self.places), _ROWS_AT_ONCE):
            places = self._places(start, _ROWS_AT_ONCE)
            known = places[(places >= 0) & ~np.isin(segment_of(places), list(self.decoded))]
            unchanged += len(known)
            times = records_at(self.segments, known)["decoded_at"]
            oldest = min(oldest, times.min(initial=np.inf))
        return {
            "decoded": len(self.places) - unchanged,
            "unchanged": unchanged,
            "unchanged_since": _date(oldest) if unchanged else None,
        }


_OK, _MISSING, _ESCAPES = (STATES.index(state) for state in ("ok", "missing", "escapes"))


def join_probes(parts: Sequence[Probe], rows: Sequence[np.ndarray]) -> Probe:
    """Join probes of disjoint rows of one manifest; ``rows`` are the row numbers of each part."""
    places = np.empty(sum(map(len, rows)), np.int64)
    segments: list[Segment] = []
    decoded = set[int]()
    for part, part_rows in zip(parts, rows, strict=True):
        theirs = part.places
        places[part_rows] = np.where(theirs < 0, theirs, place_of(len(segments), theirs))
        decoded |= {len(segments) + number for number in part.decoded}
        segments += part.segments
    return Probe(places, tuple(segments), frozenset(decoded))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def how_checked(how: dict[str, Any]) -> str:
    """Return ``Probe.how()`` as a sentence."""
    text = f"{how['decoded']:,} rows read and decoded now"
    if how["unchanged"]:
        text += (
            f", {how['unchanged']:,} unchanged on disk (size, time, inode) "
            f"since a look on {how['unchanged_since']}"
        )
    return text


def path_fault(column: str) -> pl.Expr:
    """Return an expression for why the text of ``column`` is not a path below a folder, or null."""
    path = pl.col(column)
    return (
        pl.when(path.is_null() | (path == ""))
        .then(pl.lit("no path"))
        .when(path.str.contains("\0", literal=True))
        .then(pl.lit("NUL in the path"))
        .when(path.str.contains(r"^[/\\]|^[A-Za-z]:"))
        .then(pl.lit("absolute path"))
        .when(path.str.contains(r"(?:^|[/\\])\.\.(?:[/\\]|$)"))
        .then(pl.lit("'..' in the path"))
    )


def probe(
    parts: Parts, root: Path, cache: Path, *, rows: int, since: float = 0.0, label: str = "decode"
) -> Probe:
    """Inspect the image of every row of a manifest; no row is sampled out.

    ``parts()`` yields the manifest part by part, each time anew: ``image_path`` (below ``root``)
    and the box columns of about ``rows`` rows. ``cache`` holds the segments. Inspections before
    ``since`` (s since 1970) do not count: with the current time every file is decoded again.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with scratch(cache / "scratch") as folder:
        segments = open_segments(cache, folder)
        usable = [segment for segment in segments if segment.written_at >= since]
        buckets = buckets_for(rows + sum(segment.count for segment in usable))
        asked = Buckets(folder, "asked", KEYED, buckets)
        with tempfile.TemporaryFile(dir=cache) as file:
            height = 0
            for part in parts():
                first = _first_places(part["image_path"])
                file.write(first.tobytes())
                if usable:
                    _ask(part, np.flatnonzero(first == _UNKNOWN), height, root, asked)
                height += part.height
            # An empty file cannot be mapped.
            file.write(np.int64(_UNKNOWN).tobytes())
            file.flush()
            places = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)[:height]
        if usable:
            _recognise(places, asked, usable, folder, since)
        if not (places == _UNKNOWN).any():
            return Probe(places, tuple(usable), frozenset())
        new = _decode(parts, places, root, cache, len(usable), label)
        forget([*segments, new], folder)
    return Probe(places, (*usable, new), frozenset([len(usable)]))


def _first_places(names: pl.Series) -> np.ndarray:
    """Return the places of paths that are none, and ``_UNKNOWN`` for all others."""
    faults = pl.DataFrame({"name": names}).select(path_fault("name")).to_series()
    codes = {fault: -1 - index for index, fault in enumerate(_FAULTS)}
    return faults.replace_strict(codes, default=_UNKNOWN, return_dtype=pl.Int64).to_numpy()


def _ask(part: pl.DataFrame, rows: np.ndarray, start: int, root: Path, asked: Buckets) -> None:
    """Add to ``asked`` what the files of ``rows`` of a part, which begins at ``start``, are now."""
    part = part[rows]
    names = part["image_path"]
    distinct = names.unique(maintain_order=True)
    keys = _stat(distinct, root)
    if len(distinct) < len(names):
        number = pl.DataFrame({"name": distinct}).with_row_index("number")
        rows_of = names.to_frame("name").join(number, on="name", how="left", maintain_order="left")
        keys = keys[rows_of["number"].to_numpy()]
    records = np.empty(len(rows), KEYED)
    records["key"][:, : keys.shape[1]], records["key"][:, keys.shape[1] :] = keys, _edges(part)
    records["place"] = rows + start
    records = records[keys[:, 0] != NO_KEY[0]]  # Nobody knows the others, which may be all rows.
    asked.add(records, bucket_of_keys(records["key"], asked.count))


def _edges(faces: pl.DataFrame) -> np.ndarray:
    """Return the boxes of faces ``[n, 4] int64``, with ``NO_EDGE`` where there is none."""
    # A cell may hold any number, and none may pass for an empty one.
    return faces.select(pl.col(BOX).clip(NO_EDGE + 1).fill_null(NO_EDGE)).to_numpy()


def _recognise(
    places: np.ndarray, asked: Buckets, segments: Sequence[Segment], folder: Path, since: float
) -> None:
    """Set the places of rows whose file and box were seen since ``since``."""
    for known, rows in zip(latest(segments, folder, asked.count), asked, strict=True):
        both = frame_of(rows).join(known, on=KEY_COLUMNS, suffix="_known")
        found = both["place_known"].to_numpy()
        recent = records_at(segments, found)["decoded_at"] >= since if since else slice(None)
        places[both["place"].to_numpy()[recent]] = found[recent]


def _decode(
    parts: Parts, places: np.ndarray, root: Path, cache: Path, number: int, label: str
) -> Segment:
    """Inspect the files of the rows without a place now; return them as the segment ``number``."""
    began, unknown = time.time(), int((places == _UNKNOWN).sum())
    waiting: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque()

    def shards() -> Iterator[Shard]:
        start = first = 0
        for part in parts():
            rows = np.flatnonzero(places[start : start + part.height] == _UNKNOWN)
            faces, names, face = _distinct(part.select("image_path", *BOX)[rows])
            edges, order = _edges(faces), np.argsort(face, kind="stable")
            for shard, some in _shards(faces, names, root, writer.thumbs, first):
                low, high = np.searchsorted(face[order], (some.start, some.stop))
                asking = order[low:high]
                waiting.append((start + rows[asking], face[asking] - some.start, edges[some]))
                yield shard
            start, first = start + part.height, first + faces.height

    with SegmentWriter(cache) as writer, tqdm(total=unknown, desc=label, disable=None) as progress:
        workers = 1 if unknown < PARALLEL_FROM else None
        for looks in map_shards(look_at, shards(), workers=workers):
            rows, face, edges = waiting.popleft()
            places[rows] = place_of(number, writer.count + face)
            writer.add(_records(looks, edges, began), _reasons(looks))
            progress.update(len(rows))
        return writer.keep()


def _distinct(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, np.ndarray]:
    """Return the distinct faces (``file`` and box), the files' names, and each row's face.

    They are sorted by name, so that files of one folder are read together.
    """
    files = rows.select(pl.col("image_path").unique().sort()).with_row_index("file")
    rows = rows.join(files, on="image_path", how="left", maintain_order="left")
    key = ["file", *BOX]
    faces = rows.select(key).unique(maintain_order=True).sort("file", maintain_order=True)
    numbered = faces.with_row_index("face")
    face = rows.join(numbered, on=key, how="left", nulls_equal=True, maintain_order="left")["face"]
    return faces, files["image_path"], face.to_numpy().astype(np.int64)


def _stat(names: pl.Series, root: Path) -> np.ndarray:
    """Return the key of each file ``[n, 4] int64``.

    ``NO_KEY`` stands for links and missing files, which need a new look.
    """
    prefix, lstat = f"{os.path.realpath(root)}/", os.lstat
    found = np.empty((len(names), len(NO_KEY)), np.int64)
    # A number of Python's takes five times the memory of one in the array.
    for start in range(0, len(names), _NAMES_AT_ONCE):
        keys: list[int] = []
        add = keys.extend
        for name in names.slice(start, _NAMES_AT_ONCE).to_list():
            path = prefix + name
            try:
                status = lstat(path)
            except (OSError, ValueError):
                add(NO_KEY)
                continue
            add(file_key(status, path) if status.st_mode & 0o170000 == 0o100000 else NO_KEY)
        found[start : start + _NAMES_AT_ONCE] = np.array(keys, np.int64).reshape(-1, len(NO_KEY))
    return found


def _shards(
    faces: pl.DataFrame, names: pl.Series, root: Path, thumbs: Path, before: int
) -> Iterator[tuple[Shard, slice]]:
    """Yield the shards of some files, and which of ``faces`` each has; ``before`` are others'."""
    files = faces["file"].to_numpy()
    starts = np.flatnonzero(np.r_[True, files[1:] != files[:-1]])[: len(files)]
    ends = np.append(starts[1:], len(files))
    has_box = faces.select(pl.any_horizontal(pl.col(BOX).is_not_null())).to_series().to_numpy()
    boxed = (np.add.reduceat(has_box, starts) > 0) | (ends - starts > 1)
    chosen = names.gather(files[starts])
    for first in range(0, len(starts), SHARD_FILES):
        span = slice(first, first + SHARD_FILES)
        boxes = {
            int(index): [_box(edges) for edges in faces[int(a) : int(b)].select(BOX).iter_rows()]
            for index, (a, b) in enumerate(zip(starts[span], ends[span], strict=True))
            if boxed[first + index]
        }
        some = slice(int(starts[first]), int(ends[span][-1]))
        text = chosen.slice(first, SHARD_FILES).to_list()
        yield Shard(str(root), text, boxes, str(thumbs), before + some.start), some


def _box(edges: tuple[int | None, ...]) -> Box | None:
    return None if edges == (None, None, None, None) else edges  # type: ignore[return-value]


def _records(looks: Looks, edges: np.ndarray, began: float) -> np.ndarray:
    """Return the records of a shard's faces, whose boxes have the ``edges`` ``[n, 4]``."""
    file, records = looks.file, np.empty(len(looks.file), RECORD)
    key = looks.key[file]
    records["key"][:, : key.shape[1]], records["key"][:, key.shape[1] :] = key, edges
    for name in ("state", "format", "size"):
        records[name] = getattr(looks, name)[file]
    records["photo"] = np.frombuffer(looks.photo, "V16")[file]
    records["face"] = np.frombuffer(looks.face, "V16")
    records["brightness"], records["decoded_at"] = looks.brightness, began
    return records


def _reasons(looks: Looks) -> dict[int, str]:
    """Return by face of a shard why it is not ok."""
    if not looks.details:
        return {}
    return {
        face: looks.details[file]
        for face, file in enumerate(looks.file.tolist())
        if file in looks.details
    }
