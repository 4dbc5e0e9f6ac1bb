"""A face as the demo shows it, and the one way from an image to probabilities."""

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
    ``align`` cuts and prepares the faces; it and ``classify`` are None without a face.
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


def number_of(face: Face, among: Sequence[Face]) -> int:
    """Which of the faces of an image it is, from 1, in the order in which they first came."""
    return 1 + sum(other.track_id < face.track_id for other in among)


def prepare_faces(
    image: np.ndarray, detections: Sequence[Detection], bundle: Bundle, detector: str
) -> np.ndarray:
    """The network's faces ``[N, S, S, 3] uint8`` of ``image [H, W, 3] uint8 RGB``.

    Training's own preparing, with the settings that the bundle carries, of the square that a box of
    ``detector`` stands for.
    """
    card = bundle.card
    frame = card.frame_of(detector)
    boxes = (detection.box_xyxy_px for detection in detections)
    return np.stack([prepare(image, box, card.preprocess, frame) for box in boxes])


def classify(faces: np.ndarray, bundle: Bundle) -> list[tuple[float, ...]]:
    """Calibrated ``probs [7]`` of each of ``faces [N, S, S, 3] uint8``, in one call.

    ``FerError`` if the network's output is not finite.
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
