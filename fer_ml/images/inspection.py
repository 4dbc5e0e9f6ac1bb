"""Inspection of image files: state, format, pixel hash, and a thumbnail of each face.

It runs in worker processes over shards of files, so it imports little.
"""

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.reading import Folder, Refused
from fer_ml.images.identity import photo_digest, sample_hash
from fer_ml.images.pixels import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    Box,
    Header,
    box_fault,
    decode_as_stored,
    plain_png_size,
    read_header,
)

#: Side in px of the grey thumb by which near-identical faces are found.
THUMB_SIDE = 24
THUMB_SIZE = THUMB_SIDE**2

#: What a look can end in. Everything but ``ok`` comes with a reason.
STATES: tuple[str, ...] = ("ok", "missing", "escapes", "undecodable", "oversized", "mode")

Key = tuple[int, int, int, int]
FORMAT_NAMES: tuple[str, ...] = ("unknown", *FORMATS)
NO_KEY: Key = (0, 0, 0, 0)
_STATE_CODES = {name: code for code, name in enumerate(STATES)}
_FORMAT_CODES = {name: code for code, name in enumerate(FORMAT_NAMES)}
_NO_HASH = bytes(16)
#: The largest side that is kept, in px.
_LARGEST = np.iinfo(np.int32).max
_PNG = _FORMAT_CODES["PNG"]
_WHOLE: list[Box | None] = [None]


@dataclass(frozen=True)
class Shard:
    """The input of one inspection: files below ``root``, and the boxes of their faces.

    ``boxes`` maps the index of a file to the boxes of its faces; ``None`` as a box stands for the
    whole image. Thumbnails are written to the file ``thumbs``, from face number ``first`` on.
    """

    root: str
    names: list[str]
    boxes: dict[int, list[Box | None]]
    thumbs: str
    first: int


@dataclass(frozen=True)
class Looks:
    """The result of an inspection. ``file`` holds the index in the shard of each face's file.

    By file: ``key [files, 4] int64`` (device, inode, size, mtime in ns, as they were when the file
    was read), ``state`` and ``format`` (indices into ``STATES`` and ``FORMAT_NAMES``), ``size
    [files, 2] int32`` (width, height; 0 where there is none), ``photo`` (16 bytes each), and
    ``details`` for what is not ok. By face: ``face`` (16 bytes each) and ``brightness`` (mean
    grey). A face whose box is not inside its image has a black thumb.
    """

    file: np.ndarray
    key: np.ndarray
    state: np.ndarray
    format: np.ndarray
    size: np.ndarray
    photo: bytes
    details: dict[int, str]
    face: bytes
    brightness: np.ndarray


class _Refused(Exception):
    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail


def file_key(status: os.stat_result, path: str) -> Key:
    """Return the key by which an unchanged file is recognised again, even if it is renamed.

    Where the file system has no inode numbers (FAT, some network folders), a hash of ``path`` takes
    the place of device and inode; then a renamed file is not recognised.
    """
    device, inode = status.st_dev, status.st_ino
    if not inode:
        digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        device, inode = int.from_bytes(digest[:8]), int.from_bytes(digest[8:])
    if device >> 63 or inode >> 63:
        device, inode = _int64(device), _int64(inode)
    return (device, inode, status.st_size, _int64(status.st_mtime_ns))


def _int64(number: int) -> int:
    """Reduce a number of up to 128 bits, as Windows has for files, to 64 bits for a column."""
    return (number ^ number >> 64) & (1 << 63) - 1 if number >> 63 else number


def look_at(shard: Shard) -> Looks:
    """Read, check, decode and hash every file of ``shard``. A bad file is a state, not an error."""
    cv2.setNumThreads(1)
    count = len(shard.names)
    boxes = [shard.boxes.get(index, _WHOLE) for index in range(count)]
    file = np.repeat(np.arange(count), [len(file_boxes) for file_boxes in boxes])
    thumbs = np.zeros((len(file), THUMB_SIDE, THUMB_SIDE), np.uint8)
    state, format_ = bytearray(count), bytearray(count)
    keys, sizes, photos, faces, details = [], [], [], [], {}
    folder = Folder(shard.root)
    first = 0
    for index, name in enumerate(shard.names):
        file_boxes = boxes[index]
        key, size, photo = NO_KEY, (0, 0), _NO_HASH
        try:
            key, data = _read(folder, name)
            plain = plain_png_size(data)
            if plain is not None and plain[0] * plain[1] <= MAX_PIXELS:
                format_[index] = _PNG
            else:
                header = read_header(data, where=name)
                format_[index] = _FORMAT_CODES[header.format]
                size = min(header.width, _LARGEST), min(header.height, _LARGEST)
                _judge(header)
            # Not always the header's size: cameras note that a photo must be turned.
            photo, size = _decode(data, file_boxes, thumbs, first)
        except _Refused as refused:
            state[index], details[index] = _STATE_CODES[refused.state], refused.detail
        except FerError as error:
            state[index], details[index] = _STATE_CODES["undecodable"], error.what
        keys.append(key)
        sizes.append(size)
        photos.append(photo)
        if file_boxes is _WHOLE:
            faces.append(photo)
        else:
            faces += [bytes.fromhex(sample_hash(photo.hex(), box)) for box in file_boxes]
        first += len(file_boxes)
    _write_thumbs(shard, thumbs)
    return Looks(
        file,
        np.array(keys, np.int64).reshape(-1, 4),
        np.frombuffer(bytes(state), np.uint8),
        np.frombuffer(bytes(format_), np.uint8),
        np.array(sizes, np.int32).reshape(-1, 2),
        b"".join(photos),
        details,
        b"".join(faces),
        thumbs.mean(axis=(1, 2)),
    )


def _judge(header: Header) -> None:
    if reason := header.oversized:
        raise _Refused("oversized", reason)
    if reason := header.coerced:
        raise _Refused("mode", reason)


def _write_thumbs(shard: Shard, thumbs: np.ndarray) -> None:
    with open(shard.thumbs, "r+b") as file:
        file.seek(shard.first * THUMB_SIZE)
        file.write(thumbs.tobytes())


#: The code of a file that is not read, as a state.
_REFUSED: Mapping[str, str] = {
    "not-regular-file": "missing",
    "file-too-large": "oversized",
    "link-leads-out": "escapes",
}


def _read(folder: Folder, name: str) -> tuple[Key, bytes]:
    try:
        status, data = folder.read(name, MAX_BYTES)
    except Refused as refused:
        detail = ", ".join(filter(None, (refused.what, refused.allowed)))
        raise _Refused(_REFUSED[refused.code], detail) from refused
    except OSError as error:
        raise _Refused("missing", _reason(folder, name, error)) from error
    return file_key(status, f"{folder.root}/{name}"), data


def _reason(folder: Folder, name: str, error: OSError) -> str:
    if error.errno != errno.ENOENT:
        return str(error.strerror).lower()
    with suppress(OSError):  # A name that no disk takes.
        if Path(folder.root, name).is_symlink():
            return "broken link"
    return "no such file"


def _decode(
    data: bytes, boxes: list[Box | None], thumbs: np.ndarray, first: int
) -> tuple[bytes, tuple[int, int]]:
    """Write ``thumbs [faces, 24, 24]`` from ``first`` on; return photo hash and (width, height)."""
    image = grey = decode_as_stored(data, where="")
    if image.ndim == 3:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = grey.shape
    for place, box in enumerate(boxes, first):
        if box is None:
            thumb(grey, thumbs[place])
        elif box_fault(box, width, height) is None:
            left, top, right, bottom = box
            thumb(grey[top:bottom, left:right], thumbs[place])
    return photo_digest(image), (width, height)


def thumb(grey: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
    """Resize ``grey [H, W] uint8`` to the thumbnail ``[24, 24] uint8`` used for comparisons.

    ``into`` takes the result, if given.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise FerError(
            f"a thumbnail cannot be made of shape {grey.shape} and type {grey.dtype}",
            code="invalid-array",
            allowed="[H, W] uint8, not empty",
        )
    how = cv2.INTER_AREA if max(grey.shape) > THUMB_SIDE else cv2.INTER_LINEAR
    return cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), into, interpolation=how)
