"""Inspect the image behind every row of a manifest, or reuse the result of an unchanged file.

An inspection is cached by the file's device, inode, size and modification time, so that a file is
not decoded again under another name, in another manifest or on another day. The cache consists of
*segments*, one for each probe that decoded something: a parquet table of faces, and their thumbs as
``[faces, 576] uint8`` beside it. Segments may be deleted at any time.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from fer_ml.base.files import discard, temporary
from fer_ml.base.kept import is_kept, keep
from fer_ml.base.reading import Refused, regular
from fer_ml.base.shards import map_shards
from fer_ml.images.inspection import (
    FORMAT_NAMES,
    NO_KEY,
    STATES,
    THUMB_SIZE,
    Looks,
    Shard,
    file_key,
    join_looks,
    look_at,
)
from fer_ml.images.pixels import Box
from fer_ml.manifests.schema import BOX

SHARD_FILES = 1000
#: Fewer files are looked at in this process: starting others takes longer.
PARALLEL_FROM = 3000
MAX_SEGMENTS = 24
_NAMES_AT_ONCE = 1 << 16

KEY = ("device", "inode", "bytes", "mtime_ns")
_STATE = pl.Enum(STATES)
_FORMAT = pl.Enum(FORMAT_NAMES)
#: What is found of a face: of its file, and of itself.
_FOUND: dict[str, pl.DataType] = {
    "state": _STATE,
    "detail": pl.String(),
    "format": _FORMAT,
    "image_width": pl.Int32(),
    "image_height": pl.Int32(),
    "photo": pl.String(),
    "face": pl.String(),
    "brightness": pl.Float64(),
    "decoded_at": pl.Float64(),
    "thumb": pl.Int64(),
    "segment": pl.Int64(),
}
#: Seconds after which thumbs without a table are nobody's: a table follows its thumbs at once.
_LEFT = 86400
_TABLE: dict[str, pl.DataType] = {
    **dict.fromkeys((*KEY, *BOX), pl.Int64()),
    **_FOUND,
}


@dataclass(frozen=True)
class Probe:
    """The result of inspecting the images of a manifest's rows.

    ``looks`` has one row for each row of the manifest, in its order: ``state`` (of
    ``look.STATES``), ``detail`` (why it is not ok), ``format``, ``image_width``, ``image_height``,
    ``photo`` (hash of the whole image), ``face`` (hash of image and box: the expected
    ``sample_id``), ``brightness`` (mean grey of the face, 0 to 255), ``checked`` ('decoded' now, or
    'unchanged' since ``decoded_at``, seconds since 1970), and where its thumb is.
    """

    looks: pl.DataFrame
    segments: tuple[np.ndarray, ...]

    def thumbs(self, rows: np.ndarray) -> np.ndarray:
        """Return thumbs ``[len(rows), 576] uint8`` of these rows; black where there is no face."""
        place = self.looks.select(pl.col("segment").fill_null(-1), pl.col("thumb").fill_null(0))[
            rows
        ].to_numpy()
        return _gather(self.segments, place[:, 0], place[:, 1])

    def how(self) -> dict[str, Any]:
        """Return counts of how the rows were checked, for reports and receipts."""
        known = self.looks["decoded_at"].filter(self.looks["checked"] == "unchanged")
        oldest = known.min()
        return {
            "decoded": self.looks.height - len(known),
            "unchanged": len(known),
            "unchanged_since": None if oldest is None else _date(oldest),  # type: ignore[arg-type]
        }


def join_probes(parts: Sequence[Probe], rows: Sequence[np.ndarray]) -> Probe:
    """Join probes of disjoint rows of one manifest; ``rows`` are the row numbers of each part."""
    looks: list[pl.DataFrame] = []
    segments: list[np.ndarray] = []
    for part, part_rows in zip(parts, rows, strict=True):
        looks.append(
            part.looks.with_columns(
                pl.Series("row", part_rows, pl.Int64), pl.col("segment") + len(segments)
            )
        )
        segments += part.segments
    return Probe(pl.concat(looks).sort("row").drop("row"), tuple(segments))


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
    frame: pl.DataFrame, root: Path, cache: Path, *, since: float = 0.0, label: str = "decode"
) -> Probe:
    """Inspect the image of every row of ``frame``; no row is sampled out.

    ``frame`` has ``image_path`` (below ``root``) and the box columns; ``cache`` holds the segments.
    Inspections before ``since`` (s since 1970) do not count: with the current time every file is
    decoded again.
    """
    wanted = frame.select("image_path", *BOX, path_fault("image_path").alias("fault"))
    rows = wanted.with_row_index("row").filter(pl.col("fault").is_null()).drop("fault")
    memory = _Memory(cache)
    known, place = memory.known(rows, root, since)
    unknown = rows.filter(place.is_null())
    decoded, decoded_place = memory.decode(unknown, root, label)
    # What was found is copied once, at the end: most of it is text.
    found = pl.concat(
        [
            known.with_columns(pl.lit("unchanged").alias("checked")),
            decoded.with_columns(pl.lit("decoded").alias("checked")),
        ]
    )
    at = np.full(wanted.height, -1, np.int64)
    at[rows["row"].to_numpy()] = place.fill_null(-1).to_numpy()
    at[unknown["row"].to_numpy()] = decoded_place + known.height
    places = pl.Series(at).replace(-1, None)
    looks = found.select(pl.all().gather(places)).with_columns(
        pl.col("checked").fill_null("decoded")
    )
    faults = wanted["fault"]
    if faults.null_count() < len(faults):
        refused = pl.when(faults == "no path").then(pl.lit("missing")).otherwise(pl.lit("escapes"))
        looks = looks.with_columns(
            pl.when(faults.is_null()).then("state").otherwise(refused.cast(_STATE)).alias("state"),
            pl.coalesce(faults, "detail").alias("detail"),
        )
    return Probe(looks, memory.thumbs())


class _Memory:
    """The segments below ``folder``: cached inspections, one row for each face.

    A face is identified by its file's key and its box.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[Path] = []
        self._tables: list[pl.DataFrame] = []
        self._thumbs: list[np.ndarray] = []
        _clear(folder)
        names = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
        for name in names:
            self._open(name)
        if len(self._names) > MAX_SEGMENTS:
            self._merge(self._names)

    def _open(self, name: Path) -> None:
        try:
            if not (is_kept(name) and is_kept(_beside(name))):
                return _remove(name)  # Its files are looked at again.
            table = pl.read_parquet(regular(name), glob=False)
            thumbs = _thumbs_of(name)
        except (OSError, Refused, ValueError, pl.exceptions.PolarsError):
            return None  # Deleted: its files are looked at again.
        index = len(self._thumbs)
        table = table.with_columns(pl.lit(index, pl.Int64).alias("segment")).select(list(_TABLE))
        self._names.append(name)
        self._tables.append(table.filter(pl.col("device") != NO_KEY[0]))
        self._thumbs.append(thumbs)
        return None

    def thumbs(self) -> tuple[np.ndarray, ...]:
        """The thumbs of each segment."""
        return tuple(self._thumbs)

    def known(self, rows: pl.DataFrame, root: Path, since: float) -> tuple[pl.DataFrame, pl.Series]:
        """Return all cached results, and for each row the place of its own.

        ``rows`` has image_path and the box. The place is null where the file has changed since, or
        was not inspected.
        """
        table = pl.concat([pl.DataFrame(schema=_TABLE), *self._tables])
        if since:
            table = table.filter(pl.col("decoded_at") >= since)
        found = table.select(list(_FOUND))
        if table.is_empty() or rows.is_empty():
            return found, pl.Series([None] * rows.height, dtype=pl.Int64)
        names = rows["image_path"]
        distinct = names.unique(maintain_order=True)
        keys = pl.DataFrame(_stat(distinct, root), schema=dict.fromkeys(KEY, pl.Int64))
        if len(distinct) < len(names):
            known = keys.with_columns(distinct)
            keys = rows.join(known, on="image_path", how="left", maintain_order="left").select(KEY)
        rows = pl.concat([rows.select("row", *BOX), keys], how="horizontal")
        whole = pl.all_horizontal(pl.col(name).is_null() for name in BOX)
        places = table.select(*KEY, *BOX).with_row_index("place")
        place = np.full(len(names), -1, np.int64)
        # Most faces have no box, and keys of four columns are compared faster than those of eight.
        for part, key in ((whole, KEY), (~whole, (*KEY, *BOX))):
            latest = places.filter(part).unique(key, keep="last").select("place", *key)
            some = rows.with_row_index("at").filter(part).select("at", *key)
            both = some.join(latest, on=key, nulls_equal=True)
            place[both["at"].to_numpy()] = both["place"].to_numpy()
        return found, pl.Series(place).replace(-1, None)

    def decode(self, rows: pl.DataFrame, root: Path, label: str) -> tuple[pl.DataFrame, np.ndarray]:
        """Inspect the files of ``rows`` now, and cache it; return results and each row's place."""
        if rows.is_empty():
            return pl.DataFrame(schema=_FOUND), np.empty(0, np.int64)
        # Sorted, so that files of one folder are read together.
        files = rows.select(pl.col("image_path").unique().sort()).with_row_index("file")
        rows = rows.join(files, on="image_path", how="left", maintain_order="left")
        faces = rows.select("file", *BOX).unique(maintain_order=True).sort("file")
        self.folder.mkdir(parents=True, exist_ok=True)
        thumbs = temporary(self.folder / "thumbs")
        try:
            with thumbs.open("wb") as file:
                file.truncate(faces.height * THUMB_SIZE)
            looks = _look(faces, files["image_path"], root, thumbs, label)
            beside = keep(thumbs, self._new())
        finally:
            discard(thumbs)
        table = pl.concat([faces, looks], how="horizontal")
        name = self._write(table, beside)
        self._forget(table)
        # Whoever was to be known again is by now.
        self._tables.clear()
        index = len(self._thumbs)
        self._thumbs.append(_thumbs_of(name))
        key = ["file", *BOX]
        place = rows.join(
            faces.with_row_index("place"),
            on=key,
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )["place"].to_numpy()
        found = looks.with_columns(pl.lit(index, pl.Int64).alias("segment")).select(list(_FOUND))
        return found, place.astype(np.int64)

    def _forget(self, table: pl.DataFrame) -> None:
        """Remove segments whose faces are all in ``table`` again, as after a full pass."""
        key = (*KEY, *BOX)
        for name, segment in zip(self._names, self._tables, strict=True):
            if segment.height <= table.height and (
                segment.join(table, on=key, how="anti", nulls_equal=True).is_empty()
            ):
                _remove(name)

    def _new(self) -> Path:
        return self.folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.thumbs"

    def _write(self, table: pl.DataFrame, beside: Path) -> Path:
        """Write the table of a segment, named after its thumbs, last and in one step."""
        partial = temporary(beside)
        table.select(name for name in _TABLE if name != "segment").write_parquet(partial)
        return keep(partial, beside.with_suffix(".parquet"))

    def _merge(self, names: list[Path]) -> None:
        """Merge all segments into one, the latest result for each face, and remove the old ones."""
        table = pl.concat(self._tables).unique((*KEY, *BOX), keep="last", maintain_order=True)
        partial = temporary(self.folder / "thumbs")
        place = table.select("segment", "thumb").to_numpy()
        with partial.open("wb") as file:
            for start in range(0, len(place), 20_000):
                part = place[start : start + 20_000]
                file.write(_gather(self._thumbs, part[:, 0], part[:, 1]).tobytes())
        numbered = table.with_columns(pl.int_range(pl.len()).alias("thumb"))
        name = self._write(numbered, keep(partial, self._new()))
        self._names, self._tables, self._thumbs = [], [], []
        for old in names:
            _remove(old)
        self._open(name)


def _thumbs_of(segment: Path) -> np.ndarray:
    return np.memmap(regular(_beside(segment)), np.uint8, "r").reshape(-1, THUMB_SIZE)


def _beside(segment: Path) -> Path:
    """Return the thumbs file of a table, whose name continues with its own hash."""
    return segment.with_name(f"{segment.stem.rpartition('-')[0]}.thumbs")


def _remove(segment: Path) -> None:
    # The table first: thumbs without one are nothing. Windows keeps those that are still in use.
    segment.unlink(missing_ok=True)
    discard(_beside(segment))


def _clear(folder: Path) -> None:
    """Remove thumbs that lost their table over a day ago: by a kill, or as they were in use."""
    for thumbs in folder.glob("*.thumbs"):
        if not any(folder.glob(f"{thumbs.stem}-*.parquet")):
            with suppress(FileNotFoundError):
                if time.time() - thumbs.stat().st_mtime > _LEFT:
                    discard(thumbs)


def _gather(segments: Sequence[np.ndarray], segment: np.ndarray, thumb: np.ndarray) -> np.ndarray:
    """Return thumbs ``[n, 576]`` by segment and place; black where the segment is -1."""
    thumbs = np.zeros((len(segment), THUMB_SIZE), np.uint8)
    for index in np.unique(segment[segment >= 0]):
        mask = segment == index
        thumbs[mask] = segments[index][thumb[mask]]
    return thumbs


def _stat(names: pl.Series, root: Path) -> np.ndarray:
    """Return the key of each file ``[n, 4] int64``.

    ``NO_KEY`` stands for links and missing files, which need a new look.
    """
    prefix, lstat = f"{os.path.realpath(root)}/", os.lstat
    found = np.empty((len(names), len(KEY)), np.int64)
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
        found[start : start + _NAMES_AT_ONCE] = np.array(keys, np.int64).reshape(-1, len(KEY))
    return found


def _look(
    faces: pl.DataFrame, names: pl.Series, root: Path, thumbs: Path, label: str
) -> pl.DataFrame:
    """Inspect ``faces`` (file and box, sorted by file); return the results in their order."""
    total = faces["file"].n_unique()
    shards = _shards(faces, names, root, thumbs)
    results = map_shards(look_at, shards, workers=1 if total < PARALLEL_FROM else None)
    looks = []
    with tqdm(total=total, desc=label, disable=None) as progress:
        for shard_looks in results:
            looks.append(shard_looks)
            progress.update(len(shard_looks.state))
    # One table at the end: a small one for each shard takes half as long as the decoding.
    return _table_of(join_looks(looks)).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("thumb"),
        pl.lit(time.time()).alias("decoded_at"),
    )


def _shards(faces: pl.DataFrame, names: pl.Series, root: Path, thumbs: Path) -> Iterator[Shard]:
    files = faces["file"].to_numpy()
    starts = np.flatnonzero(np.r_[True, files[1:] != files[:-1]])
    ends = np.append(starts[1:], len(files))
    boxed = np.add.reduceat(faces["bbox_left"].is_not_null().to_numpy(), starts) > 0
    boxed |= ends - starts > 1
    chosen = names.gather(files[starts])
    for first in range(0, len(starts), SHARD_FILES):
        span = slice(first, first + SHARD_FILES)
        boxes = {
            int(index): [_box(edges) for edges in faces[int(a) : int(b)].select(BOX).iter_rows()]
            for index, (a, b) in enumerate(zip(starts[span], ends[span], strict=True))
            if boxed[first + index]
        }
        some = chosen.slice(first, SHARD_FILES).to_list()
        yield Shard(str(root), some, boxes, str(thumbs), int(starts[first]))


def _box(edges: tuple[int | None, ...]) -> Box | None:
    return None if edges == (None, None, None, None) else edges  # type: ignore[return-value]


def _table_of(looks: Looks) -> pl.DataFrame:
    """One row for each face."""
    details: list[str | None] = [None] * len(looks.state)
    for index, detail in looks.details.items():
        details[index] = detail
    files = pl.DataFrame(
        {
            **dict(zip(KEY, looks.key.T, strict=True)),
            "state": pl.Series(looks.state).cat.to(_STATE),
            "detail": pl.Series(details, dtype=pl.String),
            "format": pl.Series(looks.format).cat.to(_FORMAT),
            "image_width": looks.size[:, 0],
            "image_height": looks.size[:, 1],
            "photo": _hex(looks.photo),
        }
    ).with_columns(
        pl.when(pl.col("state") == "ok").then(pl.col("photo")).alias("photo"),
        *(pl.when(pl.col(f"image_{side}") > 0).then(pl.col(f"image_{side}")) for side in _SIDES),
    )
    # Mostly there is one face a file, in order.
    rows = files if len(looks.file) == files.height else files[looks.file]
    return rows.with_columns(
        _hex(looks.face).alias("face"), pl.Series("brightness", looks.brightness)
    ).with_columns(pl.when(pl.col("state") == "ok").then(pl.col("face")).alias("face"))


_SIDES = ("width", "height")


def _hex(hashes: bytes) -> pl.Series:
    """Return 16 bytes each as 32 hexadecimal digits."""
    text = hashes.hex()
    return pl.Series([text[i : i + 32] for i in range(0, len(text), 32)], dtype=pl.String)
