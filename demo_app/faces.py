"""A face as the demo shows it, and the one way from an image to probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo_app.detection import Detection
from demo_app.stabilisation import StabiliserSettings, StabiliserState
from fer_ml.bundle import Bundle, Card
from fer_ml.errors import FerError
from fer_ml.images import Box, prepare
from fer_ml.labels import CLASSES


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
class FrameResult:
    """One processed frame.

    ``image [H, W, 3] uint8 RGB``; ``classify_ms`` is None without a face; ``frame_ms`` is the time
    from the decoded frame to the stabilised labels, without reading, drawing and logging;
    ``wait_ms`` is what a player should wait before the next frame, for playback in media time.
    """

    index: int
    time_s: float
    image: np.ndarray
    faces: tuple[Face, ...]
    detector: str
    detect_ms: float
    classify_ms: float | None
    frame_ms: float
    wait_ms: float


def probabilities_of(
    image: np.ndarray, detections: Sequence[Detection], bundle: Bundle
) -> list[tuple[float, ...]]:
    """Calibrated ``probs [7]`` for each detection in ``image [H, W, 3] uint8 RGB``.

    Cropping and preparing are training's own, with the settings that the bundle carries. All faces
    go through the network in one call. ``FerError`` if its output is not finite.
    """
    if not detections:
        return []
    spec = bundle.card.preprocess
    prepared = [prepare(image, detection.box_xyxy_px, spec) for detection in detections]
    probs = bundle.probabilities(np.stack(prepared))  # [N, 7]
    if not np.isfinite(probs).all():
        raise FerError(
            "the network's output holds values that are not finite",
            where=bundle.folder,
            fix="export the bundle again",
        )
    return [tuple(float(value) for value in row) for row in probs]


def settings_for(card: Card) -> StabiliserSettings:
    """The default settings, with the abstention limit that was calibrated for this bundle."""
    return StabiliserSettings(unsure_below=card.unsure_below)
