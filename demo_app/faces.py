"""A face as the demo shows it, and the only path from an image to probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo_app.detection import Detection
from demo_app.parameters import Parameters
from demo_app.stabilisation import Doubt, StabiliserState
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import Box, prepare


@dataclass(frozen=True)
class Face:
    """One face of one image: its position, the network's output, and the label shown.

    ``box_xyxy_px`` is in px of the whole image; ``score`` is the detector's; ``probs [7]`` are this
    image's calibrated probabilities in the order of ``CLASSES``, not smoothed; ``state`` is the
    stabilised state of the track. In a photo every face is a track of one step.
    """

    track_id: int
    box_xyxy_px: Box
    score: float
    probs: tuple[float, ...]
    state: StabiliserState

    @property
    def raw_label(self) -> str:
        """The most probable class in this image alone."""
        return CLASSES[self.probs.index(max(self.probs))]


@dataclass(frozen=True)
class StageTimes:
    """Duration of each step of one frame, in ms.

    ``capture`` gets the frame: waiting for a camera, reading a file, or decoding what a browser
    sent. ``align`` cuts and prepares the faces; ``align`` and ``classify`` are None without a face.
    ``draw`` delivers the result: drawing on the frame, or writing the reply to a browser.
    """

    capture: float
    detect: float
    align: float | None
    classify: float | None
    smooth: float
    draw: float = 0.0

    @property
    def frame(self) -> float:
        """Time from the decoded frame to the shown picture: all steps except ``capture``."""
        return self.detect + (self.align or 0) + (self.classify or 0) + self.smooth + self.draw


@dataclass(frozen=True)
class FrameResult:
    """One processed frame.

    ``image`` is ``[H, W, 3] uint8 RGB``. ``looked`` is False if the detector did not run and the
    faces are the tracker's predictions. ``parameters`` are those that were used. ``manual_label``
    is a person's label for the main face, or None.
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
        """The largest face; bars, line chart and manual label are about this face."""
        return max(self.faces, key=_size_and_age, default=None)


def number_of(face: Face, among: Sequence[Face]) -> int:
    """Return the number of a face among those of an image, from 1, in order of first appearance."""
    return 1 + sum(other.track_id < face.track_id for other in among)


def prepare_faces(
    image: np.ndarray, detections: Sequence[Detection], bundle: Bundle, detector: str
) -> np.ndarray:
    """Return the network's input ``[N, S, S, 3] uint8`` from ``image [H, W, 3] uint8 RGB``.

    Prepares, with the bundle's settings and exactly as in training, the square that a box of
    ``detector`` stands for.
    """
    card = bundle.card
    frame = card.frame_of(detector)
    boxes = (detection.box_xyxy_px for detection in detections)
    return np.array([prepare(image, box, card.preprocess, frame) for box in boxes])


class Classified(NamedTuple):
    """For each face calibrated ``probs [7]``, and whether its logits are like those of calib."""

    probs: list[tuple[float, ...]]
    familiar: list[bool]


def classify(faces: np.ndarray, bundle: Bundle) -> Classified:
    """Classify ``faces [N, S, S, 3] uint8`` in one call.

    Raises ``FerError`` if the network's output is not finite.
    """
    logits = bundle.logits(faces)  # [N, 7]
    probs = bundle.card.probabilities(logits)
    if not math.isfinite(probs.sum()):
        raise FerError(
            "the network returned values that are not finite",
            code="output-not-finite",
            where=bundle.folder,
            fix="export the bundle again",
        )
    return Classified([tuple(row) for row in probs.tolist()], bundle.card.familiar(logits).tolist())


def doubts(
    detections: Sequence[Detection], familiar: Sequence[bool], bundle: Bundle, detector: str | None
) -> list[Doubt | None]:
    """Return why each face has no label: its square is too small, or its logits are unlike calib's.

    The square is the one that ``prepare_faces`` cuts, in px of the picture; without a detector it
    is that of the whole picture.
    """
    card = bundle.card
    found: list[Doubt | None] = []
    for detection, like in zip(detections, familiar, strict=True):
        left, top, right, bottom = detection.box_xyxy_px
        if detector is None:
            side = float(max(right - left, bottom - top))
        else:
            side = card.frame_of(detector).side * (bottom - top)
        small = side < card.least_px
        found.append("too_small" if small else None if like else "unsure")
    return found


def _size_and_age(face: Face) -> tuple[int, int]:
    left, top, right, bottom = face.box_xyxy_px
    return (right - left) * (bottom - top), -face.track_id
