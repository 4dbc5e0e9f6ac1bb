"""Key figures of a session, from its ``per_frame.csv`` only, so that anyone can recompute them.

Rates and time percentiles exclude the first ``WARM_UP_FRAMES`` frames, in which libraries still
allocate. A percentile of fewer frames than ``LEAST`` is None, because a single larger value would
decide it. Every accuracy has the same denominator: the faces with a true label that were found.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from demo_app.logs import BOX_COLUMNS, STAGE_COLUMNS
from demo_app.tables import TableRow, finite, flag, known_label, milliseconds, read_rows
from demo_app.tracking import greedy_pairs
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import Box

WARM_UP_FRAMES = 5
#: States of a face without a label.
DOUBTS = ("unsure", "too_small", "unstable")
MATCH_IOU = 0.3
#: The first protocol does not score manual segments shorter than this, nor frames this close to a
#: change of label.
MIN_SEGMENT_S = 0.6
EDGE_S = 0.25
#: A change of the raw label lasts if the new label holds for this share of the next seconds. A
#: person would want to see such a change, even if some frames flicker.
LASTING_S = 0.6
LASTING_SHARE = 0.75

#: By percentile: the frames that it needs, so that at least one frame lies beyond it.
LEAST = {"p50": 2, "p95": 20, "p99": 100}


@dataclass(frozen=True)
class LoggedFace:
    """One face of a frame in ``per_frame.csv``.

    ``shown`` is the stabilised label, or None while the demo abstains.

    ``state`` is 'label' or one of ``DOUBTS``.
    """

    frame: int
    time_s: float
    track_id: int
    box_xyxy_px: Box
    raw: str
    shown: str | None
    state: str


@dataclass(frozen=True)
class TrueFace:
    """A row of the ground-truth csv: the box and the true expression of one face in one frame."""

    frame: int
    face_id: str
    box_xyxy_px: Box
    label: str


@dataclass(frozen=True)
class LoggedFrame:
    """The values of ``per_frame.csv`` that describe a frame as a whole.

    ``stages_ms`` maps each column of ``STAGE_COLUMNS`` (the steps of a frame) to its time; steps
    that did not run are left out. ``manual`` is the label that a person gave by hand, ``labelled``
    the face that the label describes. Each is None where there is none.
    """

    frame: int
    time_s: float
    stages_ms: dict[str, float]
    frame_ms: float
    manual: str | None
    labelled: LoggedFace | None


def compute_kpis(per_frame_csv: Path, truth_csv: Path | None) -> dict[str, Any]:
    """Compute the key figures as JSON values; None where the log cannot show them.

    Shares and accuracies are in 0..1, times in ms unless the name says s. Keys that need manual
    labels or a ground truth are absent without them. Raises ``FerError`` with the column name
    for an unusable csv.
    """
    frames, faces = read_per_frame(per_frame_csv)
    found_in = {face.frame for face in faces}
    kpis: dict[str, Any] = {
        "frames": len(frames),
        "faces": len(faces),
        "tracks": len({face.track_id for face in faces}),
        "face_found_rate": len(found_in) / len(frames),
        "warm_up_frames": WARM_UP_FRAMES,
        **timing(
            [frame.frame_ms for frame in frames],
            [frame.stages_ms.get("capture_ms", 0.0) for frame in frames],
        ),
        **stage_timing(frames),
        **flips(faces),
        **reaction(faces),
        **{
            f"{state}_share": sum(face.state == state for face in faces) / len(faces)
            if faces
            else None
            for state in DOUBTS
        },
    }
    if any(frame.manual for frame in frames):
        kpis |= score_manual(frames)
    if truth_csv is not None:
        truth = read_truth(truth_csv)
        kpis |= score(faces, truth, {frame.frame for frame in frames}, where=truth_csv)
    return kpis


def timing(frame_ms: Sequence[float], capture_ms: Sequence[float]) -> dict[str, Any]:
    """Return frame rate and percentiles of ``frame_ms`` (in frame order), after the warm-up.

    ``processed_fps`` is the number of frames divided by the sum of their times, capture included;
    it is never a mean of rates. ``frames_missing`` states how many frames each None percentile
    still needs.
    """
    timed = list(frame_ms[WARM_UP_FRAMES:])
    whole = sum(timed) + sum(capture_ms[WARM_UP_FRAMES:])
    return {
        "frames_timed": len(timed),
        "processed_fps": 1e3 * len(timed) / whole if whole else None,
        "frames_missing": {
            name: least - len(timed) for name, least in LEAST.items() if len(timed) < least
        },
        **_quantiles("frame_ms", timed),
    }


def stage_timing(frames: Sequence[LoggedFrame]) -> dict[str, Any]:
    """Return the percentiles of ``timing`` for each step of a frame, over frames with that step."""
    figures: dict[str, Any] = {}
    for name in STAGE_COLUMNS:
        timed = [f.stages_ms[name] for f in frames[WARM_UP_FRAMES:] if name in f.stages_ms]
        figures |= _quantiles(name, timed)
    return figures


def flips(faces: Sequence[LoggedFace]) -> dict[str, Any]:
    """Count changes between successive distinct labels of a track, and their rate by track time.

    ``DOUBTS`` are not labels: A, unsure, A is no change; A, unsure, B is one change.
    Track time is the time between neighbouring frames that both contain the track. While a face is
    away, neither time nor changes count.
    """
    stretches = [part for track in _by_track(faces) for part in _seen_throughout(track)]
    seconds = sum(part[-1].time_s - part[0].time_s for part in stretches)
    raw = sum(_changes(face.raw for face in part) for part in stretches)
    shown = sum(
        _changes(face.shown for face in part if face.shown is not None) for part in stretches
    )
    return {
        "track_seconds": seconds,
        "flips_raw": raw,
        "flips_stabilised": shown,
        "flips_per_minute_raw": 60 * raw / seconds if seconds else None,
        "flips_per_minute_stabilised": 60 * shown / seconds if seconds else None,
    }


def _seen_throughout(track: Sequence[LoggedFace]) -> list[list[LoggedFace]]:
    """Return the parts of a track in which the face is present in every frame."""
    parts: list[list[LoggedFace]] = []
    for face in track:
        if not parts or face.frame != parts[-1][-1].frame + 1:
            parts.append([])
        parts[-1].append(face)
    return parts


def reaction(faces: Sequence[LoggedFace]) -> dict[str, Any]:
    """Measure the delay of smoothing: from a lasting change of the raw label until it is shown.

    A change lasts if ``LASTING_SHARE`` of the faces in the next ``LASTING_S`` have the new raw
    label, and another label was shown before. A change is counted as missed if its label is not
    shown before the next lasting change.
    """
    delays: list[float] = []
    missed = 0
    for track in _by_track(faces):
        before: str | None = None
        for run in _lasting(track):
            if before not in (None, run[0].raw):
                shown = next((face for face in run if face.shown == run[0].raw), None)
                if shown is None:
                    missed += 1
                else:
                    delays.append(shown.time_s - run[0].time_s)
            before = next((face.shown for face in reversed(run) if face.shown), before)
    return {
        "lasting_changes": len(delays) + missed,
        "lasting_changes_missed": missed,
        "reaction_delay_s_p50": float(np.median(delays)) if delays else None,
        "reaction_delay_s_max": max(delays, default=None),
    }


def _lasting(track: Sequence[LoggedFace]) -> list[list[LoggedFace]]:
    """Split a track where its raw label changes to one that lasts.

    The first part begins with the track and includes everything before the first such change.
    """
    starts: list[int] = [0]
    label: str | None = None
    for index, face in enumerate(track):
        end = face.time_s + LASTING_S
        if face.raw == label or track[-1].time_s < end - 1e-9:
            continue
        window = [track[index]]
        window += takewhile(partial(_until, end), islice(track, index + 1, None))
        if sum(other.raw == face.raw for other in window) >= LASTING_SHARE * len(window):
            starts += [index] if index else []
            label = face.raw
    return [list(track[a:b]) for a, b in pairwise([*starts, len(track)])]


def _until(end_s: float, face: LoggedFace) -> bool:
    return face.time_s <= end_s + 1e-9


def score_manual(frames: Sequence[LoggedFrame]) -> dict[str, Any]:
    """Score the manual labels by the first protocol; each frame counts once.

    Segments of one label shorter than ``MIN_SEGMENT_S``, and frames within ``EDGE_S`` of a change,
    are excluded. The denominator ``manual_scored`` is the remaining frames with a face. Abstaining
    is wrong. ``expressions`` counts how often another label begins among them.
    """
    left = protocol_frames(frames)
    scored = [(frame.manual, frame.labelled) for frame in left if frame.labelled is not None]
    labels = [label for label, _ in scored if label is not None]
    raw = [face.raw for _, face in scored]
    shown = [face.shown for _, face in scored]
    support = Counter(labels)
    return {
        "manual_frames": sum(frame.manual is not None for frame in frames),
        "manual_in_protocol": len(left),
        "manual_without_face": len(left) - len(scored),
        "manual_scored": len(scored),
        "expressions": sum(1 for _ in groupby(labels)),
        "manual_abstained": sum(label is None for label in shown),
        "manual_accuracy_raw": accuracy(labels, raw),
        "manual_accuracy_stabilised": accuracy(labels, shown),
        "manual_macro_f1_present_raw": macro_f1_present(labels, raw),
        "manual_macro_f1_present_stabilised": macro_f1_present(labels, shown),
        "manual_support": {name: support[name] for name in CLASSES},
    }


def protocol_frames(frames: Sequence[LoggedFrame]) -> list[LoggedFrame]:
    """Return the frames with a manual label that the first protocol scores.

    A segment ends at the first frame of the next segment. The start and the end of the session are
    not changes of label, and neither is a change from or to no label.
    """
    segments = [list(group) for _, group in groupby(frames, key=lambda frame: frame.manual)]
    kept = []
    for index, segment in enumerate(segments):
        begin = segment[0].time_s
        after = segments[index + 1] if index + 1 < len(segments) else None
        end = after[0].time_s if after else segment[-1].time_s
        if segment[0].manual is None or end - begin < MIN_SEGMENT_S - 1e-9:
            continue
        changed_before = index > 0 and segments[index - 1][0].manual is not None
        changed_after = after is not None and after[0].manual is not None
        low = begin + EDGE_S - 1e-9 if changed_before else begin
        high = end - EDGE_S + 1e-9 if changed_after else end
        kept += [frame for frame in segment if low <= frame.time_s <= high]
    return kept


def score(
    faces: Sequence[LoggedFace], truth: Sequence[TrueFace], logged: set[int], *, where: Path
) -> dict[str, Any]:
    """Compute detection recall and accuracy against the ground truth of the ``logged`` frames.

    True and logged faces are paired in each frame one to one by IoU, best pair first. The
    denominator ``truth_found`` is the true faces with a pair. Abstaining counts as wrong.
    ``faces_without_truth`` are false detections, if the ground truth lists every face of those
    frames.
    """
    relevant = [face for face in truth if face.frame in logged]
    if not relevant:
        raise FerError(
            "no face of the ground truth lies in a logged frame",
            code="no-true-face",
            where=f"{where}, frame_index",
            fix="give the ground truth of the frames that the session logged",
        )
    pairs = _pair(relevant, faces)
    labels = [true.label for true, _ in pairs]
    raw = [face.raw for _, face in pairs]
    shown = [face.shown for _, face in pairs]
    support = Counter(labels)
    return {
        "truth_faces": len(relevant),
        "truth_faces_outside_log": len(truth) - len(relevant),
        "truth_found": len(pairs),
        "expressions": _stretches(true for true, _ in pairs),
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
    """Return the share of equal pairs, 0..1, or None without labels; a None prediction is wrong."""
    if not labels:
        return None
    return sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)


def macro_f1_present(labels: Sequence[str], predicted: Sequence[str | None]) -> float | None:
    """Return the mean F1 of the classes in ``labels``, or None without labels.

    A None prediction (unsure) counts as a miss and not as a false alarm.
    """
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


def read_per_frame(path: Path) -> tuple[list[LoggedFrame], list[LoggedFace]]:
    """Read the frames and the faces of a ``per_frame.csv``, both in file order."""
    frames: dict[int, LoggedFrame] = {}
    faces = []
    for row in read_rows(path, "frame"):
        index = row.value("frame_index", int)
        face = _logged_face(index, row) if row.value("face_found", flag) else None
        if face is not None:
            faces.append(face)
        manual = row.value("manual_label", lambda text: known_label(text) if text else None)
        if index not in frames or manual:
            frames[index] = _frame(index, row, manual, face)
    return list(frames.values()), faces


def read_truth(path: Path) -> list[TrueFace]:
    """Read true faces: ``frame_index, face_id, label`` and the box, right and bottom exclusive."""
    return [
        TrueFace(
            row.value("frame_index", int),
            row.value("face_id", str),
            read_box(row),
            row.value("label", known_label),
        )
        for row in read_rows(path, "true face")
    ]


def read_box(row: TableRow) -> Box:
    """Return the box of a row; ``FerError`` if it is empty."""
    left, top, right, bottom = (row.value(column, int) for column in BOX_COLUMNS)
    if left >= right or top >= bottom:
        raise FerError(
            f"the box {(left, top, right, bottom)} is empty",
            code="empty-box",
            where=f"{row.path}, line {row.line}, columns {', '.join(BOX_COLUMNS)}",
            allowed="left < right and top < bottom",
        )
    return left, top, right, bottom


def _frame(
    index: int, row: TableRow, manual: str | None, labelled: LoggedFace | None
) -> LoggedFrame:
    stages = {
        name: row.value(name, lambda text: milliseconds(text) if text else None)
        for name in STAGE_COLUMNS
    }
    return LoggedFrame(
        index,
        row.value("time_sec", finite),
        {name: value for name, value in stages.items() if value is not None},
        row.value("frame_ms", milliseconds),
        manual,
        labelled if manual else None,
    )


def _logged_face(index: int, row: TableRow) -> LoggedFace:
    state = row.value("state", _face_state)
    return LoggedFace(
        index,
        row.value("time_sec", finite),
        row.value("track_id", int),
        read_box(row),
        row.value("raw_label", known_label),
        row.value("pred_label", known_label) if state == "label" else None,
        state,
    )


def _face_state(text: str) -> str:
    if text not in ("label", *DOUBTS):
        raise ValueError(f"a row with a face is 'label' or one of {', '.join(DOUBTS)}")
    return text


def _by_track(faces: Iterable[LoggedFace]) -> list[list[LoggedFace]]:
    tracks: dict[int, list[LoggedFace]] = defaultdict(list)
    for face in faces:
        tracks[face.track_id].append(face)
    return list(tracks.values())


def _stretches(true_faces: Iterable[TrueFace]) -> int:
    """Count how often a face that was found begins to show an expression."""
    faces: dict[str, list[str]] = defaultdict(list)
    for face in true_faces:
        faces[face.face_id].append(face.label)
    return sum(1 + _changes(labels) for labels in faces.values())


def _pair(
    truth: Iterable[TrueFace], faces: Iterable[LoggedFace]
) -> list[tuple[TrueFace, LoggedFace]]:
    logged: dict[int, list[LoggedFace]] = defaultdict(list)
    for face in faces:
        logged[face.frame].append(face)
    pairs = []
    for index, group in groupby(sorted(truth, key=lambda t: t.frame), key=lambda t: t.frame):
        true, logged_faces = list(group), logged[index]
        matched = greedy_pairs(
            [t.box_xyxy_px for t in true], [f.box_xyxy_px for f in logged_faces], MATCH_IOU
        )
        pairs += [(true[i], logged_faces[j]) for i, j in matched.items()]
    return pairs


def _changes(labels: Iterable[str | None]) -> int:
    return sum(before != after for before, after in pairwise(labels))


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    figures = {f"{name}_mean": float(np.mean(values)) if values else None}
    for key, least in LEAST.items():
        enough = len(values) >= least
        figures[f"{name}_{key}"] = float(np.percentile(values, int(key[1:]))) if enough else None
    return figures
