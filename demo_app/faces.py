"""A face as the demo shows it, and the one way from an image to probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo_app.detection import Detection
from demo_app.parameters import Parameters
from demo_app.stabilisation import StabiliserState
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import Box, prepare

#: Eyes nearer than this share of the box's width belong to a profile: their line is no measure.
MIN_EYES_SHARE = 0.2


@dataclass(frozen=True)
class Face:
    """One face of one image: where it is, what the network says, and what is shown.

    ``box_xyxy_px`` is in px of the whole image; ``score`` is the detector's; ``probs [7]`` are
    this image's calibrated probabilities in the order of ``CLASSES``, not smoothed; ``state`` is
    the stabilised view of the track. In a photo every face is a track of one step.
    """

    track_id: int
    box_xyxy_px: Box
    score: float
    probs: tuple[float, ...]
    state: StabiliserState

    @property
    def raw_label(self) -> str:
        """The most probable class of this image alone."""
        return CLASSES[int(np.argmax(self.probs))]


@dataclass(frozen=True)
class StageTimes:
    """What the stages of one frame took, in ms.

    ``capture`` gets the frame: waiting for a camera, reading a file, decoding what a browser sent.
    ``align`` turns, cuts and prepares the faces; it and ``classify`` are None without a face.
    ``draw`` hands the result over: drawing on the frame, or writing the reply to a browser.
    """

    capture: float
    detect: float
    align: float | None
    classify: float | None
    smooth: float
    draw: float = 0.0

    @property
    def frame(self) -> float:
        """From the decoded frame to the picture that is shown: all stages but ``capture``."""
        return self.detect + (self.align or 0) + (self.classify or 0) + self.smooth + self.draw


@dataclass(frozen=True)
class FrameResult:
    """One processed frame.

    ``image [H, W, 3] uint8 RGB``; ``looked`` is False where the faces are where the tracker expects
    them and the detector was not asked; ``parameters`` are those that made it; ``manual_label`` is
    what a person says of the main face, None without a word.
    """

    index: int
    time_s: float
    image: np.ndarray
    faces: tuple[Face, ...]
    detector: str
    looked: bool
    parameters: Parameters
    times_ms: StageTimes
    manual_label: str | None = None

    @property
    def main(self) -> Face | None:
        """The largest face, which the bars, the line and the manual label speak of."""
        return max(self.faces, key=_size_and_age, default=None)


def prepare_faces(image: np.ndarray, detections: Sequence[Detection], bundle: Bundle) -> np.ndarray:
    """The network's faces ``[N, S, S, 3] uint8`` of ``image [H, W, 3] uint8 RGB``.

    Cropping and preparing are training's own, with the settings that the bundle carries, on a face
    that was turned upright where the detector gave landmarks.
    """
    spec, faces = bundle.card.preprocess, []
    for detection in detections:
        patch, box = upright(image, detection, spec.margin)
        faces.append(prepare(patch, box, spec))
    return np.stack(faces)


def roll_deg(detection: Detection) -> float:
    """How far the line of the eyes is from level, clockwise in the image; 0 where it is unknown."""
    if not detection.landmarks_xy_px:
        return 0.0
    (x0, y0), (x1, y1) = detection.landmarks_xy_px[:2]
    left, _, right, _ = detection.box_xyxy_px
    if math.hypot(x1 - x0, y1 - y0) < MIN_EYES_SHARE * (right - left):
        return 0.0
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def upright(image: np.ndarray, detection: Detection, margin: float) -> tuple[np.ndarray, Box]:
    """A patch of ``image`` in which the eyes are level, and the face's box in it.

    The patch is turned about the middle of the box and is large enough for ``margin``. Without a
    roll it is the image itself, so that a level face is cut exactly as in training.
    """
    roll, box = roll_deg(detection), detection.box_xyxy_px
    if roll == 0:
        return image, box
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    pad = round(margin * max(width, height))
    turn = cv2.getRotationMatrix2D(((left + right) / 2, (top + bottom) / 2), roll, 1.0)
    turn[:, 2] += (pad - left, pad - top)
    patch = cv2.warpAffine(
        image, turn, (width + 2 * pad, height + 2 * pad), borderMode=cv2.BORDER_REPLICATE
    )
    return patch, (pad, pad, pad + width, pad + height)


def classify(faces: np.ndarray, bundle: Bundle) -> list[tuple[float, ...]]:
    """Calibrated ``probs [7]`` of each of ``faces [N, S, S, 3] uint8``, in one call.

    ``FerError`` if the network's output is not finite.
    """
    probs = bundle.probabilities(faces)  # [N, 7]
    if not np.isfinite(probs).all():
        raise FerError(
            "the network's output holds values that are not finite",
            where=bundle.folder,
            fix="export the bundle again",
        )
    return [tuple(row) for row in probs.tolist()]


def _size_and_age(face: Face) -> tuple[int, int]:
    left, top, right, bottom = face.box_xyxy_px
    return (right - left) * (bottom - top), -face.track_id
