"""Face detectors behind one protocol: YuNet, and the Haar cascade of the OpenCV wheel.

YuNet's file ships with the package and needs no download. Haar is for comparison: it misses most
turned or small faces, and ``warning`` says so. Both search a reduced copy of the frame, for speed,
and return boxes in px of the original frame. The bundle's card (``frames``) defines which square
around a face each detector's box stands for.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import cv2.data
import numpy as np

from demo_app.shipped import YUNET
from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.images.pixels import Box

YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_BYTES = 232_589
#: A file that is larger is another one, and not read to say which.
MAX_YUNET = 16 << 20
DETECTORS = ("yunet", "haar")
HAAR_WIDTH_PX = 320
#: At 320 px YuNet loses the smaller of two people at a desk; from 400 px on it keeps both.
YUNET_WIDTH_PX = 400
#: Two boxes that share more of the smaller one are of one face.
MAX_SHARED = 0.5


@dataclass(frozen=True)
class Detection:
    """One face found in an image.

    ``box_xyxy_px`` is (left, top, right, bottom) in px of that image, right and bottom exclusive,
    inside it and not empty. ``score`` grows with certainty; its scale is the detector's own, so
    compare scores of one detector only.
    """

    box_xyxy_px: Box
    score: float


class Detector(Protocol):
    """A face detector. ``name`` is written on every row of a log."""

    @property
    def name(self) -> str:
        """The detector's name."""
        ...

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Return the faces of ``image [H, W, 3] uint8 RGB``, highest score first; may be empty."""
        ...


class HaarDetector:
    """OpenCV's frontal-face cascade on an equalised grey copy; needs no download.

    Its score is the number of overlapping windows that agreed (3 or more), not a probability. It
    searches a copy at most ``width_px`` wide.
    """

    name = "haar"

    def __init__(self, width_px: int = HAAR_WIDTH_PX) -> None:
        self._width_px = width_px
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise FerError(
                "the Haar cascade cannot be loaded",
                code="cascade-unavailable",
                where=path,
                fix="reinstall opencv-python 4 (version 5 has dropped the cascades)",
            )

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Return the faces of ``image [H, W, 3] uint8 RGB``, highest score first."""
        small, scale_x, scale_y = _shrink(image, self._width_px)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        boxes, votes = self._cascade.detectMultiScale2(
            grey, scaleFactor=1.1, minNeighbors=3, minSize=(24, 24)
        )
        detections = (
            _detection(x * scale_x, y * scale_y, w * scale_x, h * scale_y, float(score), image)
            for (x, y, w, h), score in zip(boxes, votes, strict=True)
        )
        return merged(detections)


class YuNetDetector:
    """OpenCV Zoo's YuNet (2023mar); the sha256 of its file is checked before it runs.

    Its score is a confidence in 0..1; faces under 0.7 are not reported. It searches a copy at most
    ``width_px`` wide.
    """

    name = "yunet"

    def __init__(self, width_px: int = YUNET_WIDTH_PX, model_path: Path = YUNET) -> None:
        self._width_px = width_px
        try:
            data = read_file(model_path, MAX_YUNET)
        except OSError as error:
            raise FerError(
                f"the YuNet file cannot be read: {error.strerror}",
                code="unreadable-file",
                where=model_path,
                fix="reinstall fer-platform, which brings it",
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != YUNET_SHA256:
            raise FerError(
                f"the YuNet file has sha256 {digest[:12]} and {len(data)} bytes",
                code="detector-changed",
                where=model_path,
                allowed=f"sha256 {YUNET_SHA256} ({YUNET_BYTES} bytes)",
                fix="reinstall fer-platform, which brings it",
            )
        # From the checked bytes, not from the path: what was hashed is what runs.
        self._net = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(data, np.uint8),
            np.zeros(0, np.uint8),
            (width_px, width_px),
            score_threshold=0.7,
        )

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Return the faces of ``image [H, W, 3] uint8 RGB``, highest score first."""
        small, scale_x, scale_y = _shrink(image, self._width_px)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        # A row is x, y, width, height, five points as x, y, and the score.
        detections = (
            _detection(x * scale_x, y * scale_y, w * scale_x, h * scale_y, score, image)
            for (x, y, w, h, *_, score) in rows.tolist()
        )
        return merged(detections)


class LookOnce:
    """A detector that caches its result per image, however many students use it."""

    def __init__(self, detector: Detector) -> None:
        self.name = detector.name
        self._detector = detector
        self._found: dict[bytes, list[Detection]] = {}

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Return the faces of ``image [H, W, 3] uint8 RGB``; searches each image only once."""
        key = hashlib.blake2b(image.tobytes()).digest() + str(image.shape).encode()
        if key not in self._found:
            self._found[key] = self._detector.detect(image)
        return self._found[key]


def make_detector(name: str, width_px: int | None = None) -> Detector:
    """Return the detector called ``name``; it searches copies ``width_px`` wide (None: default).

    Raises ``FerError`` for an unknown name, or if YuNet's file is damaged.
    """
    if name not in DETECTORS:
        raise FerError(
            f"unknown detector {name!r}", code="unknown-detector", allowed=", ".join(DETECTORS)
        )
    if width_px is not None and not 64 <= width_px <= 4096:
        raise FerError(
            f"the width of the detector's picture is {width_px} px",
            code="invalid-value",
            allowed="64 to 4096 px",
        )
    if name == HaarDetector.name:
        return HaarDetector(width_px or HAAR_WIDTH_PX)
    return YuNetDetector(width_px or YUNET_WIDTH_PX)


def warning(detector: Detector) -> str | None:
    """Return a warning about a detector that misses many faces; None for a good one."""
    if detector.name != HaarDetector.name:
        return None
    return "Haar misses most faces that are turned or small; --detector yunet finds them"


def _shrink(image: np.ndarray, max_width: int) -> tuple[np.ndarray, float, float]:
    """Return a copy at most ``max_width`` px wide, and the factors from copy to original (x, y)."""
    height, width = image.shape[:2]
    if width <= max_width:
        return image, 1.0, 1.0
    new_height = max(1, round(height * max_width / width))
    # Averaging costs five times as much, and below a halving it changes next to nothing.
    how = cv2.INTER_AREA if width >= 2 * max_width else cv2.INTER_LINEAR
    small = cv2.resize(image, (max_width, new_height), interpolation=how)
    return small, width / max_width, height / new_height


def _detection(
    left: float,
    top: float,
    width: float,
    height: float,
    score: float,
    image: np.ndarray,
) -> Detection | None:
    """Return a detection clipped to the image; None if the box lies outside."""
    # On a very flat image YuNet's box sizes overflow; such a box is no face.
    if not all(map(math.isfinite, (left, top, width, height))):
        return None
    image_height, image_width = image.shape[:2]
    box = (
        max(0, round(left)),
        max(0, round(top)),
        min(image_width, round(left + width)),
        min(image_height, round(top + height)),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    return Detection(box, score)


def merged(detections: Iterable[Detection | None]) -> list[Detection]:
    """Return detections by descending score, without boxes that overlap a better one too much.

    Too much is more than ``MAX_SHARED`` of the smaller box. A cascade also finds a face inside a
    face, for which intersection over union would be small.
    """
    # The box breaks ties, so that track ids do not depend on the order in which OpenCV answers.
    ordered = sorted(
        (detection for detection in detections if detection is not None),
        key=lambda detection: (-detection.score, detection.box_xyxy_px),
    )
    kept: list[Detection] = []
    for each in ordered:
        if all(_shared(each.box_xyxy_px, other.box_xyxy_px) <= MAX_SHARED for other in kept):
            kept.append(each)
    return kept


def _shared(a: Box, b: Box) -> float:
    """Return the intersection of two boxes divided by the smaller area, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return max(0, width) * max(0, height) / smaller
