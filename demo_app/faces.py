"""A face as the demo shows it, and the only path from an image to probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo_app.detection import Detection
from demo_app.parameters import Parameters
from demo_app.stabilisation import StabiliserState
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
        return CLASSES[int(np.argmax(self.probs))]


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
    return np.stack([prepare(image, box, card.preprocess, frame) for box in boxes])


def classify(faces: np.ndarray, bundle: Bundle) -> list[tuple[float, ...]]:
    """Return calibrated ``probs [7]`` for each of ``faces [N, S, S, 3] uint8``, in one call.

    Raises ``FerError`` if the network's output is not finite.
    """
    probs = bundle.probabilities(faces)  # [N, 7]
    if not np.isfinite(probs).all():
        raise FerError(
            "the network returned values that are not finite",
            code="output-not-finite",
            where=bundle.folder,
            fix="export the bundle again",
        )
    return [tuple(row) for row in probs.tolist()]


def _size_and_age(face: Face) -> tuple[int, int]:
    left, top, right, bottom = face.box_xyxy_px
    return (right - left) * (bottom - top), -face.track_id
