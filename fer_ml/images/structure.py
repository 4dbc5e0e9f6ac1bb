"""A check of image files before decoding, against files made to take much time or memory.

A decoder goes over all pixels for each scan of a JPEG, unpacks each text of a PNG, and follows as
many pieces as the file has. A photo has few of them.
"""

import re
import struct

from fer_ml.base.errors import FerError

#: Segments of a JPEG, blocks of a GIF, chunks of a WebP.
MAX_PIECES = 2_000
#: Scans of a JPEG, and the pixels that all of them go over: 20 scans of the largest photo.
MAX_SCANS, MAX_SCANNED = 100, 800_000_000
#: Chunks of a PNG (the pixels of the largest come in some ten thousand), and packed texts in it:
#: a decoder unpacks up to 8 MB of each.
MAX_CHUNKS, MAX_TEXTS = 100_000, 16
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PACKED_TEXTS = (b"zTXt", b"iTXt", b"iCCP")
#: A marker of a JPEG: no stuffed or filling byte, and none that stands in the middle of a scan.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
#: Of a TIFF: bytes of a value by its type, and compressions that unpack a strip to its own size.
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 13: 4}
_COMPRESSION, _COMPRESSIONS = 259, frozenset({1, 5, 8, 32773, 32946})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def require_cheap(data: bytes, *, where: object) -> None:
    """Raise ``FerError`` if an image is truncated, or has more or larger pieces than a photo."""
    fault = None
    try:
        if data.startswith(PNG):
            fault = _png(data)
        elif data.startswith(b"\xff\xd8"):
            fault = _jpeg(data)
        elif data[:4] in (b"GIF8", b"RIFF"):
            fault = _gif(data) if data[:1] == b"G" else _webp(data)
        elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            fault = _tiff(data)
    except (IndexError, OverflowError, struct.error):
        fault = "image is truncated"
    if fault:
        raise FerError(
            f"image cannot be decoded: {fault}",
            code="undecodable-image",
            where=where,
            fix="replace the file",
        )


def _png(data: bytes) -> str | None:
    length = struct.Struct(">I").unpack_from
    whole = data[37:41] == b"IDAT" and length(data, 33)[0] + 57 == len(data)
    if whole and data.endswith(PNG_END):
        return None  # Header, pixels and end, as nearly all faces.
    place, chunks, texts = len(PNG), 0, 0
    while place + 8 <= len(data):
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":
            return None if data.startswith(PNG_END, place + 4) else "image is truncated: no IEND"
        chunks += 1
        texts += kind in _PACKED_TEXTS
        if chunks > MAX_CHUNKS or texts > MAX_TEXTS:
            return f"more than {MAX_CHUNKS:,} chunks, or more than {MAX_TEXTS} packed texts"
        place += 12 + length(data, place)[0]
    # OpenCV takes as much memory as a chunk says, and only then looks for its bytes.
    fault = "a chunk is longer than the file" if place > len(data) else "no IEND"
    return f"image is truncated: {fault}"


def _jpeg(data: bytes) -> str | None:
    """Check a JPEG: its own end must be there, not only that of an embedded or second picture.

    Of a phone's file of several pictures (MPO) the first one counts, as in every viewer.
    """
    place, scans, pixels, marker = 2, 0, 0, _SOI
    for _ in range(MAX_PIECES):
        match = _MARKER.search(data, place)
        if match is None:
            return "image is truncated: no EOI"
        if marker != _SOS and match.start() - place > MAX_PIECES:
            return f"more than {MAX_PIECES:,} bytes between two segments"
        marker, place = data[match.end() - 1], match.end()
        if marker == _EOI:
            return None
        if marker == _SOI:
            return "a picture begins within a picture"
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            pixels = max(pixels, width * height)
        scans += marker == _SOS
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            return f"{scans} scans or more over {pixels:,} px"
        place += struct.unpack_from(">H", data, place)[0]
    return f"more than {MAX_PIECES:,} segments"


def _gif(data: bytes) -> str | None:
    colours = 3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0
    place = 13 + colours
    for _ in range(MAX_PIECES):
        if data[place] != 0x21:
            return None if data[place] == 0x2C else "no picture where one should be"
        place += 2
        for _ in range(MAX_PIECES):
            size = data[place]
            place += 1 + size
            if not size:
                break
        else:
            return f"an extension of more than {MAX_PIECES:,} parts"
    return f"more than {MAX_PIECES:,} blocks before the picture"


def _webp(data: bytes) -> str | None:
    place = 12
    for _ in range(MAX_PIECES):
        if place + 8 > len(data):
            return None
        size = struct.unpack_from("<I", data, place + 4)[0]
        place += 8 + size + (size & 1)
    return f"more than {MAX_PIECES:,} chunks"


def _tiff(data: bytes) -> str | None:
    """Check a TIFF: it must have one page, since it is unclear which of several is meant.

    A decoder copies the bytes of each tag, so tags that share bytes fill the memory; both that and
    an embedded JPEG, with scans and segments of its own, are refused.
    """
    order = "<" if data[:1] == b"I" else ">"
    large = b"+" in data[2:4]  # BigTIFF
    first, count, offset, entry = (8, "Q", "Q", "HHQ8x") if large else (4, "H", "I", "HHI4x")
    (place,) = struct.unpack_from(f"{order}{offset}", data, first)
    (entries,) = struct.unpack_from(f"{order}{count}", data, place)
    place += struct.calcsize(count)
    size = struct.calcsize(f"{order}{entry}")
    (following,) = struct.unpack_from(f"{order}{offset}", data, place + entries * size)
    if following:
        return "several pages: only the first would be seen"
    if entries > MAX_PIECES:
        return f"more than {MAX_PIECES:,} tags"
    tag_bytes = 0
    for start in range(place, place + entries * size, size):
        tag, kind, number = struct.unpack_from(f"{order}{entry}", data, start)
        tag_bytes += number * _TIFF_BYTES.get(kind, 8)
        if tag == _COMPRESSION:
            (way,) = struct.unpack_from(f"{order}H", data, start + size - struct.calcsize(offset))
            if way not in _COMPRESSIONS:
                return f"compression {way}, allowed: none, LZW, deflate, PackBits"
    return "its tags hold more than the file" if tag_bytes > len(data) else None
