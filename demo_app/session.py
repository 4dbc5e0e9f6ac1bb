"""A whole session: read frames; find, classify, track, stabilise and log faces.

This code runs without a window; a window is only a view on it, so both give the same results. A
replay is a session whose source is a recording.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from demo_app.detection import Detector
from demo_app.faces import FrameResult
from demo_app.kpis import timing
from demo_app.logs import SessionLog
from demo_app.parameters import Parameters
from demo_app.pipeline import Control, Pipeline
from demo_app.sources import Frame, Source, open_source
from fer_ml.base.errors import FerError
from fer_ml.base.processes import processor_name, processors
from fer_ml.bundles.bundle import Bundle

Ended = Literal["end", "max_frames", "stopped", "interrupted", "cut_short", "error"]


class View(Protocol):
    """Interface of a view: it shows frames during processing and lets a person change settings."""

    def draw(self, frame: FrameResult) -> None:
        """Show one frame; the duration is logged as the frame's ``draw_ms``."""
        ...

    def react(self, frame: FrameResult, control: Control) -> None:
        """Wait until the next frame is due, and apply what the person asked for."""
        ...


class SessionSummary(BaseModel):
    """Facts and speed of a session; ``demoresultssummary.csv`` holds the same.

    ``ended``: 'end' of the file, 'max_frames', 'stopped' by the view, 'interrupted' from the
    keyboard, 'cut_short' (a file with fewer frames than it states, or a lost camera), or 'error'.
    The times are None if there are too few frames after the warm-up.
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


def run_session(
    video: Path | int,
    bundle: Bundle,
    detector: Detector,
    out: Path,
    parameters: Parameters,
    *,
    max_frames: int | None = None,
    view: View | None = None,
    record: bool = False,
) -> SessionSummary:
    """Run the demo over a source of ``open_source`` and log it into ``out``.

    ``out`` is made if need be and must not hold a session yet; ``record`` keeps the raw frames too.
    A recorded session is replayed with its own parameters and manual labels. The log is complete
    however the run ends: an interrupt from the keyboard ends it like the end of a file, and an
    error is raised after the files are written. ``FerError`` when the source gives no frame or the
    log cannot be written.
    """
    if max_frames is not None and max_frames < 1:
        raise FerError(
            f"max_frames is {max_frames}",
            code="invalid-value",
            allowed="1 or more, or none for all frames",
        )
    with open_source(video, bundle) as source:
        log = SessionLog(out, bundle, detector.name, parameters, record=record)
        started = datetime.now(UTC)
        try:
            pipeline = Pipeline(bundle, detector)
            ended = _loop(source, pipeline, Control(parameters), log, max_frames, view)
        except KeyboardInterrupt:
            ended = "interrupted"
        except BaseException:
            # What broke the run may also keep these files from being written; it is told below.
            with suppress(FerError):
                log.finish(_summary_row(source, log, "error", started))
            raise
        log.finish(_summary_row(source, log, ended, started))
    return _summary(source, bundle, detector, log, ended)


def _loop(
    source: Source,
    pipeline: Pipeline,
    control: Control,
    log: SessionLog,
    max_frames: int | None,
    view: View | None,
) -> Ended:
    frames = _with_progress(source, max_frames)
    while True:
        asked = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            break
        capture_ms = 1e3 * (time.perf_counter() - asked)
        if frame.parameters is not None:
            control.parameters, control.manual_label = frame.parameters, frame.manual_label
        result = pipeline.process(frame, control, capture_ms)
        if view is not None:
            result = _drawn(result, view)
        log.write_frame(result)
        if view is not None:
            view.react(result, control)
            if control.stop:
                return "stopped"
    if max_frames is not None and log.frames == max_frames:
        return "max_frames"
    return "cut_short" if source.ended_early(log.frames) else "end"


def _drawn(result: FrameResult, view: View) -> FrameResult:
    start = time.perf_counter()
    view.draw(result)
    draw_ms = 1e3 * (time.perf_counter() - start)
    return replace(result, times_ms=replace(result.times_ms, draw=draw_ms))


def _with_progress(source: Source, max_frames: int | None) -> Iterator[Frame]:
    counts = [count for count in (source.frames_stated, max_frames) if count is not None]
    frames = islice(source.frames(), max_frames)
    return iter(tqdm(frames, total=min(counts, default=None), unit="frame", disable=None))


def _summary(
    source: Source, bundle: Bundle, detector: Detector, log: SessionLog, ended: Ended
) -> SessionSummary:
    measured = timing(log.frame_ms, log.capture_ms)
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


def _summary_row(source: Source, log: SessionLog, ended: str, started: datetime) -> dict[str, Any]:
    width, height = source.size_px
    return summary_row(
        log,
        started,
        input=source.name,
        ended=ended,
        frames_stated="" if source.frames_stated is None else source.frames_stated,
        video_fps="" if source.fps is None else f"{source.fps:.6g}",
        width_px=width,
        height_px=height,
    )


def summary_row(log: SessionLog, started: datetime, **about: object) -> dict[str, Any]:
    """Return the summary's columns from ``log``, the start time and ``about``."""
    measured = timing(log.frame_ms, log.capture_ms)
    names = ("frame_ms_p50", "frame_ms_p95", "processed_fps")
    return {
        "time": started.isoformat(timespec="seconds"),
        **about,
        **{k: "" if measured[k] is None else f"{measured[k]:.3f}" for k in names},
        "device": device_name(),
    }


def device_name() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    return f"{processor_name()}, {processors()} cores"
