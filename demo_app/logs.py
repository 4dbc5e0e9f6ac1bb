"""The files of a session: ``per_frame.csv``, ``events.csv``, the summary and the thresholds.

The first columns of each csv are those of the first demo, so that its readers still work; a column
that has lost its meaning stays empty. Times are in seconds, durations in ms, boxes in px.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo_app.faces import Face, FrameResult
from fer_ml.errors import FerError
from fer_ml.labels import CLASSES

PER_FRAME_FILE = "per_frame.csv"
EVENTS_FILE = "events.csv"
SUMMARY_FILE = "demoresultssummary.csv"
THRESHOLDS_FILE = "thresholds.json"

PROB_COLUMNS = tuple(f"prob_{name}" for name in CLASSES)
BOX_COLUMNS = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")
PER_FRAME_COLUMNS = (
    *("frame_index", "time_sec", "manual_label", "pred_label"),
    *PROB_COLUMNS,
    *("detector", "model", "ckpt"),
    *("raw_label", "state", "face_found", "track_id"),
    *BOX_COLUMNS,
    *("score", "detect_ms", "classify_ms", "frame_ms", "temperature"),
)
EVENT_COLUMNS = (
    *("label", "start_frame", "end_frame", "start_time_sec", "end_time_sec", "source"),
    "track_id",
)
SUMMARY_COLUMNS = (
    *("time", "input", "detector", "ckpt", "model", "frames_logged", "events_logged"),
    *("ema_alpha", "hysteresis_delta", "vote_window", "vote_min_count"),
    *("ema_tau_s", "hold_s", "unsure_below", "gap_s", "temperature"),
    *("ended", "frames_stated", "video_fps", "width_px", "height_px", "frames_with_face"),
    *("faces_logged", "frame_ms_p50", "frame_ms_p95", "processed_fps", "model_sha256", "device"),
)
FLUSH_EVERY_FRAMES = 30


@dataclass(frozen=True)
class Event:
    """A stretch in which one track showed one stabilised label; its ends are frames of the track.

    A stretch ends with another label, with 'unsure', or with the track; a frame in which the
    detector missed the face does not end it.
    """

    label: str
    track_id: int
    start_frame: int
    end_frame: int
    start_time_s: float
    end_time_s: float


class SessionLog:
    """Writes a session into a folder that holds none yet; ``per_frame.csv`` grows as it runs."""

    def __init__(self, out: Path, *, model: str, ckpt: str, temperature: float) -> None:
        self.out = out
        self.frames = self.faces = self.frames_with_face = 0
        self.frame_ms: list[float] = []
        self.events: list[Event] = []
        self._open_events: dict[int, Event] = {}
        self._identity = {"model": model, "ckpt": ckpt, "temperature": f"{temperature:.6g}"}
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                self._file = (out / PER_FRAME_FILE).open("x", encoding="utf-8", newline="")
            except FileExistsError as error:
                raise FerError(
                    "the folder holds the log of another session",
                    where=out / PER_FRAME_FILE,
                    fix="name another folder",
                ) from error
            self._writer = csv.DictWriter(self._file, PER_FRAME_COLUMNS, restval="")
            self._writer.writeheader()

    def write_thresholds(self, values: dict[str, Any]) -> None:
        """Write ``thresholds.json`` before the first frame: a run's settings never change."""
        with _writing(self.out / THRESHOLDS_FILE):
            text = json.dumps(values, indent=2, sort_keys=True) + "\n"
            (self.out / THRESHOLDS_FILE).write_text(text, encoding="utf-8")

    def write_frame(self, frame: FrameResult) -> None:
        """Append the rows of one frame; to disk every ``FLUSH_EVERY_FRAMES`` frames."""
        with _writing(self.out / PER_FRAME_FILE):
            self._writer.writerows(_rows(frame, self._identity))
            if frame.index % FLUSH_EVERY_FRAMES == 0:
                self._file.flush()
        self.frames += 1
        self.faces += len(frame.faces)
        self.frames_with_face += bool(frame.faces)
        self.frame_ms.append(frame.frame_ms)
        for face in frame.faces:
            self._follow(face, frame)

    def close(self) -> None:
        """Write the rest of ``per_frame.csv``, and ``events.csv`` in order of time."""
        with _writing(self.out / PER_FRAME_FILE):
            self._file.close()
        self.events += self._open_events.values()
        self._open_events = {}
        self.events.sort(key=lambda event: (event.start_frame, event.track_id))
        _write_csv(self.out / EVENTS_FILE, EVENT_COLUMNS, [_event_row(e) for e in self.events])

    def write_summary(self, row: dict[str, Any]) -> None:
        """Write the one row of ``demoresultssummary.csv``; missing columns stay empty."""
        _write_csv(self.out / SUMMARY_FILE, SUMMARY_COLUMNS, [row])

    def _follow(self, face: Face, frame: FrameResult) -> None:
        event = self._open_events.get(face.track_id)
        shown = face.state.label if face.state.status == "label" else None
        if event is not None and event.label == shown:
            self._open_events[face.track_id] = replace(
                event, end_frame=frame.index, end_time_s=frame.time_s
            )
            return
        if event is not None:
            self.events.append(self._open_events.pop(face.track_id))
        if shown is not None:
            self._open_events[face.track_id] = Event(
                shown, face.track_id, frame.index, frame.index, frame.time_s, frame.time_s
            )


def _rows(frame: FrameResult, identity: dict[str, str]) -> list[dict[str, Any]]:
    """A row for each face, or the one row of a frame without a face."""
    common = {
        **identity,
        "frame_index": frame.index,
        "time_sec": f"{frame.time_s:.4f}",
        "detector": frame.detector,
        "detect_ms": f"{frame.detect_ms:.3f}",
        "classify_ms": "" if frame.classify_ms is None else f"{frame.classify_ms:.3f}",
        "frame_ms": f"{frame.frame_ms:.3f}",
    }
    if not frame.faces:
        return [{**common, "state": "no_face", "face_found": 0}]
    return [{**common, **_face_values(face)} for face in frame.faces]


def _face_values(face: Face) -> dict[str, Any]:
    return {
        "pred_label": face.state.label if face.state.status == "label" else "",
        **dict(zip(PROB_COLUMNS, (f"{value:.6f}" for value in face.probs), strict=True)),
        "raw_label": face.raw_label,
        "state": face.state.status,
        "face_found": 1,
        "track_id": face.track_id,
        **dict(zip(BOX_COLUMNS, face.box_xyxy_px, strict=True)),
        "score": f"{face.score:.4f}",
    }


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "label": event.label,
        "start_frame": event.start_frame,
        "end_frame": event.end_frame,
        "start_time_sec": f"{event.start_time_s:.4f}",
        "end_time_sec": f"{event.end_time_s:.4f}",
        "source": "stabilised",
        "track_id": event.track_id,
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with _writing(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FerError(
            f"the log cannot be written: {error.strerror}",
            where=path,
            fix="free some space, or name a folder that can be written to",
        ) from error
