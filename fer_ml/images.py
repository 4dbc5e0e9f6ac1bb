"""From a file to the model's input: decode, crop, CLAHE, resize, normalise.

Training, evaluation, export and the demo all go through here, and the ``Preprocess`` that was used
travels with the model, so that serving cannot differ from training. Needs only OpenCV and numpy.
"""

from pathlib import Path

import cv2
import numpy as np

from fer_ml.errors import FerError
from fer_ml.preprocess import Preprocess

Box = tuple[int, int, int, int]


def decode(data: bytes, *, where: object) -> np.ndarray:
    """Decode image bytes to ``[H, W, 3] uint8 RGB``; ``FerError`` when it cannot be done."""
    if not data:
        raise FerError("image file is empty", where=where, fix="replace the file")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FerError(
            f"image cannot be decoded: {error.err}", where=where, fix="replace the file"
        ) from error
    if image is None:
        raise FerError(
            "image cannot be decoded",
            where=where,
            allowed="PNG, JPEG, BMP, WebP, TIFF",
            fix="replace the file",
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image(path: Path) -> np.ndarray:
    """Read and decode a file to ``[H, W, 3] uint8 RGB``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FerError(f"image cannot be read: {error.strerror}", where=path) from error
    return decode(data, where=path)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of ``[H, W] uint8`` grey or ``[H, W, 3] uint8 RGB``."""
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, buffer = cv2.imencode(".png", bgr)
    if not ok:
        raise FerError("OpenCV could not encode a PNG")
    return buffer.tobytes()


def crop_face(image: np.ndarray, box: Box | None, margin: float) -> np.ndarray:
    """Cut the face out of ``image [H, W, 3]``, once.

    ``box`` is ``(left, top, right, bottom)`` in px of this very image, right and bottom exclusive;
    ``None`` means that the image is the face already. The margin is limited by the photo's edge;
    the box itself must lie inside, else ``FerError``: a clamped box is a wrong box.
    """
    if box is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise FerError(
            f"box {box} lies outside its {width}x{height} image",
            fix="boxes are (left, top, right, bottom) in px of this image",
        )
    pad = round(margin * max(right - left, bottom - top))
    return image[
        max(0, top - pad) : min(height, bottom + pad), max(0, left - pad) : min(width, right + pad)
    ]


def apply_clahe(image: np.ndarray, clip: float, tiles: int) -> np.ndarray:
    """CLAHE on the L channel of LAB; ``image [H, W, 3] uint8 RGB`` in and out."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=clip, tileGridSize=(tiles, tiles)).apply(
        np.ascontiguousarray(lab[..., 0])
    )
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def prepare(image: np.ndarray, box: Box | None, spec: Preprocess) -> np.ndarray:
    """One face as ``[S, S, 3] uint8 RGB``: crop, resize, CLAHE. What the training cache holds."""
    face = crop_face(image, box, spec.margin)
    shrinks = max(face.shape[:2]) > spec.size
    face = cv2.resize(
        face, (spec.size, spec.size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    if spec.clahe_clip > 0:
        face = apply_clahe(face, spec.clahe_clip, spec.clahe_tiles)
    return face


def normalise(faces: np.ndarray, spec: Preprocess) -> np.ndarray:
    """``faces [N, S, S, 3] uint8`` to the network's ``[N, 3, S, S] float32``."""
    scaled = faces.astype(np.float32) / 255.0
    scaled -= np.asarray(spec.mean, np.float32)
    scaled /= np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
