"""Small files that would cost much are refused by their pieces, before a decoder sees them."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fer_ml.base.errors import FerError
from fer_ml.images.pixels import decode, decode_as_stored, read_header
from fer_ml.images.structure import MAX_PIECES, MAX_SCANS, MAX_TEXTS, PNG
from tests.refusals import refused

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 40, 3), np.uint8)


def saved(kind: str, pixels: np.ndarray = PIXELS, **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def several(kind: str, count: int = 2) -> bytes:
    pictures = [Image.fromarray(np.full((48, 40, 3), 40 * k % 250, np.uint8)) for k in range(count)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: Iterable[bytes] = (), after: Iterable[bytes] = ()) -> bytes:
    """A PNG with chunks before its pixels and after them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(16 * (1 + 3 * 16))))
    return b"".join([PNG, head, *before, rows, *after, chunk(b"IEND", b"")])


def text(kind: bytes, compressed: bytes = b"\0") -> bytes:
    return chunk(kind, b"k\0" + compressed + zlib.compress(bytes(7_000_000)))


def scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved("JPEG", np.zeros((side, side), np.uint8), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def segments(marker: bytes) -> bytes:
    data = saved("JPEG")
    return data[:2] + (marker + b"\0\2") * 100_000 + data[2:]


def filled(byte: bytes) -> bytes:
    data = saved("JPEG")
    return data[:2] + byte * 3_000_000 + data[2:]


def gif(extra: bytes) -> bytes:
    data = saved("GIF", PIXELS[..., 0])
    place = 13 + 3 * 256
    assert data[place] in b"\x21\x2c"
    return data[:place] + extra + data[place:]


def webp() -> bytes:
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x27\0\0\x2f\0\0"
    chunks += saved("WEBP", lossless=True)[12:] + b"XXXX\0\0\0\0" * 100_000
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def tiff(large: bool = False, order: str = "<", tags: Iterable[tuple[int, int, int]] = ()) -> bytes:
    """A grey TIFF, and more tags: number, type, count of values; all of them share their bytes."""
    whole = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    whole += [(277, 3, 1), (278, 4, 16), (273, 4, 0), (279, 4, 256)]
    number = "Q" if large else "I"
    entries = [
        struct.pack(f"{order}HH{number}", tag, kind, 1)
        + struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(8 if large else 4, b"\0")
        for tag, kind, value in whole
    ]
    entries += [struct.pack(f"{order}HH{number}{number}", *tag, 8) for tag in tags]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if large else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if large else struct.pack(f"{order}I", 8)
    held = struct.pack(f"{order}{'Q' if large else 'H'}", len(entries)) + b"".join(sorted(entries))
    held = head + held + bytes(8 if large else 4)
    strip = struct.pack(f"{order}HH{number}", 273, 4, 1)
    place = held.index(strip) + len(strip)
    return held[:place] + struct.pack(f"{order}I", len(held)) + held[place + 4 :] + bytes(256)


def jpeg_in_tiff() -> bytes:
    return saved("TIFF", compression="jpeg")


SHARED = [(40_000 + k, 1, 1_000_000) for k in range(1900)]
BOMBS: dict[str, Callable[[], bytes]] = {
    "scans of a small picture": lambda: scans(MAX_SCANS, 32),
    "scans of a large picture": lambda: scans(40, 6300),
    "comments": lambda: segments(b"\xff\xfe"),
    "application data": lambda: segments(b"\xff\xe1"),
    "filling before a segment": lambda: filled(b"\xff"),
    "zeros before a segment": lambda: filled(b"\0"),
    "tables": lambda: segments(b"\xff\xdb"),
    "texts after": lambda: png(after=[text(b"zTXt")] * (MAX_TEXTS + 1)),
    "texts before": lambda: png(before=[text(b"zTXt")] * (MAX_TEXTS + 1)),
    "international texts": lambda: png(after=[text(b"iTXt", b"\1\0\0\0")] * (MAX_TEXTS + 1)),
    "chunks": lambda: png(after=[chunk(b"tEXt", b"k\0v")] * 100_000),
    "parts of the pixels": lambda: png(after=[chunk(b"IDAT", b"")] * 100_000),
    "comments of a GIF": lambda: gif(b"\x21\xfe\0" * (MAX_PIECES + 1)),
    "parts of a comment": lambda: gif(b"\x21\xfe" + b"\1a" * (MAX_PIECES + 1) + b"\0"),
    "no block of a GIF": lambda: gif(b"\1" * 100_000),
    "chunks of a WebP": webp,
    "pages": lambda: several("TIFF"),
    "tags on the same bytes": lambda: tiff(tags=SHARED) + bytes(1_000_000),
    "tags of a BigTIFF": lambda: tiff(True, ">", SHARED) + bytes(1_000_000),
    "tags": lambda: tiff(tags=[(40_000 + k, 1, 1) for k in range(2000)]),
    "a JPEG in a TIFF": jpeg_in_tiff,
    "many pages": lambda: several("TIFF", 300),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("read", [decode, decode_as_stored])
@pytest.mark.threat(
    "a small file unpacks to a huge one",
    "Images: at most 40 million px and 200 MB, counted before decoding. Archives of arrays: at "
    "most 50 times their size. Compressed tables are refused; adopted JSON has at most 16 MiB.",
)
def test_bombs_are_refused_without_decoding(
    monkeypatch: pytest.MonkeyPatch, kind: str, read: Callable[..., object]
) -> None:
    data = BOMBS[kind]()
    assert len(data) < 4_000_000
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with refused("undecodable-image", where="x"):
        read(data, where="x")


@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_phones_jpeg_of_several_pictures_is_its_first_one(number: int) -> None:
    data = several("MPO", 1) + (number - 1) * saved("JPEG")
    header = read_header(data, where="x")
    assert (header.format, header.width, header.height) == ("JPEG", 40, 48)
    assert header.coerced is None
    assert decode(data, where="x").max() < 10


@pytest.mark.parametrize("tail", [b"", b"\0" * 3000, b"ftypmp42" + bytes(3000)])
def test_what_a_phone_appends_does_not_matter(tail: bytes) -> None:
    assert decode(saved("JPEG") + tail, where="x").shape == PIXELS.shape


def test_the_end_of_a_small_picture_in_the_header_is_not_the_end() -> None:
    """A photo that was cut off, with its thumbnail whole."""
    thumb = saved("JPEG", PIXELS[:8, :8])
    data = saved("JPEG", exif=b"Exif\0\0" + thumb)
    assert decode(data, where="x").shape == PIXELS.shape
    with refused("undecodable-image"):
        read_header(data[:-40], where="x")


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"c" * 1000, "icc_profile": bytes(300_000)}),
        ("PNG", {"compress_level": 0}),
        ("BMP", {}),
        ("WEBP", {}),
        *(("TIFF", {"compression": f"tiff_{way}"}) for way in ("lzw", "adobe_deflate")),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"icc_profile": bytes(3000), "description": "d" * 3000}),
        ("TIFF", {"big_tiff": True}),
        ("GIF", {"comment": b"c" * 3000}),
    ],
)
def test_ordinary_files_are_read(kind: str, how: dict[str, object]) -> None:
    pixels = PIXELS[..., 0] if kind == "GIF" else PIXELS
    data = saved(kind, pixels, **how)
    assert decode(data, where="x").shape == PIXELS.shape


SEEDS = [saved(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "MPO")]
SEEDS += [saved("JPEG", progressive=True), saved("GIF", PIXELS[..., 0]), png([text(b"zTXt")])]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=6)), max_size=4),
    st.integers(0, 1 << 16),
)
def test_any_bytes_are_read_or_refused(
    seed: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    held = bytearray(seed)
    for place, data in changes:
        place %= len(held)
        held[place : place + len(data)] = data
    for data in (bytes(held), bytes(held[: cut % len(held)])):
        for read in (decode, read_header):
            try:
                read(data, where="x")
            except FerError as error:
                assert error.where == "x"


def test_a_png_is_walked_to_its_end_and_no_further() -> None:
    parts = itertools.chain([text(b"zTXt")], [chunk(b"tEXt", b"k\0v")] * 50)
    data = png(after=parts)
    assert decode(data + bytes(100), where="x").shape == (16, 16, 3)


@pytest.mark.parametrize("made", [png(), png([chunk(b"tEXt", b"k\0v")])])
@pytest.mark.parametrize("cut", [1, 4, 8, 12, 30])
def test_a_png_without_its_whole_end_is_refused(made: bytes, cut: int) -> None:
    assert decode(made, where="x").shape == (16, 16, 3)
    for data in (made[:-cut], made[:-cut] + bytes(cut)):
        with refused("undecodable-image"):
            decode(data, where="x")


@pytest.mark.parametrize(("large", "order"), [(False, "<"), (False, ">"), (True, "<")])
def test_a_tiff_of_either_kind_and_order_is_read(large: bool, order: str) -> None:
    assert decode(tiff(large, order), where="x").shape == (16, 16, 3)


@pytest.mark.parametrize("place", [8, 1 << 40, (1 << 64) - 1])
def test_a_directory_beyond_the_end_is_refused(place: int) -> None:
    data = b"II+\0\x08\0\0\0" + struct.pack("<Q", place)
    with refused("undecodable-image"):
        decode(data, where="x")
