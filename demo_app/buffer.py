"""Make training material from a recorded session: faces labelled by hand or by the model.

Images are the session's raw frames, and boxes are those of the demo's own detector. The output
folder is a raw source for the adapter ``csv_manifest``. Its images lie in ``session-<id>/``, so the
card of a bundle trained on it names the session, and replaying that session with the bundle is
refused.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from demo_app.kpis import protocol_frames, read_box, read_per_frame
from demo_app.logs import (
    BOX_COLUMNS,
    PER_FRAME_FILE,
    PROB_COLUMNS,
    csv_text,
    recorded_frames,
    session_id,
    writing,
)
from demo_app.tables import TableRow, finite, flag, known_label, read_rows
from fer_ml.base.errors import FerError
from fer_ml.base.files import write_json
from fer_ml.base.labels import CLASSES
from fer_ml.base.names import require_new
from fer_ml.base.reading import regular
from fer_ml.images.pixels import Box

MANIFEST_COLUMNS = ("file", "label", "split", "confidence", *BOX_COLUMNS)
NEGATIVE_COLUMNS = ("file", *BOX_COLUMNS, "negative_1", "negative_2", "confidence")


@dataclass(frozen=True)
class BufferRule:
    """The rule that selects faces.

    ``labels`` 'manual': faces with a manual label that the first protocol scores. 'self': faces
    whose raw and shown labels agree with a probability of at least ``sure``; for a probability
    between ``doubtful`` and ``sure``, the two least likely classes become negative labels.
    ``gap_s`` is the least time between two faces of one track (s), ``per_class`` the greatest
    number of each class.
    """

    labels: Literal["manual", "self"] = "manual"
    sure: float = 0.90
    doubtful: float = 0.50
    gap_s: float = 0.33
    per_class: int = 300


@dataclass(frozen=True)
class Candidate:
    """A logged face with its ``label``, or with two ``negatives``: classes it does not show."""

    frame: int
    time_s: float
    track_id: int
    box_xyxy_px: Box
    confidence: float
    label: str | None
    negatives: tuple[str, str] | None


def build_buffer(session: Path, out: Path, rule: BufferRule) -> dict[str, Any]:
    """Write a buffer into the new folder ``out``; return the content of its ``buffer.json``.

    ``manifest.csv`` holds labelled faces, ``negatives.csv`` faces with two negative labels. Raises
    ``FerError`` if the session was not recorded, ``out`` exists, or no face qualifies.
    """
    files = {frame.index: frame.file for frame in recorded_frames(session)}
    taken = list(_spaced(_candidates(session / PER_FRAME_FILE, rule), rule))
    if not taken:
        raise FerError(
            f"no face of the session fulfils {asdict(rule)}",
            code="no-qualifying-face",
            where=session,
            fix="label the session with the keys 1 to 7, or record a longer one",
        )
    name = session_id(session)
    folder = f"session-{name}"
    with writing(require_new(out)):
        try:
            (out / folder).mkdir(parents=True)
        except FileExistsError as error:
            raise FerError(
                "the output folder exists already",
                code="output-exists",
                where=out,
                fix="name a new folder",
            ) from error
        for index in sorted({face.frame for face in taken}):
            shutil.copyfile(regular(files[index]), out / folder / files[index].name)
        rows = [
            {
                "file": f"{folder}/{files[face.frame].name}",
                "label": face.label,
                "split": "train",
                "confidence": f"{face.confidence:.6f}",
                **dict(zip(BOX_COLUMNS, face.box_xyxy_px, strict=True)),
                **dict(zip(("negative_1", "negative_2"), face.negatives or ("", ""), strict=True)),
            }
            for face in taken
        ]
        parts = (
            ("manifest.csv", MANIFEST_COLUMNS, [row for row in rows if row["label"]]),
            ("negatives.csv", NEGATIVE_COLUMNS, [row for row in rows if not row["label"]]),
        )
        for file, columns, part in parts:
            (out / file).write_bytes(csv_text(columns, part, header=True))
        counts = Counter(face.label for face in taken if face.label)
        about = {
            "schema_version": 1,
            "session": name,
            "rule": asdict(rule),
            "labelled": {label: counts[label] for label in CLASSES},
            "negatives": sum(face.negatives is not None for face in taken),
        }
        write_json(out / "buffer.json", about)
    return about


def _candidates(path: Path, rule: BufferRule) -> Iterator[Candidate]:
    frames, _ = read_per_frame(path)
    in_protocol = {frame.frame for frame in protocol_frames(frames)}
    for row in read_rows(path, "frame"):
        if not row.value("face_found", flag):
            continue
        probs = [row.value(name, finite) for name in PROB_COLUMNS]
        index = row.value("frame_index", int)
        if rule.labels == "manual":
            label = row.value("manual_label", lambda text: known_label(text) if text else None)
            if label is not None and index in in_protocol:
                yield _candidate(row, 1.0, label, None)
        else:
            best = max(probs)
            agreed = row.value("raw_label", str) == row.value("pred_label", str)
            if best >= rule.sure and agreed:
                yield _candidate(row, best, CLASSES[probs.index(best)], None)
            elif rule.doubtful <= best < rule.sure:
                least, second = sorted(range(len(CLASSES)), key=probs.__getitem__)[:2]
                yield _candidate(row, best, None, (CLASSES[least], CLASSES[second]))


def _candidate(
    row: TableRow, confidence: float, label: str | None, negatives: tuple[str, str] | None
) -> Candidate:
    return Candidate(
        row.value("frame_index", int),
        row.value("time_sec", finite),
        row.value("track_id", int),
        read_box(row),
        confidence,
        label,
        negatives,
    )


def _spaced(candidates: Iterator[Candidate], rule: BufferRule) -> Iterator[Candidate]:
    """Drop faces too soon after another face of their track, and faces above the class limit."""
    last: dict[int, float] = {}
    counts: Counter[str | None] = Counter()
    for face in candidates:
        soon = face.time_s - last.get(face.track_id, -rule.gap_s) < rule.gap_s - 1e-9
        if not soon and counts[face.label] < rule.per_class:
            last[face.track_id] = face.time_s
            counts[face.label] += 1
            yield face
