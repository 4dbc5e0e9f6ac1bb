"""One raw source while it is being drawn: its random numbers, files, rows and faults."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.sample.pictures import draw_face
from fer_ml.sample.styles import STYLES, Style, random_camera, random_face, random_weights

#: The mild long tail of the sources that were found and not chosen.
TAIL = {
    "Angry": 0.14,
    "Disgust": 0.09,
    "Fear": 0.09,
    "Happy": 0.22,
    "Sad": 0.14,
    "Surprise": 0.13,
    "Neutral": 0.19,
}


@dataclass(frozen=True)
class Fault:
    """One planted fault; the fields are those of ``truth.json``.

    ``where`` is the image's path for sources that are folders only, else the index file's name and
    line, counted from 1 with the header; ``file`` is the image relative to the source's root, also
    where it is missing or the line that names it is malformed.
    """

    source: str
    where: str
    file: str
    rule: str
    detail: str


@dataclass(frozen=True)
class Row:
    """One sample in the publisher's form, with the fault planted in it, if any.

    ``text`` is its line in the index, empty for sources that are folders only; ``label`` is one of
    ``CLASSES`` for a good row; at most one of ``rule`` and ``excluded`` is set.
    """

    file: str
    split: str
    label: str = ""
    text: str = ""
    rule: str = ""
    detail: str = ""
    excluded: str = ""


@dataclass
class DrawnSource:
    """A source while it is being drawn: its folder, random generator, and contents so far."""

    name: str
    root: Path
    rng: np.random.Generator
    share: float
    faults: list[Fault] = field(default_factory=list)
    exclusions: Counter[str] = field(default_factory=Counter)
    good: list[tuple[str, Row]] = field(default_factory=list)
    rows: int = 0

    @property
    def style(self) -> Style:
        """Return the style in which the source's faces are drawn."""
        return STYLES[self.name]

    def labels(self, total: int, weights: dict[str, float]) -> list[str]:
        """Return ``total * share`` class names in proportion to ``weights``, at least 2 of each."""
        wanted = {name: max(weights[name] * total * self.share, 2.0) for name in CLASSES}
        names = [name for name in CLASSES for _ in range(round(wanted[name]))]
        return [names[i] for i in self.rng.permutation(len(names))]

    def face(self, label: str, size: int, style: Style | None = None) -> np.ndarray:
        """Draw a new person with the expression ``label``: ``[size, size, 3] uint8 RGB``."""
        style = style or self.style
        return self.blend(random_weights(self.rng, label, style), size, style)

    def blend(self, weights: dict[str, float], size: int, style: Style | None = None) -> np.ndarray:
        """Draw a new person with a mixed expression, ``[size, size, 3] uint8 RGB``."""
        style = style or self.style
        person = random_face(self.rng, weights, style)
        return draw_face(person, random_camera(self.rng, style), size)

    def contempt(self, size: int) -> np.ndarray:
        """Draw contempt, one raised corner of the mouth: ``[size, size, 3] uint8 RGB``."""
        person = random_face(self.rng, {"Happy": 0.35}, self.style)
        side = float(self.rng.choice([-1.0, 1.0]))
        return draw_face(replace(person, asymmetry=side), random_camera(self.rng, self.style), size)

    def write(self, file: str, data: bytes) -> None:
        """Write one file below the source's root; create missing folders."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def scatter(self, rows: list[Row], extra: Iterable[Row]) -> None:
        """Insert the rows ``extra`` into ``rows`` at random places."""
        for row in extra:
            rows.insert(int(self.rng.integers(len(rows) + 1)), row)

    def record(self, row: Row, where: str) -> None:
        """Record a row, found at ``where``, as good, excluded or faulty."""
        self.rows += 1
        if row.rule:
            self.faults.append(Fault(self.name, where, row.file, row.rule, row.detail))
        elif row.excluded:
            self.exclusions[row.excluded] += 1
        else:
            self.good.append((where, row))

    def record_folders(self, rows: Iterable[Row]) -> None:
        """Record the rows of a source without an index; the place of each is its file."""
        for row in rows:
            self.record(row, row.file)

    def write_index(self, file: str, rows: Sequence[Row], header: str | None = None) -> None:
        """Write the index and record each row at ``<file>:<line>``, with lines counted from 1."""
        lines = [row.text for row in rows] if header is None else [header, *(r.text for r in rows)]
        self.write(file, ("\n".join(lines) + "\n").encode())
        first = 1 if header is None else 2
        for number, row in enumerate(rows, start=first):
            self.record(row, f"{Path(file).name}:{number}")


def encode_jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Encode ``image [H, W, 3] uint8 RGB`` as JPEG bytes."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise FerError("OpenCV could not encode a JPEG", code="encoding-failed")
    return data.tobytes()


def cut_short(jpeg: bytes) -> bytes:
    """Cut a JPEG after its headers, like a download that broke off before the picture's data.

    If it were cut later, OpenCV would decode it and fill the rest with grey.
    """
    return jpeg[: jpeg.index(b"\xff\xda")]
