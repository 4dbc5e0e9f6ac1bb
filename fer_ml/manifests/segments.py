"""The cache of inspections: segments on disk, each with records of faces, their thumbs and texts.

A face is known by its file's device, inode, size and time of change, and by its box. Each pass that
decoded something makes one segment: a file of records of one width, followed by the texts of what
is not ok, and the thumbs ``[n, 576] uint8`` beside it. Memory holds what is asked for. Segments may
be deleted at any time.
"""

import mmap
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.buckets import Buckets, RowValues, bucket_of, buckets_for
from fer_ml.base.files import discard, temporary
from fer_ml.base.kept import is_kept, keep
from fer_ml.base.reading import Refused, open_file
from fer_ml.images.inspection import NO_KEY, THUMB_SIZE

MAX_SEGMENTS = 24
#: Of the file of records. Its number is raised with ``RECORD`` and with what a number in it means.
SUFFIX = ".looks1"
#: Numbers by which a face is known: four of its file, and the edges of its box.
KEY_LENGTH = 8
#: An edge that a box has not.
NO_EDGE = np.iinfo(np.int64).min
#: ``size`` is (width, height) in px, 0 where there is none; ``text`` and ``length`` say where the
#: reason stands among the texts.
RECORD = np.dtype(
    [
        ("key", "i8", KEY_LENGTH),
        ("state", "u1"),
        ("format", "u1"),
        ("size", "i4", 2),
        ("photo", "V16"),
        ("face", "V16"),
        ("brightness", "f8"),
        ("decoded_at", "f8"),
        ("text", "u8"),
        ("length", "u4"),
    ]
)
#: A face and its place: the number of its segment, and its own within it. Also a row that asks.
KEYED = np.dtype([("key", "i8", KEY_LENGTH), ("place", "i8")])
_INDEX_BITS = 40
KEY_COLUMNS = [f"key_{index}" for index in range(KEY_LENGTH)]
_AT_ONCE = 1 << 16
#: Seconds after which a file without its other one is nobody's: they are written at once.
_LEFT = 86400


@dataclass(frozen=True)
class Segment:
    """One segment of ``count`` faces. Its files are mapped, so that their deletion is harmless."""

    file: Path
    count: int
    texts: bytes
    looks_map: mmap.mmap
    thumbs_map: mmap.mmap

    @property
    def records(self) -> np.ndarray:
        """``[n]`` of ``RECORD``; a view of the file."""
        return np.frombuffer(self.looks_map, RECORD, self.count)

    @property
    def thumbs(self) -> np.ndarray:
        """``[n, 576] uint8``; a view of the file."""
        return np.frombuffer(self.thumbs_map, np.uint8).reshape(-1, THUMB_SIZE)

    def release(self) -> None:
        """Give back the memory of what was read; reading it again is slower at most."""
        if sys.platform != "win32":
            self.looks_map.madvise(mmap.MADV_DONTNEED)
            self.thumbs_map.madvise(mmap.MADV_DONTNEED)

    @property
    def written_at(self) -> float:
        """Seconds since 1970 when it was written, after the last look in it."""
        return int(self.file.name.partition("-")[0]) / 1e9

    def remove(self) -> None:
        """Delete its files, of which nothing is read any more: Windows keeps what is mapped."""
        self.looks_map.close()
        self.thumbs_map.close()
        _remove(self.file)

    def reason(self, record: np.void) -> str | None:
        """Return why a face of this segment is not ok."""
        start, length = int(record["text"]), int(record["length"])
        return self.texts[start : start + length].decode() if length else None


class SegmentWriter:
    """Writes a segment below ``folder``, record by record; nothing is left of it without ``keep``.

    ``thumbs`` is the file to which thumbs are written by their number in the segment.
    """

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.thumbs = temporary(folder / "thumbs")
        self.thumbs.touch()
        self._folder, self._looks = folder, temporary(folder / "looks")
        self._file = self._looks.open("wb")
        self._texts, self._places = bytearray(), dict[str, int]()

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:  # What is left to write may not fit on the disk.
            discard(self._looks)
            discard(self.thumbs)

    def add(self, records: np.ndarray, reasons: Mapping[int, str]) -> None:
        """Add ``records``, whose ``text`` and ``length`` are set here; ``reasons`` by their index.

        A reason that is told of many faces is stored once.
        """
        records["text"] = records["length"] = 0
        for index, reason in reasons.items():
            text = reason.encode("utf-8", "replace")
            if reason not in self._places:
                self._places[reason] = len(self._texts)
                self._texts += text
            records["text"][index], records["length"][index] = self._places[reason], len(text)
        self._file.write(records.tobytes())
        self.count += len(records)

    def keep(self) -> Segment:
        """Name the files and return the segment. The records come last: without them it is none."""
        self._file.write(self._texts)
        self._file.close()
        name = self._folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.thumbs"
        beside = keep(self.thumbs, name)
        return _open(keep(self._looks, beside.with_suffix(SUFFIX)))


def open_segments(folder: Path, scratch: Path) -> list[Segment]:
    """Return all segments, oldest first; too many are merged into one, by files in ``scratch``."""
    _clear(folder)
    found = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(OSError, Refused, ValueError):  # Deleted: its files are looked at again.
            if is_kept(file) and is_kept(_beside(file)):
                found.append(_open(file))
            else:
                _remove(file)
    return found if len(found) <= MAX_SEGMENTS else _merged(found, folder, scratch)


def forget(segments: Sequence[Segment], scratch: Path) -> None:
    """Remove segments whose faces are all in later ones, as after a full pass."""
    left = np.zeros(len(segments), np.int64)
    for faces in latest(segments, scratch, buckets_for(_total(segments))):
        left += np.bincount(segment_of(faces["place"].to_numpy()), minlength=len(segments))
    for segment, count in zip(segments[:-1], left, strict=False):
        if not count:
            segment.remove()


def _total(segments: Sequence[Segment]) -> int:
    return sum(segment.count for segment in segments)


def latest(segments: Sequence[Segment], scratch: Path, buckets: int) -> Iterator[pl.DataFrame]:
    """Yield by bucket each face's ``KEY_COLUMNS`` and the ``place`` where it was seen last."""
    keyed = Buckets(scratch, f"cached-{uuid.uuid4().hex}", KEYED, buckets)
    for number, segment in enumerate(segments):
        for start in range(0, segment.count, _AT_ONCE):
            keys = segment.records["key"][start : start + _AT_ONCE]
            known = np.flatnonzero(keys[:, 0] != NO_KEY[0])
            records = np.empty(len(known), KEYED)
            records["key"] = keys[known]
            records["place"] = known + start + (number << _INDEX_BITS)
            keyed.add(records, bucket_of_keys(records["key"], buckets))
            segment.release()
    for bucket in keyed:
        yield frame_of(bucket).unique(KEY_COLUMNS, keep="last")


def frame_of(keyed: np.ndarray) -> pl.DataFrame:
    """Return records of ``KEYED`` as a frame of ``KEY_COLUMNS`` and ``place``."""
    return pl.DataFrame({**_columns(keyed["key"]), "place": keyed["place"]})


def _columns(keys: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(KEY_COLUMNS, np.ascontiguousarray(keys.T), strict=True))


def bucket_of_keys(keys: np.ndarray, buckets: int) -> np.ndarray:
    """Return the bucket of each of ``keys`` ``[n, 8]``."""
    if buckets == 1:
        return np.zeros(len(keys), np.int64)
    return bucket_of(pl.DataFrame(_columns(keys)).hash_rows().to_numpy(), buckets)


def records_at(segments: Sequence[Segment], places: np.ndarray) -> np.ndarray:
    """Return the records (``RECORD``) of ``places``; zeros where a place is negative."""
    return _gather(segments, "records", places, np.zeros(len(places), RECORD))


def thumbs_at(segments: Sequence[Segment], places: np.ndarray) -> np.ndarray:
    """Return the thumbs ``[n, 576] uint8`` of ``places``; black where a place is negative."""
    black = np.zeros((len(places), THUMB_SIZE), np.uint8)
    return _gather(segments, "thumbs", places, black)


def _gather(
    segments: Sequence[Segment], what: str, places: np.ndarray, into: np.ndarray
) -> np.ndarray:
    number = segment_of(places)
    for index in np.unique(number[number >= 0]):
        mask = number == index
        into[mask] = getattr(segments[index], what)[index_of(places[mask])]
        segments[index].release()
    return into


def segment_of(places: np.ndarray) -> np.ndarray:
    """Return the number of the segment of each place, negative where a place is."""
    return places >> _INDEX_BITS


def index_of(places: np.ndarray) -> np.ndarray:
    """Return the number of each place's face within its segment."""
    return places & ((1 << _INDEX_BITS) - 1)


def place_of(segment: int, index: np.ndarray) -> np.ndarray:
    """Return the places of the faces ``index`` of a segment."""
    return index + (segment << _INDEX_BITS)


def _merged(segments: Sequence[Segment], folder: Path, scratch: Path) -> list[Segment]:
    """Write the latest look at each face into one segment, and remove the others."""
    starts = np.cumsum([0, *(segment.count for segment in segments)])
    kept = RowValues(scratch, "kept", np.dtype(bool))
    for faces in latest(segments, scratch, buckets_for(_total(segments))):
        place = faces["place"].to_numpy()
        kept.set(starts[segment_of(place)] + index_of(place), True)
    merged = []
    with SegmentWriter(folder) as writer:
        with writer.thumbs.open("wb") as thumbs:
            for segment, first in zip(segments, starts, strict=False):
                for start in range(0, segment.count, _AT_ONCE):
                    count = min(_AT_ONCE, segment.count - start)
                    rows = start + np.flatnonzero(kept.read(int(first) + start, count))
                    records = segment.records[rows]
                    told = np.flatnonzero(records["length"])
                    thumbs.write(segment.thumbs[rows].tobytes())
                    writer.add(records, {int(i): segment.reason(records[i]) or "" for i in told})
                    segment.release()
        if writer.count:
            merged.append(writer.keep())
    for segment in segments:
        segment.remove()
    return merged


def _open(file: Path) -> Segment:
    with open_file(file) as looks, open_file(_beside(file)) as thumbs:
        count = thumbs.seek(0, 2) // THUMB_SIZE
        looks.seek(count * RECORD.itemsize)
        texts = looks.read()
        maps = (mmap.mmap(part.fileno(), 0, access=mmap.ACCESS_READ) for part in (looks, thumbs))
        return Segment(file, count, texts, *maps)


def _beside(looks: Path) -> Path:
    """Return the thumbs of a file of records, whose name continues with its own hash."""
    return looks.with_name(f"{looks.stem.rpartition('-')[0]}.thumbs")


def _remove(looks: Path) -> None:
    # The records first: thumbs without them are nothing. Windows keeps those still in use.
    discard(looks)
    discard(_beside(looks))


def _clear(folder: Path) -> None:
    """Remove what no segment has since a day: after a kill, while in use, or of another format."""
    for file in folder.glob("[0-9]*.*"):
        if file.suffix != SUFFIX and not any(folder.glob(f"{file.stem}-*{SUFFIX}")):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > _LEFT:
                    discard(file)
