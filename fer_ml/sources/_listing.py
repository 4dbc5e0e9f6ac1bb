"""What the adapters share: strict reading of text files, and building the listing itself.

Every row of a listing has exactly one of ``label``, ``excluded`` and ``fault``. A parser fills its
row step by step, the label last, and raises ``RowFault`` at the first thing that it cannot accept:
so a faulty row still shows all that was understood before, but never has a label.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.errors import FerError
from fer_ml.sources import listing_schema

Row = dict[str, Any]
Line = tuple[int, str | None]

_SHOWN_CHARACTERS = 80
_BOM = b"\xef\xbb\xbf"
# Absolute on any system, a step upwards, a NUL, or a backslash, which only Windows would follow.
_BAD_PATH = re.compile(r"\A/|\A[A-Za-z]:|(?:\A|/)\.\.(?:/|\Z)|[\0\\]")
# int() and float() would also take '1_000', ' 1 ', 'nan' and other scripts' digits. 15 digits are
# exact in a double and fit in 64 bits.
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


class RowFault(Exception):
    """Why a row cannot be used, as ``kind: detail``. Never leaves this package."""


def shown(text: str) -> str:
    """``text`` quoted for a message, printable and of bounded length."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def require_root(root: Path) -> Path:
    """The dataset's folder; ``FerError`` when it is missing, no directory, or empty."""
    root = Path(root)
    fix = "correct the folder of this source, or unpack the dataset there"
    if not root.exists():
        raise FerError("dataset folder is missing", where=root, fix=fix)
    if not root.is_dir():
        raise FerError("dataset folder is not a directory", where=root, fix=fix)
    if not folder_names(root):
        raise FerError("dataset folder is empty", where=root, fix=fix)
    return root


def folder_names(folder: Path) -> list[str]:
    """Names of all that lies directly in ``folder``."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - a Path for each of 100,000 files is slow
    except OSError as error:
        raise FerError(f"folder cannot be read: {error.strerror}", where=folder) from error


def require_file(root: Path, *names: str) -> Path:
    """The first of ``names`` that is a file under ``root``; ``FerError`` when none is."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FerError(
        f"index file {names[0]} is missing",
        where=root,
        allowed=", ".join(names),
        fix="point the source at the folder that holds this file",
    )


def require_folder(root: Path, *names: str) -> str:
    """The first of ``names`` that is a folder under ``root``; ``FerError`` when none is."""
    for name in names:
        if (root / name).is_dir():
            return name
    raise FerError(
        "image folder is missing",
        where=root,
        allowed=", ".join(names),
        fix="unpack the images of this dataset into one of these folders",
    )


def text_lines(path: Path) -> Iterator[Line]:
    """Line numbers from 1 and lines as UTF-8, or ``None`` for a line that is not UTF-8.

    Only LF and CRLF end a line: ``str.splitlines`` would also break at other control characters.
    """
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                try:
                    yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError:
                    yield number, None
    except OSError as error:
        raise FerError(f"index file cannot be read: {error.strerror}", where=path) from error


def read_rows(
    path: Path, parse: Callable[[Row, str], None], lines: Iterable[Line] | None = None
) -> list[Row]:
    """One row for every line of ``path``, or of those ``lines`` of it, filled in by ``parse``."""
    rows: list[Row] = []
    for number, text in text_lines(path) if lines is None else lines:
        row: Row = {"where": f"{path.name}:{number}"}
        try:
            if text is None:
                raise RowFault("malformed line: not UTF-8")
            parse(row, text)
        except RowFault as fault:
            row["fault"] = str(fault)
        rows.append(row)
    if not rows:
        raise FerError("index file lists no samples", where=path, fix="replace the file")
    return rows


def csv_header(path: Path) -> list[str]:
    """Column names exactly as the first line has them, blanks included."""
    _, text = next(text_lines(path), (1, ""))
    try:
        names = _csv_fields(text) if text else []
    except RowFault:
        names = []
    if not names or len(set(names)) < len(names):
        raise FerError(
            "header is not a line of distinct column names",
            where=path,
            fix="the first line of a csv names its columns, in UTF-8",
        )
    return names


def require_columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """``FerError`` that names the columns found and needed when one is missing."""
    missing = [name for name in needed if name not in header]
    if missing:
        raise FerError(
            f"missing column: {', '.join(map(repr, missing))}",
            where=f"{path}, which has the columns {', '.join(map(repr, header))}",
            allowed=f"a header with {', '.join(map(repr, needed))}, spelled exactly so",
            fix="correct the header line",
        )


def read_csv(
    path: Path, needed: Sequence[str], parse: Callable[[Row, dict[str, str]], None]
) -> list[Row]:
    """One row for every line after the header; ``parse`` gets the cells by column name.

    A record is one line: a quoted line break gives two malformed lines, so that a stray quote
    cannot swallow the rest of the file.
    """
    header = csv_header(path)
    require_columns(path, header, needed)
    lines = text_lines(path)
    next(lines)

    def parse_line(row: Row, text: str) -> None:
        fields = expect_fields(_csv_fields(text), len(header))
        parse(row, dict(zip(header, fields, strict=True)))

    return read_rows(path, parse_line, lines)


def _csv_fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",") if text else []
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise RowFault(f"malformed line: {error}") from error


def expect_fields(fields: list[str], count: int) -> list[str]:
    """``fields``, when there are ``count`` of them."""
    if len(fields) != count:
        raise RowFault(f"malformed line: {len(fields)} of {count} fields")
    return fields


def safe_path(text: str) -> str:
    """``text``, when it is a relative path with ``/`` that stays inside its folder."""
    if not text:
        raise RowFault("malformed line: no image name")
    if _BAD_PATH.search(text):
        raise RowFault(f"bad path: {shown(text)}")
    return text


def parse_integer(text: str, name: str) -> int:
    """A plain decimal integer, blanks not stripped."""
    if not _INTEGER.fullmatch(text):
        raise RowFault(f"malformed line: {name} is not an integer: {shown(text)}")
    return int(text)


def parse_number(text: str, name: str) -> float:
    """A plain finite decimal number, blanks not stripped."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise RowFault(f"malformed line: {name} is not a number: {shown(text)}")
    return value


def set_label(row: Row, text: str, labels: Mapping[str, str]) -> None:
    """Set ``native_label`` to ``text`` and ``label`` to what the publisher means by it."""
    row["native_label"] = text
    if text not in labels:
        raise RowFault(f"bad label: {shown(text)}")
    row["label"] = labels[text]


def set_split(row: Row, text: str, splits: Mapping[str, str]) -> None:
    """Set ``split``, keeping an unknown word for the reader to see."""
    row["split"] = splits.get(text, text)
    if text not in splits:
        raise RowFault(f"unknown split: {shown(text)}")


def by_text(ids: Mapping[int, str]) -> dict[str, str]:
    """A label map keyed by the id as it is written, so that ``01`` and ``1.0`` are not ``1``."""
    return {str(number): label for number, label in ids.items()}


def winners(scores: Sequence[float]) -> list[int]:
    """Indices of all the largest scores; more than one is a tie."""
    most = max(scores)
    return [index for index, score in enumerate(scores) if score == most]


def make_listing(rows: Sequence[Row]) -> pl.DataFrame:
    """The listing of ``rows``, null where a row has no such column."""
    return listing_of_columns({name: [row.get(name) for row in rows] for name in listing_schema()})


def listing_of_columns(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """The listing of equally long ``columns``, null for the columns that are not given."""
    height = len(columns["where"])
    return pl.DataFrame(
        [
            pl.Series(name, columns.get(name, [None] * height), dtype=dtype, strict=True)
            for name, dtype in listing_schema().items()
        ]
    )
