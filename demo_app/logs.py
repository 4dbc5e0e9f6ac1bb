"""The files of a session: ``per_frame.csv``, ``events.csv``, the summary and the thresholds.

The first columns of each csv are those of the first demo, so that its readers still work; a column
that has lost its meaning stays empty. Times are in seconds, durations in ms, boxes in px. Raw
frames lie in ``frames/`` if recording was requested.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
from pydantic import ValidationError

from demo_app.faces import Face, FrameResult
from demo_app.parameters import Parameters
from demo_app.tables import finite, known_label, read_rows
from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder, write_json
from fer_ml.base.labels import CLASSES
from fer_ml.base.names import require_new
from fer_ml.base.reading import read_json, sha256_file
from fer_ml.bundles.bundle import Bundle

PER_FRAME_FILE = "per_frame.csv"
EVENTS_FILE = "events.csv"
SUMMARY_FILE = "demoresultssummary.csv"
THRESHOLDS_FILE = "thresholds.json"
FRAMES_FOLDER = "frames"

PROB_COLUMNS = tuple(f"prob_{name}" for name in CLASSES)
BOX_COLUMNS = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")
STAGE_COLUMNS = ("capture_ms", "detect_ms", "align_ms", "classify_ms", "smooth_ms", "draw_ms")
PER_FRAME_COLUMNS = (
    *("frame_index", "time_sec", "manual_label", "pred_label"),
    *PROB_COLUMNS,
    *("detector", "model", "ckpt"),
    *("raw_label", "smoothed_label", "state", "abstain", "face_found", "track_id"),
    *BOX_COLUMNS,
    *("score", "detector_looked"),
    *STAGE_COLUMNS,
    *("frame_ms", "temperature", "bundle_sha256", "parameters_sha256"),
)
EVENT_COLUMNS = (
    *("label", "start_frame", "end_frame", "start_time_sec", "end_time_sec", "source"),
    "track_id",
)
SUMMARY_COLUMNS = (
    *("time", "input", "detector", "ckpt", "model", "frames_logged", "events_logged"),
    *("ema_alpha", "hysteresis_delta", "vote_window", "vote_min_count"),
    *("ema_tau_s", "vote_s", "vote_share", "unsure_below", "gap_s", "detect_every"),
    *("temperature", "ended", "frames_stated", "video_fps", "width_px", "height_px"),
    *("frames_with_face", "faces_logged", "frame_ms_p50", "frame_ms_p95", "processed_fps"),
    *("model_sha256", "bundle_sha256", "parameters_changed", "frames_recorded", "device"),
)
HASH_DIGITS = 12


@dataclass
class Event:
    """A period with one label: 'stabilised' of one track, or 'manual' (whose track is -1).

    It starts and ends at frames of the track. A stabilised period ends with another label, with a
    state that is none, or with the track; a frame in which the face was missed does not end it.
    """

    label: str
    source: str
    track_id: int
    start_frame: int
    end_frame: int
    start_time_s: float
    end_time_s: float


class SessionLog:
    """Writes a session's log into a folder that holds no session yet.

    Each frame's rows are written completely or not at all, before the next frame is processed.
    """

    def __init__(
        self, out: Path, bundle: Bundle, detector: str, parameters: Parameters, *, record: bool
    ) -> None:
        self.out = out
        self.frames = self.faces = self.frames_with_face = self.recorded = 0
        self.frame_ms: list[float] = []
        self.capture_ms: list[float] = []
        self.events: list[Event] = []
        self.changes: list[dict[str, Any]] = []
        self._record = record
        self._parameters = self._first_parameters = parameters
        self._digest = parameters.digest()[:HASH_DIGITS]
        self._open_events: dict[tuple[str, int], Event] = {}
        card = bundle.card
        self._identity = {
            "model": card.name,
            "ckpt": card.checkpoint_sha256[:HASH_DIGITS],
            "temperature": f"{card.temperature:.6g}",
            "bundle_sha256": bundle.sha256[:HASH_DIGITS],
        }
        self._made_by = {
            "detector": detector,
            "model": card.name,
            "model_sha256": card.model_sha256,
            "bundle_sha256": bundle.sha256,
            "checkpoint_sha256": card.checkpoint_sha256,
            "temperature": card.temperature,
            "preprocess": card.model_dump(mode="json")["preprocess"],
            "preprocess_digest": card.preprocess.digest(),
        }
        with writing(require_new(out)):
            private_folder(out)
            if record:
                (out / FRAMES_FOLDER).mkdir(exist_ok=True)
            try:
                # Unbuffered: what a frame wrote is in the file, however the process ends.
                self._file = (out / PER_FRAME_FILE).open("xb", buffering=0)
            except FileExistsError as error:
                raise FerError(
                    "the folder already holds the log of a session",
                    code="output-exists",
                    where=out / PER_FRAME_FILE,
                    fix="name another folder",
                ) from error
        self._append(csv_text(PER_FRAME_COLUMNS, [], header=True))
        self._write_thresholds()

    def write_frame(self, frame: FrameResult, encoded: bytes | None = None) -> None:
        """Append the rows of one frame, and store its pixels if the session is recorded.

        ``encoded`` is the frame's own JPEG if a browser sent it.
        """
        if frame.parameters != self._parameters:
            self._parameters = frame.parameters
            self._digest = frame.parameters.digest()[:HASH_DIGITS]
            self.changes.append(
                {
                    "frame_index": frame.index,
                    "time_sec": frame.time_s,
                    "parameters_sha256": frame.parameters.digest(),
                    **frame.parameters.model_dump(),
                }
            )
            self._write_thresholds()
        if self._record:
            self._keep(frame, encoded)
        about = {**self._identity, "parameters_sha256": self._digest}
        self._append(csv_text(PER_FRAME_COLUMNS, frame_rows(frame, about)))
        self.frames += 1
        self.faces += len(frame.faces)
        self.frames_with_face += bool(frame.faces)
        self.frame_ms.append(frame.times_ms.frame)
        self.capture_ms.append(frame.times_ms.capture)
        for face in frame.faces:
            shown = face.state.label if face.state.status == "label" else None
            self._follow("stabilised", face.track_id, shown, frame)
        self._follow("manual", -1, frame.manual_label, frame)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write ``events.csv`` in order of time, and the single row of the summary."""
        self.events += self._open_events.values()
        self._open_events = {}
        self.events.sort(key=lambda event: (event.start_frame, event.source, event.track_id))
        row = {
            **self._first_parameters.model_dump(),
            **{name: self._made_by[name] for name in ("detector", "model", "model_sha256")},
            "ckpt": self._identity["ckpt"],
            "temperature": self._identity["temperature"],
            "bundle_sha256": self._made_by["bundle_sha256"],
            "frames_logged": self.frames,
            "events_logged": len(self.events),
            "frames_with_face": self.frames_with_face,
            "faces_logged": self.faces,
            "parameters_changed": len(self.changes),
            "frames_recorded": self.recorded,
            **summary,
        }
        with writing(self.out):
            self._file.close()
            events = csv_text(EVENT_COLUMNS, [_event_row(e) for e in self.events], header=True)
            (self.out / EVENTS_FILE).write_bytes(events)
            text = csv_text(SUMMARY_COLUMNS, [row], header=True)
            (self.out / SUMMARY_FILE).write_bytes(text)

    def _append(self, data: bytes) -> None:
        at = self._file.tell()
        try:
            if self._file.write(data) != len(data):
                raise OSError(28, "No space left on device")
        except OSError:
            with writing(self.out / PER_FRAME_FILE):
                # Half a frame's rows would be a torn line: the log ends with the frame before.
                os.ftruncate(self._file.fileno(), at)
                raise

    def _keep(self, frame: FrameResult, encoded: bytes | None) -> None:
        path = self.out / FRAMES_FOLDER / f"{frame.index:06d}.{'jpg' if encoded else 'png'}"
        if encoded is None:
            bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        with writing(path):
            path.write_bytes(encoded)
        self.recorded += 1

    def _write_thresholds(self) -> None:
        values = {
            "schema_version": 2,
            **self._first_parameters.model_dump(),
            "parameters_sha256": self._first_parameters.digest(),
            **self._made_by,
            "changes": self.changes,
        }
        with writing(self.out / THRESHOLDS_FILE):
            write_json(self.out / THRESHOLDS_FILE, values)

    def _follow(self, source: str, track_id: int, label: str | None, frame: FrameResult) -> None:
        key = (source, track_id)
        event = self._open_events.get(key)
        if event is not None and event.label == label:
            event.end_frame, event.end_time_s = frame.index, frame.time_s
            return
        if event is not None:
            self.events.append(self._open_events.pop(key))
        if label is not None:
            self._open_events[key] = Event(
                label, source, track_id, frame.index, frame.index, frame.time_s, frame.time_s
            )


@dataclass(frozen=True)
class RecordedFrame:
    """One recorded frame: its file, index and time, and the settings when it was recorded."""

    file: Path
    index: int
    time_s: float
    parameters: Parameters
    manual_label: str | None


def recorded_frames(folder: Path) -> list[RecordedFrame]:
    """Return the frames of a recorded session, one for each frame of its log.

    Raises ``FerError`` if the session was not recorded, a frame is missing, or its files disagree.
    """
    files = {path.stem: path for path in (folder / FRAMES_FOLDER).glob("*.*")}
    if not files:
        raise FerError(
            "the session was logged without its frames",
            code="session-not-recorded",
            where=folder / FRAMES_FOLDER,
            fix="record a session with 'fer demo camera --record', or in the browser",
        )
    used = read_thresholds(folder)["used"]
    parameters = {entry.digest()[:HASH_DIGITS]: entry for entry in used}
    by_index: dict[int, RecordedFrame] = {}
    for row in read_rows(folder / PER_FRAME_FILE, "frame"):
        index = row.value("frame_index", int)
        label = row.value("manual_label", lambda text: known_label(text) if text else None)
        if index in by_index:
            if label and not by_index[index].manual_label:
                by_index[index] = replace(by_index[index], manual_label=label)
            continue
        file = files.get(f"{index:06d}")
        if file is None:
            raise FerError(
                f"the picture of the logged frame {index} is missing",
                code="missing-frame",
                where=folder / FRAMES_FOLDER,
                fix="restore the file: a replay needs every frame",
            )
        now = parameters.get(row.value("parameters_sha256", str))
        if now is None:
            raise FerError(
                f"{THRESHOLDS_FILE} lacks the parameters of frame {index}",
                code="unknown-parameters",
                where=folder / THRESHOLDS_FILE,
                fix="restore the file as the session wrote it",
            )
        by_index[index] = RecordedFrame(file, index, row.value("time_sec", finite), now, label)
    return list(by_index.values())


def session_id(folder: Path) -> str:
    """Return 16 hex digits that identify the recording: a hash of its frames.

    Relabelling a session does not change it.
    """
    digest = hashlib.sha256()
    for path in sorted((folder / FRAMES_FOLDER).glob("*.*")):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def read_thresholds(folder: Path) -> dict[str, Any]:
    """Read ``thresholds.json`` of a session; ``used`` lists its parameters in order of use."""
    path = folder / THRESHOLDS_FILE
    try:
        document = read_json(path)
        names = Parameters.model_fields
        used = [
            Parameters.model_validate({name: entry[name] for name in names})
            for entry in (document, *document["changes"])
        ]
        return {**document, "bundle_sha256": str(document["bundle_sha256"]), "used": used}
    except OSError as error:
        raise FerError(
            f"the folder has no readable {THRESHOLDS_FILE}: {error.strerror}",
            code="missing-session",
            where=path,
            fix="name the folder of a session",
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise FerError(
            f"{THRESHOLDS_FILE} is not as a session writes it",
            code="invalid-thresholds",
            where=path,
            fix="restore the file as the session wrote it",
        ) from error


def frame_rows(frame: FrameResult, about: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each face, or one row for a frame without faces; all contain ``about``."""
    times = frame.times_ms
    stages = (times.capture, times.detect, times.align, times.classify, times.smooth, times.draw)
    common = {
        **about,
        "frame_index": frame.index,
        "time_sec": f"{frame.time_s:.6f}",
        "detector": frame.detector,
        "detector_looked": int(frame.looked),
        **{
            name: "" if value is None else f"{value:.3f}"
            for name, value in zip(STAGE_COLUMNS, stages, strict=True)
        },
        "frame_ms": f"{times.frame:.3f}",
    }
    manual = {"manual_label": frame.manual_label or ""}
    if not frame.faces:
        return [{**common, **manual, "state": "no_face", "abstain": "", "face_found": 0}]
    main = frame.main
    return [
        {**common, **(manual if face is main else {}), **_face_values(face)} for face in frame.faces
    ]


def csv_text(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], *, header: bool = False
) -> bytes:
    """Return the ``columns`` of ``rows`` as UTF-8 csv; missing values stay empty."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return buffer.getvalue().encode()


class LogError(FerError):
    """The log cannot be written; everything written so far is complete."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``LogError`` that names the file that could not be written."""
    try:
        yield
    except OSError as error:
        raise LogError(
            f"the log cannot be written: {error.strerror}",
            code="log-not-written",
            where=path,
            fix="free some space, or name a folder that can be written to",
        ) from error


def _face_values(face: Face) -> dict[str, Any]:
    sure = face.state.status == "label"
    return {
        "pred_label": face.state.label if sure else "",
        **dict(zip(PROB_COLUMNS, (f"{value:.6f}" for value in face.probs), strict=True)),
        "raw_label": face.raw_label,
        "smoothed_label": face.state.label,
        "state": face.state.status,
        "abstain": int(not sure),
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
        "start_time_sec": f"{event.start_time_s:.6f}",
        "end_time_sec": f"{event.end_time_s:.6f}",
        "source": event.source,
        "track_id": "" if event.source == "manual" else event.track_id,
    }
