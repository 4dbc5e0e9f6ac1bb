"""A whole session: frames in, faces found, classified, tracked, stabilised, logged.

Headless; the window is a callback on top of it, so that both do the same.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from demo_app.detection import Detection, Detector
from demo_app.faces import Face, FrameResult, probabilities_of
from demo_app.kpis import timing
from demo_app.logs import SessionLog
from demo_app.stabilisation import START, StabiliserSettings, StabiliserState, step
from demo_app.tracking import Tracks, match_tracks
from demo_app.video import Frame, Video
from fer_ml.bundle import Bundle
from fer_ml.errors import FerError

Ended = Literal["end", "max_frames", "stopped", "interrupted", "cut_short", "error"]

#: Called with each processed frame; returning False ends the session.
OnFrame = Callable[[FrameResult], bool]


class SessionSummary(BaseModel):
    """What a session was and how fast it ran; ``demoresultssummary.csv`` holds the same.

    ``ended``: 'end' of the file, 'max_frames', 'stopped' by the caller, 'interrupted' from the
    keyboard, 'cut_short' (a file with fewer frames than it states, or a camera that went away), or
    'error'. The times are None for a session no longer than the warm-up.
    """

    model_config = ConfigDict(frozen=True)

    out: Path
    input: str
    detector: str
    model: str
    ended: Ended
    frames: int
    frames_stated: int | None
    frames_with_face: int
    faces: int
    events: int
    frame_ms_p50: float | None
    frame_ms_p95: float | None
    processed_fps: float | None


class Pipeline:
    """Detection to stabilised labels, with the running state of every track."""

    def __init__(self, bundle: Bundle, detector: Detector, settings: StabiliserSettings) -> None:
        self.bundle = bundle
        self.detector = detector
        self.settings = settings
        self._tracks = Tracks()
        self._states: dict[int, StabiliserState] = {}

    def process(self, frame: Frame, frame_s: float | None) -> FrameResult:
        """Faces of one frame; ``frame_s`` is the media time of a frame, None for a camera."""
        start = time.perf_counter()
        detections = self.detector.detect(frame.image)
        detected = time.perf_counter()
        probs = probabilities_of(frame.image, detections, self.bundle)
        classified = time.perf_counter()
        faces = self._follow(detections, probs, frame.time_s)
        frame_ms = 1e3 * (time.perf_counter() - start)
        return FrameResult(
            index=frame.index,
            time_s=frame.time_s,
            image=frame.image,
            faces=faces,
            detector=self.detector.name,
            detect_ms=1e3 * (detected - start),
            classify_ms=1e3 * (classified - detected) if detections else None,
            frame_ms=frame_ms,
            wait_ms=max(0.0, 1e3 * frame_s - frame_ms) if frame_s else 0.0,
        )

    def _follow(
        self, detections: list[Detection], probs: list[tuple[float, ...]], time_s: float
    ) -> tuple[Face, ...]:
        self._tracks, ids = match_tracks(
            self._tracks, detections, time_s, lost_after_s=self.settings.gap_s
        )
        seen = dict(zip(ids, probs, strict=True))
        # Only tracks that are alive keep a state; a new id always begins at START.
        self._states = {
            track.track_id: step(
                self._states.get(track.track_id, START),
                seen.get(track.track_id),
                time_s,
                self.settings,
            )
            for track in self._tracks.alive
        }
        return tuple(
            Face(track_id, found.box_xyxy_px, found.score, seen[track_id], self._states[track_id])
            for track_id, found in zip(ids, detections, strict=True)
        )


def run_session(
    video: Path | int,
    bundle: Bundle,
    detector: Detector,
    out: Path,
    settings: StabiliserSettings,
    *,
    max_frames: int | None = None,
    on_frame: OnFrame | None = None,
) -> SessionSummary:
    """Run the demo over a video file, an animated GIF or a camera index, and log it into ``out``.

    ``out`` is made if need be and must not hold a session yet. The log is complete however the run
    ends: an interrupt from the keyboard ends it like the end of a file, and an error is raised
    after the files are written. ``FerError`` when the source gives no frame or the log cannot be
    written.
    """
    if max_frames is not None and max_frames < 1:
        raise FerError(f"max_frames is {max_frames}", allowed="1 or more, or none for all frames")
    card = bundle.card
    with Video(video) as source:
        log = SessionLog(
            out, model=card.name, ckpt=card.checkpoint_sha256[:12], temperature=card.temperature
        )
        started = datetime.now(UTC)
        ended: Ended = "error"
        try:
            log.write_thresholds(_thresholds(bundle, detector, settings))
            pipeline = Pipeline(bundle, detector, settings)
            ended = _loop(source, pipeline, log, max_frames, on_frame)
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            log.close()
            summary = _summary(source, bundle, detector, log, ended)
            log.write_summary(_summary_row(summary, source, bundle, settings, started))
    return summary


def _loop(
    source: Video,
    pipeline: Pipeline,
    log: SessionLog,
    max_frames: int | None,
    on_frame: OnFrame | None,
) -> Ended:
    frame_s = 1 / source.fps if source.fps else None
    for frame in _with_progress(source, max_frames):
        result = pipeline.process(frame, frame_s)
        log.write_frame(result)
        if on_frame is not None and not on_frame(result):
            return "stopped"
    if max_frames is not None and log.frames == max_frames:
        return "max_frames"
    return "cut_short" if source.ended_early(log.frames) else "end"


def _with_progress(source: Video, max_frames: int | None) -> Iterator[Frame]:
    counts = [count for count in (source.frames_stated, max_frames) if count is not None]
    frames = islice(source.frames(), max_frames)
    return iter(tqdm(frames, total=min(counts, default=None), unit="frame", disable=None))


def _thresholds(
    bundle: Bundle, detector: Detector, settings: StabiliserSettings
) -> dict[str, object]:
    card = bundle.card
    return {
        **settings.model_dump(),
        "detector": detector.name,
        "model": card.name,
        "model_sha256": card.model_sha256,
        "checkpoint_sha256": card.checkpoint_sha256,
        "temperature": card.temperature,
        "preprocess": card.preprocess.plain(),
        "preprocess_digest": card.preprocess.digest(),
    }


def _summary(
    source: Video, bundle: Bundle, detector: Detector, log: SessionLog, ended: Ended
) -> SessionSummary:
    measured = timing(log.frame_ms)
    return SessionSummary(
        out=log.out,
        input=source.name,
        detector=detector.name,
        model=bundle.card.name,
        ended=ended,
        frames=log.frames,
        frames_stated=source.frames_stated,
        frames_with_face=log.frames_with_face,
        faces=log.faces,
        events=len(log.events),
        frame_ms_p50=measured["frame_ms_p50"],
        frame_ms_p95=measured["frame_ms_p95"],
        processed_fps=measured["processed_fps"],
    )


def _summary_row(
    summary: SessionSummary,
    source: Video,
    bundle: Bundle,
    settings: StabiliserSettings,
    started: datetime,
) -> dict[str, object]:
    width, height = source.size_px
    measured = ("frame_ms_p50", "frame_ms_p95", "processed_fps")
    values = {name: getattr(summary, name) for name in measured}
    return {
        "time": started.isoformat(timespec="seconds"),
        "input": summary.input,
        "detector": summary.detector,
        "ckpt": bundle.card.checkpoint_sha256[:12],
        "model": summary.model,
        "frames_logged": summary.frames,
        "events_logged": summary.events,
        **settings.model_dump(),
        "temperature": f"{bundle.card.temperature:.6g}",
        "ended": summary.ended,
        "frames_stated": "" if summary.frames_stated is None else summary.frames_stated,
        "video_fps": "" if source.fps is None else f"{source.fps:.6g}",
        "width_px": width,
        "height_px": height,
        "frames_with_face": summary.frames_with_face,
        "faces_logged": summary.faces,
        **{name: "" if value is None else f"{value:.3f}" for name, value in values.items()},
        "model_sha256": bundle.card.model_sha256,
        "device": device_name(),
    }


def device_name() -> str:
    """The processor that a measured time belongs to, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"{name}, {cores} cores"
