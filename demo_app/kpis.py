"""Key figures of a session, from its ``per_frame.csv`` alone, so that anyone can redo them.

Rates and percentiles of time leave out the first ``WARM_UP_FRAMES`` frames, in which libraries
still allocate. Every accuracy has one denominator: the true faces that were found.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from demo_app.logs import BOX_COLUMNS
from demo_app.tracking import greedy_pairs
from fer_ml.errors import FerError
from fer_ml.images import Box
from fer_ml.labels import CLASSES

WARM_UP_FRAMES = 5
MATCH_IOU = 0.3

T = TypeVar("T")


@dataclass(frozen=True)
class LoggedFace:
    """A face row of ``per_frame.csv``; ``shown`` is the stabilised label, None while unsure."""

    frame: int
    time_s: float
    track_id: int
    box_xyxy_px: Box
    raw: str
    shown: str | None


@dataclass(frozen=True)
class TrueFace:
    """A row of the truth: a person's label and box in one frame."""

    frame: int
    face_id: str
    box_xyxy_px: Box
    label: str


@dataclass(frozen=True)
class _Frame:
    frame: int
    detect_ms: float
    classify_ms: float | None
    frame_ms: float


def compute_kpis(per_frame_csv: Path, truth_csv: Path | None) -> dict[str, Any]:
    """Key figures as plain values, ready for JSON; None where the log cannot tell.

    Shares and accuracies are in 0..1, times in ms. Without a truth the keys that need one are
    absent. ``FerError`` names the column of a csv that cannot be used.
    """
    frames, faces = read_per_frame(per_frame_csv)
    unsure = sum(face.shown is None for face in faces)
    found_in = {face.frame for face in faces}
    kpis: dict[str, Any] = {
        "frames": len(frames),
        "faces": len(faces),
        "tracks": len({face.track_id for face in faces}),
        "face_found_rate": len(found_in) / len(frames),
        "warm_up_frames": WARM_UP_FRAMES,
        **timing([frame.frame_ms for frame in frames]),
        "detect_ms_p50": _p50([frame.detect_ms for frame in frames[WARM_UP_FRAMES:]]),
        "classify_ms_p50": _p50(
            [f.classify_ms for f in frames[WARM_UP_FRAMES:] if f.classify_ms is not None]
        ),
        **flips(faces),
        "unsure_share": unsure / len(faces) if faces else None,
    }
    if truth_csv is not None:
        truth = read_truth(truth_csv)
        kpis |= score(faces, truth, {frame.frame for frame in frames}, where=truth_csv)
    return kpis


def timing(frame_ms: Sequence[float]) -> dict[str, Any]:
    """Frame rate and percentiles of ``frame_ms``, in the order of the frames, after the warm-up.

    ``processed_fps`` is frames divided by the sum of their times, never a mean of rates.
    """
    timed = list(frame_ms[WARM_UP_FRAMES:])
    if not timed:
        return {
            "frames_timed": 0,
            "processed_fps": None,
            "frame_ms_p50": None,
            "frame_ms_p95": None,
        }
    return {
        "frames_timed": len(timed),
        "processed_fps": 1e3 * len(timed) / sum(timed) if sum(timed) else None,
        "frame_ms_p50": float(np.percentile(timed, 50)),
        "frame_ms_p95": float(np.percentile(timed, 95)),
    }


def flips(faces: Sequence[LoggedFace]) -> dict[str, Any]:
    """Changes between successive distinct labels of a track, and their rate by track-time.

    'unsure' is no label: A, unsure, A is no change and A, unsure, B is one. Track-time is the time
    between neighbouring frames that both hold the track, so time without the face does not count.
    """
    tracks: dict[int, list[LoggedFace]] = defaultdict(list)
    for face in faces:
        tracks[face.track_id].append(face)
    seconds = sum(
        after.time_s - before.time_s
        for track in tracks.values()
        for before, after in pairwise(track)
        if after.frame == before.frame + 1
    )
    raw = sum(_changes(face.raw for face in track) for track in tracks.values())
    shown = sum(
        _changes(face.shown for face in track if face.shown is not None)
        for track in tracks.values()
    )
    return {
        "track_seconds": seconds,
        "flips_raw": raw,
        "flips_stabilised": shown,
        "flips_per_minute_raw": 60 * raw / seconds if seconds else None,
        "flips_per_minute_stabilised": 60 * shown / seconds if seconds else None,
    }


def score(
    faces: Sequence[LoggedFace], truth: Sequence[TrueFace], logged: set[int], *, where: Path
) -> dict[str, Any]:
    """Recall and accuracy against the truth of the ``logged`` frames.

    True and logged faces are paired in each frame by IoU, one to one, the best first. The one
    denominator is ``truth_found``: true faces with a pair. Unsure counts as wrong.
    ``faces_without_truth`` are false detections if the truth lists every face of those frames.
    """
    relevant = [face for face in truth if face.frame in logged]
    if not relevant:
        raise FerError("no true face lies in a logged frame", where=f"{where}, frame_index")
    pairs = _pair(relevant, faces)
    labels = [true.label for true, _ in pairs]
    raw = [face.raw for _, face in pairs]
    shown = [face.shown for _, face in pairs]
    support = Counter(labels)
    return {
        "truth_faces": len(relevant),
        "truth_faces_outside_log": len(truth) - len(relevant),
        "truth_found": len(pairs),
        "faces_without_truth": len(faces) - len(pairs),
        "truth_unsure": sum(label is None for label in shown),
        "detection_recall": len(pairs) / len(relevant),
        "accuracy_raw": accuracy(labels, raw),
        "accuracy_stabilised": accuracy(labels, shown),
        "macro_f1_present_raw": macro_f1_present(labels, raw),
        "macro_f1_present_stabilised": macro_f1_present(labels, shown),
        "support": {name: support[name] for name in CLASSES},
    }


def accuracy(labels: Sequence[str], predicted: Sequence[str | None]) -> float | None:
    """Share of equal pairs, 0..1; None stands for unsure and is wrong. None without any label."""
    if not labels:
        return None
    return sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)


def macro_f1_present(labels: Sequence[str], predicted: Sequence[str | None]) -> float | None:
    """Mean F1 of the classes that ``labels`` holds. Unsure (None) is a miss and no false alarm."""
    present = sorted(set(labels))
    if not present:
        return None
    pairs = list(zip(labels, predicted, strict=True))
    scores = []
    for name in present:
        hits = sum(label == name and answer == name for label, answer in pairs)
        said = sum(answer == name for _, answer in pairs)
        scores.append(2 * hits / (said + labels.count(name)))
    return sum(scores) / len(scores)


def read_per_frame(path: Path) -> tuple[list[_Frame], list[LoggedFace]]:
    """The frames and the faces of a ``per_frame.csv``, both in the order of the file."""
    frames: dict[int, _Frame] = {}
    faces = []
    for row in _rows(path, "frame"):
        index = row.value("frame_index", int)
        frames.setdefault(index, _frame(index, row))
        if row.value("face_found", _flag):
            faces.append(_logged_face(index, row))
    return list(frames.values()), faces


def read_truth(path: Path) -> list[TrueFace]:
    """True faces: ``frame_index, face_id, label`` and the box, right and bottom exclusive."""
    return [
        TrueFace(
            row.value("frame_index", int),
            row.value("face_id", str),
            _box(row),
            row.value("label", _label),
        )
        for row in _rows(path, "true face")
    ]


@dataclass(frozen=True)
class _Row:
    """A row of a csv that knows its place, so that an error can name it."""

    values: dict[str, str | None]
    path: Path
    line: int

    def value(self, column: str, convert: Callable[[str], T]) -> T:
        where = f"{self.path}, line {self.line}, column {column}"
        if column not in self.values:
            raise FerError(f"there is no column {column}", where=self.path)
        text = self.values[column]
        if text is None:
            raise FerError(f"the row ends before column {column}", where=where)
        try:
            return convert(text)
        except ValueError as error:
            raise FerError(f"column {column} holds {text!r}: {error}", where=where) from error


def _rows(path: Path, meaning: str) -> list[_Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [_Row(values, path, reader.line_num) for values in reader]
    except OSError as error:
        raise FerError(f"the csv cannot be read: {error.strerror}", where=path) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FerError(f"the csv cannot be read: {error}", where=path) from error
    if not rows:
        raise FerError(f"the csv holds no {meaning}", where=f"{path}, column frame_index")
    return rows


def _frame(index: int, row: _Row) -> _Frame:
    return _Frame(
        index,
        row.value("detect_ms", _milliseconds),
        row.value("classify_ms", lambda text: _milliseconds(text) if text else None),
        row.value("frame_ms", _milliseconds),
    )


def _logged_face(index: int, row: _Row) -> LoggedFace:
    sure = row.value("state", _face_state) == "label"
    return LoggedFace(
        index,
        row.value("time_sec", _finite),
        row.value("track_id", int),
        _box(row),
        row.value("raw_label", _label),
        row.value("pred_label", _label) if sure else None,
    )


def _box(row: _Row) -> Box:
    left, top, right, bottom = (row.value(column, int) for column in BOX_COLUMNS)
    if left >= right or top >= bottom:
        raise FerError(
            f"box {(left, top, right, bottom)} is empty",
            where=f"{row.path}, line {row.line}, columns {', '.join(BOX_COLUMNS)}",
        )
    return left, top, right, bottom


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _milliseconds(text: str) -> float:
    value = _finite(text)
    if value < 0:
        raise ValueError("a duration is 0 or more")
    return value


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("allowed are 0 and 1")
    return text == "1"


def _label(text: str) -> str:
    if text not in CLASSES:
        raise ValueError(f"allowed are {', '.join(CLASSES)}")
    return text


def _face_state(text: str) -> str:
    if text not in ("label", "unsure"):
        raise ValueError("a row with a face is 'label' or 'unsure'")
    return text


def _pair(
    truth: Iterable[TrueFace], faces: Iterable[LoggedFace]
) -> list[tuple[TrueFace, LoggedFace]]:
    logged: dict[int, list[LoggedFace]] = defaultdict(list)
    for face in faces:
        logged[face.frame].append(face)
    pairs = []
    for index, group in groupby(sorted(truth, key=lambda t: t.frame), key=lambda t: t.frame):
        true, found = list(group), logged[index]
        matched = greedy_pairs(
            [t.box_xyxy_px for t in true], [f.box_xyxy_px for f in found], MATCH_IOU
        )
        pairs += [(true[i], found[j]) for i, j in matched.items()]
    return pairs


def _changes(labels: Iterable[str]) -> int:
    return sum(before != after for before, after in pairwise(labels))


def _p50(values: Sequence[float]) -> float | None:
    return float(np.percentile(values, 50)) if values else None
