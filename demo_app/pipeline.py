"""From a frame to stabilised labels; keeps the state of every track."""

import time
from dataclasses import dataclass

from demo_app.detection import Detection, Detector
from demo_app.faces import Face, FrameResult, StageTimes, classify, doubts, prepare_faces
from demo_app.parameters import TURNS, Parameters, turned
from demo_app.sources import Frame
from demo_app.stabilisation import START, Doubt, StabiliserState, step
from demo_app.tracking import Tracks, coast, match_tracks
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import Bundle


@dataclass
class Control:
    """Settings that a person changes while the demo runs: parameters, manual label, and stop.

    ``manual_label`` is one of ``CLASSES`` and holds until it is changed; None means no label.
    """

    parameters: Parameters
    manual_label: str | None = None
    stop: bool = False


def press(key: str, control: Control) -> None:
    """Apply one key: a label, no label, a parameter, or stop. Other keys do nothing."""
    if key == "q":
        control.stop = True
    elif key == "c":
        control.manual_label = None
    elif key in TURNS:
        control.parameters = turned(control.parameters, key)
    elif key.isdecimal() and 1 <= int(key) <= len(CLASSES):
        control.manual_label = CLASSES[int(key) - 1]


class Pipeline:
    """From detection to stabilised labels. Each stream needs its own: it holds the tracks."""

    def __init__(self, bundle: Bundle, detector: Detector) -> None:
        self.bundle = bundle
        self.detector = detector
        self._frames = 0
        self._tracks = Tracks()
        self._states: dict[int, StabiliserState] = {}

    def process(self, frame: Frame, control: Control, capture_ms: float = 0.0) -> FrameResult:
        """Process one frame and return its faces. Times must not decrease from frame to frame."""
        parameters = control.parameters
        start = time.perf_counter()
        looked = self._frames % parameters.detect_every == 0
        self._frames += 1
        detections, ids = self._locate(frame, parameters, looked)
        located = time.perf_counter()
        probs: list[tuple[float, ...]] = []
        held: list[Doubt | None] = []
        aligned = located
        if detections:
            faces = prepare_faces(frame.image, detections, self.bundle, self.detector.name)
            aligned = time.perf_counter()
            probs, familiar = classify(faces, self.bundle)
            held = doubts(detections, familiar, self.bundle, self.detector.name)
        classified = time.perf_counter()
        seen = dict(zip(ids, zip(probs, held, strict=True), strict=True))
        self._follow(seen, frame.time_s, parameters)
        shown = tuple(
            Face(track_id, face.box_xyxy_px, face.score, values, self._states[track_id])
            for track_id, face, values in zip(ids, detections, probs, strict=True)
        )
        smoothed = time.perf_counter()
        times = StageTimes(
            capture=capture_ms,
            detect=1e3 * (located - start),
            align=1e3 * (aligned - located) if detections else None,
            classify=1e3 * (classified - aligned) if detections else None,
            smooth=1e3 * (smoothed - classified),
        )
        return FrameResult(
            index=frame.index,
            time_s=frame.time_s,
            image=frame.image,
            faces=shown,
            detector=self.detector.name,
            looked=looked,
            parameters=parameters,
            times_ms=times,
            manual_label=control.manual_label,
        )

    def _locate(
        self, frame: Frame, parameters: Parameters, look: bool
    ) -> tuple[list[Detection], list[int]]:
        size_px = (frame.image.shape[1], frame.image.shape[0])
        if not look:
            self._tracks, detections, ids = coast(
                self._tracks, frame.time_s, size_px, lost_after_s=parameters.gap_s
            )
            return detections, ids
        detections = self.detector.detect(frame.image)
        self._tracks, ids = match_tracks(
            self._tracks, detections, frame.time_s, size_px, lost_after_s=parameters.gap_s
        )
        return detections, ids

    def _follow(
        self,
        seen: dict[int, tuple[tuple[float, ...], Doubt | None]],
        time_s: float,
        parameters: Parameters,
    ) -> None:
        # Only tracks that are alive keep a state; a new id always begins at START.
        self._states = {
            track.track_id: step(
                self._states.get(track.track_id, START),
                probs,
                time_s,
                parameters,
                doubt,
            )
            for track in self._tracks.alive
            for probs, doubt in (seen.get(track.track_id, (None, None)),)
        }
