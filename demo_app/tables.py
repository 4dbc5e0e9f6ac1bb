"""Read csv files; every error names file, line and column."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import open_text

T = TypeVar("T")


@dataclass(frozen=True)
class TableRow:
    """A row of a csv that knows its file and line."""

    values: dict[str, str | None]
    path: Path
    line: int

    def value(self, column: str, convert: Callable[[str], T]) -> T:
        """Return the converted cell of ``column``; ``FerError`` if ``convert`` fails."""
        where = f"{self.path}, line {self.line}, column {column}"
        if column not in self.values:
            raise FerError(
                f"the csv has no column {column}",
                code="missing-column",
                where=self.path,
                allowed=", ".join(self.values),
            )
        text = self.values[column]
        if text is None:
            raise FerError(
                f"the row ends before column {column}",
                code="row-too-short",
                where=where,
                fix="restore the file as the session wrote it",
            )
        try:
            return convert(text)
        except ValueError as error:
            raise FerError(
                f"column {column} holds {text!r}: {error}",
                code="invalid-cell",
                where=where,
                fix="correct the value, or restore the file",
            ) from error


def read_rows(path: Path, meaning: str) -> list[TableRow]:
    """Read all rows; ``FerError`` for an unreadable file or one without rows of ``meaning``."""
    try:
        with open_text(path) as file:
            reader = csv.DictReader(file)
            rows = [TableRow(values, path, reader.line_num) for values in reader]
    except OSError as error:
        raise FerError(
            f"the csv cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="check the path; the demo logs a session into outputs/demo, or where --out says",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FerError(
            f"the csv cannot be read: {error}",
            code="invalid-csv",
            where=path,
            fix="restore the file: UTF-8, separated by commas",
        ) from error
    if not rows:
        raise FerError(
            f"the csv holds no {meaning}",
            code="empty-csv",
            where=f"{path}, column frame_index",
            fix="run a longer session",
        )
    return rows


def finite(text: str) -> float:
    """Return a finite number; ``ValueError`` otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def milliseconds(text: str) -> float:
    """Return a finite duration of 0 or more; ``ValueError`` otherwise."""
    value = finite(text)
    if value < 0:
        raise ValueError("a duration is 0 or more")
    return value


def flag(text: str) -> bool:
    """Convert ``0`` or ``1`` to a boolean; ``ValueError`` otherwise."""
    if text not in ("0", "1"):
        raise ValueError("allowed are 0 and 1")
    return text == "1"


def known_label(text: str) -> str:
    """Return one of ``CLASSES``; ``ValueError`` otherwise."""
    if text not in CLASSES:
        raise ValueError(f"allowed are {', '.join(CLASSES)}")
    return text
