"""Preprocessing from a file to the model's input: decode, cut, grey, resize, CLAHE, normalise.

Training, evaluation, export and the demo all use this module, with the ``Preprocess`` stored with
the model: the same square of a picture always gives the same bytes. The square to cut around a
detector's box is on the model's card (``frames``); a gate of the bundle compares annotated and
detected boxes on the same faces. Needs only OpenCV and numpy.
"""

import io
import struct
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.images.structure import PNG, PNG_END, require_cheap
from fer_ml.recipes.preprocess import Frame, Preprocess

Box = tuple[int, int, int, int]

#: Larger images are refused before decoding: a few kB of PNG can hold gigabytes of pixels.
MAX_PIXELS = 40_000_000
#: Larger files are not read: no photo needs them, and one could fill the memory.
MAX_BYTES = 200_000_000
#: Formats that are read, by the suffixes that their files may have.
FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
#: Mean spread of the three channels, of 255, up to which an image counts as grey.
GREY_SPREAD = 3.0
_PNG_START = PNG + b"\0\0\0\rIHDR"
_PNG_MODES = {0: "L", 2: "RGB"}
_PNG_SIZE = struct.Struct(">II").unpack_from

# A damaged file is reported where it is found; OpenCV would print to stderr as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Header(NamedTuple):
    """The header of an image file: format, width and height in px, and Pillow's mode."""

    format: str
    width: int
    height: int
    mode: str
    animated: bool = False

    @property
    def oversized(self) -> str | None:
        """Return why the image is too large to be decoded, or ``None``."""
        if self.width * self.height <= MAX_PIXELS:
            return None
        return f"{self.width}x{self.height} px is more than {MAX_PIXELS:,} px"

    @property
    def coerced(self) -> str | None:
        """Return what decoding to 8-bit grey or RGB would silently change, or ``None``."""
        if self.animated:
            return "animated: only its first picture would be seen"
        if self.mode in ("L", "RGB"):
            return None
        return f"mode {self.mode} is neither 8-bit grey nor 8-bit RGB"


def read_header(data: bytes, *, where: object) -> Header:
    """Read the header of an image file without decoding it; ``FerError`` if there is none.

    A truncated file is refused too: decoders may fill the missing part with grey.
    """
    if not data:
        raise FerError(
            "image file is empty", code="empty-image", where=where, fix="replace the file"
        )
    size = plain_png_size(data)
    if size is not None:
        return Header("PNG", *size, _PNG_MODES[data[25]])
    require_cheap(data, where=where)
    return _pillow_header(data, where)


def plain_png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height if ``data`` is a complete, plain 8-bit grey or RGB PNG, or ``None``.

    It is a shortcut: most faces are such files, and Pillow takes as long for a header as OpenCV
    for decoding the face.
    """
    if (
        data[:16] == _PNG_START
        and len(data) > 41
        and data[24] == 8
        and data[25] in _PNG_MODES
        and data[37:41] == b"IDAT"
        and data.endswith(PNG_END)
    ):
        return _PNG_SIZE(data, 16)
    return None


def _pillow_header(data: bytes, where: object) -> Header:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; ours are judged by ``oversized``.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                width, height = image.size
                # A phone's JPEG of several pictures is its first one, see ``structure``.
                kind = "JPEG" if image.format == "MPO" else str(image.format)
                if width * height > MAX_PIXELS:
                    return Header(kind, width, height, image.mode)
                animated = kind in ("PNG", "WEBP", "GIF") and bool(
                    getattr(image, "is_animated", False)
                )
                mode = "RGBA" if "transparency" in image.info else image.mode
                return Header(kind, width, height, mode, animated)
    except Image.DecompressionBombError:
        return Header("unknown", MAX_PIXELS, MAX_PIXELS, "unknown")
    # Pillow's parsers raise nearly anything on hostile bytes.
    except Exception as error:
        raise FerError(
            "image cannot be decoded: no readable header",
            code="undecodable-image",
            where=where,
            allowed=", ".join(FORMATS),
            fix="replace the file",
        ) from error


def decode(data: bytes, *, where: object) -> np.ndarray:
    """Decode image bytes to ``[H, W, 3] uint8 RGB``; ``FerError`` if that is not possible."""
    oversized = read_header(data, where=where).oversized
    if oversized:
        raise FerError(
            f"image is too large: {oversized}",
            code="oversized-image",
            where=where,
            fix="replace the file",
        )
    image = decode_as_stored(data, where=where)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def decode_as_stored(data: bytes, *, where: object) -> np.ndarray:
    """Decode to uint8 ``[H, W]`` grey or ``[H, W, 3]`` BGR, whichever the file holds.

    The caller must have checked the header.
    """
    require_cheap(data, where=where)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise FerError(
            f"image cannot be decoded: {error.err}",
            code="undecodable-image",
            where=where,
            fix="replace the file",
        ) from error
    if image is None:
        raise FerError(
            "image cannot be decoded", code="undecodable-image", where=where, fix="replace the file"
        )
    return image


def read_image(path: Path) -> np.ndarray:
    """Read and decode a file to ``[H, W, 3] uint8 RGB``."""
    try:
        data = read_file(path, MAX_BYTES)
    except OSError as error:
        raise FerError(
            f"image cannot be read: {error.strerror}", code="unreadable-file", where=path
        ) from error
    return decode(data, where=path)


def encode_png(image: np.ndarray) -> bytes:
    """Encode ``[H, W] uint8`` grey or ``[H, W, 3] uint8 RGB`` as PNG bytes."""
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, buffer = cv2.imencode(".png", bgr)
    if not ok:
        raise FerError("OpenCV could not encode a PNG", code="encoding-failed")
    return buffer.tobytes()


def box_fault(box: tuple[int | None, ...], width: int, height: int) -> str | None:
    """Return why ``box`` is invalid in an image of ``width`` x ``height`` px, or ``None``.

    ``box`` is ``(left, top, right, bottom)`` in px of the image, right and bottom exclusive. It is
    never clipped to the image: a clipped box is a wrong box.
    """
    left, top, right, bottom = box
    if left is None or top is None or right is None or bottom is None:
        return f"box {box} has an empty edge"
    if left >= right or top >= bottom:
        return f"box {box} has no area: edges are swapped"
    if left < 0 or top < 0 or right > width or bottom > height:
        return f"box {box} lies outside its {width}x{height} px image"
    return None


def crop_face(image: np.ndarray, box: Box | None) -> np.ndarray:
    """Return the part of ``image [H, W, 3]`` in ``box``, as a view; all of it without a box.

    ``box`` is ``(left, top, right, bottom)`` in px of the image, right and bottom exclusive. A box
    that is not inside the image is a ``FerError``.
    """
    if box is None:
        return image
    fault = box_fault(box, image.shape[1], image.shape[0])
    if fault:
        raise FerError(
            fault,
            code="invalid-box",
            fix="boxes are (left, top, right, bottom) in px of this image",
        )
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def cut_square(
    image: np.ndarray, box: Box | None, frame: Frame, size: int, *, grey: bool = False
) -> np.ndarray:
    """Cut the square of ``frame`` around the face in ``image [H, W, 3]``: ``[size, size, 3]``.

    ``box`` is as in ``crop_face``. ``None`` means a published crop: the square is the whole image,
    extended to its longer side. Where a square reaches beyond the image, the image's edge is
    repeated.
    """
    height, width = crop_face(image, box).shape[:2]
    left, top = (0, 0) if box is None else box[:2]
    side = max(height, width) if box is None else max(1, round(frame.side * height))
    down = 0.0 if box is None else frame.down * height
    x = round(left + (width - side) / 2)
    y = round(top + (height - side) / 2 + down)
    part = image[max(0, y) : y + side, max(0, x) : x + side]
    if grey:
        part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    # Borders are added to what was resized: a crop of 1 x 40,000 px must not become a square first.
    above, before = round(max(0, -y) * size / side), round(max(0, -x) * size / side)
    tall, wide = (max(1, round(length * size / side)) for length in part.shape[:2])
    above, before = min(above, size - tall), min(before, size - wide)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    face = cv2.resize(part, (wide, tall), interpolation=how)
    if (tall, wide) != (size, size):
        below, after = size - tall - above, size - wide - before
        face = cv2.copyMakeBorder(face, above, below, before, after, cv2.BORDER_REPLICATE)
    return cv2.cvtColor(face, cv2.COLOR_GRAY2RGB) if grey else face


def is_grey(image: np.ndarray) -> bool:
    """Whether ``image [H, W, 3] uint8 RGB`` is grey, up to the colour errors of JPEG."""
    channels = image.astype(np.int16)
    return float(np.ptp(channels, axis=2).mean()) <= GREY_SPREAD


def apply_clahe(
    image: np.ndarray, clip: float, tiles: int, centre: slice = slice(None)
) -> np.ndarray:
    """Apply CLAHE to the L channel of LAB; ``image`` and result are ``[H, W, 3] uint8 RGB``.

    Only the rows and columns of ``centre`` are returned.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=clip, tileGridSize=(tiles, tiles)).apply(
        np.ascontiguousarray(lab[..., 0])
    )
    return cv2.cvtColor(lab[centre, centre], cv2.COLOR_LAB2RGB)


def prepare_packed(
    image: np.ndarray,
    box: Box | None,
    spec: Preprocess,
    frame: Frame | None = None,
    centre: slice = slice(None),
) -> np.ndarray:
    """Prepare one face as ``[P, P, 3] uint8 RGB``, P = ``spec.packed_size``, for the packed cache.

    The steps are cut, grey, resize, CLAHE. With ``oversize`` 1 it is already the network's view.
    ``frame`` is given for a detector's box; an annotated box has the frame of ``spec``. Only the
    rows and columns of ``centre`` are returned.
    """
    face = cut_square(image, box, frame or spec.frame, spec.packed_size, grey=spec.colour == "grey")
    if spec.clahe_clip > 0:
        return apply_clahe(face, spec.clahe_clip, spec.tiles, centre)
    return face[centre, centre]


def prepare(
    image: np.ndarray, box: Box | None, spec: Preprocess, frame: Frame | None = None
) -> np.ndarray:
    """Prepare one face as the network sees it, ``[S, S, 3] uint8 RGB``: a packed face's centre."""
    cut = (spec.packed_size - spec.size) // 2
    return prepare_packed(image, box, spec, frame, slice(cut, cut + spec.size))


def normalise(faces: np.ndarray, spec: Preprocess) -> np.ndarray:
    """Normalise ``faces [N, S, S, 3] uint8`` to the network's input ``[N, 3, S, S] float32``."""
    tables = _normalised_bytes(spec.mean, spec.std)
    scaled = np.empty((len(faces), 3, *faces.shape[1:3]), np.float32)
    for index, face in enumerate(faces):
        for channel, table, plane in zip(cv2.split(face), tables, scaled[index], strict=True):
            cv2.LUT(channel, table, dst=plane)
    return scaled


@lru_cache(maxsize=8)
def _normalised_bytes(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return the normalised value of each byte for each channel, ``[3, 256] float32``.

    The lookup gives exactly the floats of the formula, several times faster.
    """
    scaled = np.arange(256, dtype=np.float32) / 255.0
    return (scaled - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
