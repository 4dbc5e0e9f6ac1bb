"""Shared code of the adapters: strict reading of text files, and building of listings.

Every row of a listing has exactly one of ``label``, ``excluded`` and ``fault``. A parser fills its
row step by step, the label last, and raises ``RowFault`` at the first invalid value. So a faulty
row keeps the values read before, but never has a label.

Parsing 100,000 lines one by one takes seconds. ``Lines`` reads the *plain* ones, whose cells all
match a simple pattern, column by column, and leaves all others to the parser.
"""

import csv
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASS_INDEX, LabelTable, split_of_word
from fer_ml.base.reading import open_file, read_file, regular
from fer_ml.sources import listing_schema

Row = dict[str, Any]
Line = tuple[int, str | None]
Parser = Callable[[Row, str], None]
Columns = Mapping[str, pl.Expr | pl.Series]

_SHOWN_CHARACTERS = 80
#: No list of images has more bytes: FER2013 with all of its pixels has 300 MB.
MAX_INDEX = 2 << 30
#: A line of FER2013 with its pixels has 10,000 characters.
MAX_LINE = 64 << 10
#: Landmarks and action units of a face are some hundred.
MAX_COLUMNS = 2_000
_BOM = b"\xef\xbb\xbf"
# Absolute on any system, a step upwards, a NUL, or a backslash, which only Windows would follow.
_BAD_PATH = re.compile(r"\A/|\A[A-Za-z]:|(?:\A|/)\.\.(?:/|\Z)|[\0\\]")
# int() and float() would also take '1_000', ' 1 ', 'nan' and other scripts' digits. 15 digits are
# exact in a double and fit in 64 bits.
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")

# Plain cells, for ``Lines``. Each pattern is narrower than the function below that judges such a
# cell, and matches no U+FFFD, which stands for bytes that are not UTF-8.
NAME = r"[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*"
_FOLDER = r'[^./\\:,"\x00\x{FFFD}][^/\\:,"\x00\x{FFFD}]*'
PATH = f"{_FOLDER}(?:/{_FOLDER})*"
WORD = "[0-9A-Za-z]+"
COUNT = "[0-9]{1,15}"
INTEGER = f"-?{COUNT}"
NUMBER = rf"-?{COUNT}(?:\.{COUNT})?"
ANYTHING = r'[^,"\x{FFFD}]*'


class RowFault(Exception):
    """The reason why a row cannot be used, as ``kind: detail``; caught within this package."""


def shown(text: str) -> str:
    """Quote ``text`` for a message, printable and of bounded length."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def require_root(root: Path) -> Path:
    """Return the dataset's folder; ``FerError`` if it is missing, not a directory, or empty."""
    root = Path(root)
    fix = "correct the folder of this source, or unpack the dataset there"
    if not root.exists():
        raise FerError("dataset folder is missing", code="missing-folder", where=root, fix=fix)
    if not root.is_dir():
        raise FerError(
            "dataset folder is not a directory", code="not-a-folder", where=root, fix=fix
        )
    if next(folder_names(root), None) is None:
        raise FerError("dataset folder is empty", code="empty-folder", where=root, fix=fix)
    return root


def folder_names(folder: Path) -> Iterator[str]:
    """Yield the names of all files and folders directly in ``folder``, lazily."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except OSError as error:
        raise FerError(
            f"folder cannot be read: {error.strerror}",
            code="unreadable-folder",
            where=folder,
            fix="grant read access",
        ) from error


def require_file(root: Path, *names: str) -> Path:
    """Return the first of ``names`` that is a file under ``root``; ``FerError`` if none is."""
    for name in names:
        if (root / name).is_file():
            return regular(root / name, root=root)
    raise FerError(
        f"index file {names[0]} is missing",
        code="missing-index-file",
        where=root,
        allowed=", ".join(names),
        fix="point the source at the folder that holds this file",
    )


def has_file(*names: str) -> Callable[..., bool]:
    """Return an ``Adapter.fits`` that looks for one of ``names``, or the option ``manifest``."""

    def fits(root: Path, manifest: str = "", **options: str) -> bool:
        return any((root / name).is_file() for name in ((manifest,) if manifest else names))

    return fits


def require_folder(root: Path, *names: str) -> str:
    """Return the first of ``names`` that is a folder under ``root``; ``FerError`` if none is."""
    for name in names:
        if (root / name).is_dir():
            return name
    raise FerError(
        "image folder is missing",
        code="missing-image-folder",
        where=root,
        allowed=", ".join(names),
        fix="unpack the images of this dataset into one of these folders",
    )


def text_lines(path: Path, root: Path | None = None) -> Iterator[Line]:
    """Yield line numbers from 1 with the lines' text; ``None`` for a line that is not UTF-8.

    Only LF and CRLF end a line: ``str.splitlines`` would also break at other control characters.
    """
    try:
        with open_file(path, root=root) as handle:
            for number, raw in enumerate(handle, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                yield number, _decoded(raw.removesuffix(b"\n"))
    except OSError as error:
        raise _unreadable(path, error) from error


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        return None


def _unreadable(path: Path, error: OSError) -> FerError:
    return FerError(
        f"index file cannot be read: {error.strerror}",
        code="unreadable-file",
        where=path,
        fix="grant read access, or copy the file again",
    )


def read_rows(file: str, parse: Parser, lines: Iterable[Line]) -> list[Row]:
    """Return one row for each of these ``lines`` of ``file``, filled in by ``parse``."""
    rows: list[Row] = []
    for number, text in lines:
        row: Row = {"where": f"{file}:{number}"}
        try:
            if text is None:
                raise RowFault("malformed line: not UTF-8")
            if len(text) > MAX_LINE:
                raise RowFault(f"malformed line: {len(text):,} characters")
            parse(row, text)
        except RowFault as fault:
            row["fault"] = str(fault)
        rows.append(row)
    return rows


def no_samples(path: Path) -> FerError:
    """Return the error for an index file without any line."""
    return FerError(
        "index file lists no samples", code="empty-index-file", where=path, fix="replace the file"
    )


class Lines:
    """The lines of an index file, with the cells of the plain ones.

    ``fields`` maps the names of a line's cells, in order, to regular expressions; a line is plain
    if all its cells match. ``cells`` has a String column for each field and a row for each plain
    line. ``FerError`` if there is no line.
    """

    def __init__(
        self, path: Path, fields: Mapping[str, str], *, separator: str = " ", header: bool = False
    ) -> None:
        try:
            data = read_file(path, MAX_INDEX)
        except OSError as error:
            raise _unreadable(path, error) from error
        self.path = path
        self._data = data.removeprefix(_BOM)
        self._first = 1 + header
        text = pl.Series([self._data.decode(errors="replace")]).str.split("\n").explode()
        # What follows the last line break is a line of its own, unless it is empty.
        count = len(text) - (data[-1:] in (b"", b"\n"))
        if count <= header:
            raise no_samples(path)
        lines = text.slice(header, count - header).str.strip_suffix("\r")
        short = lines.str.len_chars() <= MAX_LINE
        plain = short & lines.str.contains(plain_line(fields.values(), separator))
        self._is_plain = plain.to_numpy()
        cells = lines.filter(plain).str.split_exact(separator, len(fields) - 1)
        self.cells = cells.struct.rename_fields(list(fields)).struct.unnest()

    def others(self, done: np.ndarray | None = None) -> list[Line]:
        """Return the lines that are not plain, and the plain ones that are not ``done``."""
        left = ~self._is_plain
        if done is not None:
            left[self._is_plain] = ~done
        if not left.any():
            return []
        raw = self._data.split(b"\n")
        return [
            (index + 1, _decoded(raw[index]))
            for index in (np.flatnonzero(left) + self._first - 1).tolist()
        ]

    def listing(self, columns: Columns, parse: Parser) -> pl.DataFrame:
        """Return the listing of all lines in their order.

        ``columns`` gives the values of plain lines, as expressions over ``cells`` or as series of
        the same length. A plain line for which they give no split, or neither a label nor an
        exclusion, is parsed by ``parse``, as is every line that is not plain.
        """
        numbers = np.flatnonzero(self._is_plain) + self._first
        where = f"{self.path.name}:" + pl.Series(numbers).cast(pl.String)
        known = {"where": pl.lit(where), **columns}
        plain = self.cells.select(
            known.get(name, pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in listing_schema().items()
        )
        is_done = pl.col("split").is_not_null() & (
            pl.col("label").is_not_null() | pl.col("excluded").is_not_null()
        )
        done = plain.select(is_done).to_series()
        rest = self.others(done.to_numpy())
        if not rest:
            return plain
        strict = make_listing(read_rows(self.path.name, parse, rest))
        order = np.argsort([*numbers[done.to_numpy()], *(number for number, _ in rest)])
        return pl.concat([plain.filter(done), strict])[order]


def plain_line(patterns: Iterable[str], separator: str) -> str:
    """Return the regular expression of a line whose cells match ``patterns``."""
    return f"^{separator.join(f'(?:{pattern})' for pattern in patterns)}$"


def csv_header(path: Path) -> list[str]:
    """Read the column names exactly as the first line has them, blanks included."""
    _, text = next(text_lines(path), (1, ""))
    try:
        names = _csv_fields(text) if text else []
    except RowFault:
        names = []
    if not names or len(set(names)) < len(names):
        raise FerError(
            "header is not a line of distinct column names",
            code="invalid-csv-header",
            where=path,
            fix="the first line of a csv names its columns, in UTF-8",
        )
    if len(names) > MAX_COLUMNS:
        raise FerError(
            f"the csv has {len(names):,} columns",
            code="too-many-columns",
            where=path,
            allowed=f"at most {MAX_COLUMNS:,}",
        )
    return names


def require_columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """Raise ``FerError``, naming the columns found and needed, if one is missing."""
    missing = [name for name in needed if name not in header]
    if missing:
        raise FerError(
            f"missing column: {', '.join(map(repr, missing))}",
            code="missing-column",
            where=f"{path}, which has the columns {', '.join(map(repr, header))}",
            allowed=f"a header with {', '.join(map(repr, needed))}, spelled exactly so",
            fix="correct the header line",
        )


def csv_lines(path: Path, header: Sequence[str], plain: Mapping[str, str]) -> Lines:
    """Read the lines after the header; columns that are not in ``plain`` may hold anything."""
    fields = {name: plain.get(name, ANYTHING) for name in header}
    return Lines(path, fields, separator=",", header=True)


def csv_parser(header: Sequence[str], parse: Callable[[Row, dict[str, str]], None]) -> Parser:
    """Return a parser of lines that calls ``parse`` with the cells by column name.

    A record is one line: a quoted line break makes two malformed lines, so that a stray quote
    cannot swallow the rest of the file.
    """

    def parse_line(row: Row, text: str) -> None:
        fields = expect_fields(_csv_fields(text), len(header))
        parse(row, dict(zip(header, fields, strict=True)))

    return parse_line


def _csv_fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",") if text else []
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise RowFault(f"malformed line: {error}") from error


def expect_fields(fields: list[str], count: int) -> list[str]:
    """Return ``fields`` if there are ``count`` of them; ``RowFault`` otherwise."""
    if len(fields) != count:
        raise RowFault(f"malformed line: {len(fields)} of {count} fields")
    return fields


def safe_path(text: str, *, backslashes: bool = False) -> str:
    """Return ``text`` if it is a relative path with ``/`` inside its folder, else ``RowFault``.

    With ``backslashes`` these separate folders too, as in a file that was written on Windows.
    """
    path = text.replace("\\", "/") if backslashes else text
    if not path:
        raise RowFault("malformed line: no image name")
    if _BAD_PATH.search(path):
        raise RowFault(f"bad path: {shown(text)}")
    return posixpath.normpath(path)  # One file is one path: ./a.png and x//a.png too.


def parse_integer(text: str, name: str) -> int:
    """Parse a plain decimal integer; ``RowFault`` for anything else, blanks included."""
    if not _INTEGER.fullmatch(text):
        raise RowFault(f"malformed line: {name} is not an integer: {shown(text)}")
    return int(text)


def parse_number(text: str, name: str) -> float:
    """Parse a plain finite decimal number; ``RowFault`` for anything else, blanks included."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise RowFault(f"malformed line: {name} is not a number: {shown(text)}")
    return value


def set_label(row: Row, text: str, labels: LabelTable) -> None:
    """Set ``native_label`` to ``text``, and ``label`` or ``excluded`` to its meaning."""
    row["native_label"] = text
    row["label"], row["excluded"] = labels(text)
    if not row["label"] and not row["excluded"]:
        raise RowFault(f"bad label: {shown(text)}")


def set_split(row: Row, text: str, split_of: Callable[[str], str | None] = split_of_word) -> None:
    """Set ``split`` to the meaning of ``text``; an unknown word is kept, and is a fault."""
    split = split_of(text)
    row["split"] = split or text
    if split is None:
        raise RowFault(f"unknown split: {shown(text)}")


def label_columns(cells: pl.DataFrame, column: str, labels: LabelTable) -> dict[str, pl.Expr]:
    """Return the columns that follow from the labels in ``column``, as by ``set_label``."""
    meanings = {text: labels(text) for text in cells[column].unique()}
    return {
        "native_label": pl.col(column),
        "label": mapped(column, {text: label for text, (label, _) in meanings.items()}),
        "excluded": mapped(column, {text: excluded for text, (_, excluded) in meanings.items()}),
    }


def split_words(cells: pl.DataFrame, column: str) -> dict[str, str | None]:
    """Return the split that each distinct word of ``column`` means, or ``None``."""
    return {word: split_of_word(word) for word in cells[column].unique()}


def mapped(column: str, meanings: Mapping[str, str | None]) -> pl.Expr:
    """Return an expression that replaces the cells of ``column`` by ``meanings``, else by null."""
    return pl.col(column).replace_strict(
        list(meanings), list(meanings.values()), default=None, return_dtype=pl.String
    )


def winner(scores: Sequence[float], meanings: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of the largest of ``scores``, and its meaning.

    ``meanings`` has a name for each score. For a tie the names are joined by ``|``, and the
    meaning is 'tied votes'.
    """
    most = max(scores)
    names = [name for name, score in zip(meanings, scores, strict=True) if score == most]
    return "|".join(names), meanings[names[0]] if len(names) == 1 else "tied votes"


def set_meaning(row: Row, meaning: str) -> None:
    """Set ``label`` when ``meaning`` is a class, else ``excluded``."""
    row["label" if meaning in CLASS_INDEX else "excluded"] = meaning


def class_votes(scores: np.ndarray, meanings: Mapping[str, str]) -> np.ndarray:
    """Sum ``scores [..., len(meanings)]`` by class: ``[..., 7] float64`` in class order."""
    votes = np.zeros((*scores.shape[:-1], len(CLASS_INDEX)))
    for index, meaning in enumerate(meanings.values()):
        if meaning in CLASS_INDEX:
            votes[..., CLASS_INDEX[meaning]] = scores[..., index]
    return votes


def vote_columns(scores: np.ndarray, meanings: Mapping[str, str]) -> dict[str, pl.Series]:
    """Return the columns that follow from ``scores [rows, len(meanings)]``, as by ``winner``."""
    largest = scores == scores.max(axis=1, keepdims=True)
    # There are few different sets of winners; each is judged once.
    sets, index = np.unique(largest @ (1 << np.arange(len(meanings))), return_inverse=True)
    verdicts = pl.DataFrame(
        [
            (native, *((meaning, None) if meaning in CLASS_INDEX else (None, meaning)))
            for native, meaning in (
                winner([bits >> place & 1 for place in range(len(meanings))], meanings)
                for bits in sets.tolist()
            )
        ],
        schema={"native_label": pl.String, "label": pl.String, "excluded": pl.String},
        orient="row",
    )
    votes = pl.Series("votes", class_votes(scores, meanings)).arr.to_list()
    return {**{column.name: column for column in verdicts[index]}, "votes": votes}


def make_listing(rows: Sequence[Row]) -> pl.DataFrame:
    """Build the listing of ``rows``; a value that a row lacks is null."""
    return pl.DataFrame(
        [
            pl.Series(name, [row.get(name) for row in rows], dtype=dtype, strict=True)
            for name, dtype in listing_schema().items()
        ]
    )
