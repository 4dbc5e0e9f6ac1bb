"""Read any manifest CSV as a table, with every fault of its text as a finding.

A damaged line never hides another one. Each line is one record and is judged on its own; a line
that cannot be read becomes a finding with its line number. The file is read in blocks, so that
memory grows with the typed columns and not with the text.
"""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.reading import open_file
from fer_ml.manifests.schema import SCHEMA

NEEDED = ("image_path", "label", "split", "source")
FINDING_SCHEMA: dict[str, pl.DataType] = {"line": pl.Int64(), "detail": pl.String()}
_BLOCK_BYTES = 1 << 24
#: Bytes of a header, and its columns: a manifest has 20, and others' features may be beside them.
_HEADER_BYTES, _COLUMNS = 1 << 16, 2_000
_QUOTE, _COMMA, _NEWLINE = b'",\n'


@dataclass(frozen=True)
class Table:
    """A manifest as read: typed rows with their line, and the faults of the text.

    ``frame`` has ``line`` (the header is line 1) and all columns of ``SCHEMA``, null where the file
    has none. ``malformed`` are lines that are not valid rows. ``mistyped`` are cells set to null
    because their text is not a number. ``dialect`` names features that other readers may misread.
    """

    frame: pl.DataFrame
    malformed: pl.DataFrame
    mistyped: pl.DataFrame
    dialect: tuple[str, ...]
    columns: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Read ``path`` whole; ``FerError`` when its header is not a manifest's."""
    parts = list(table_parts(path))
    return Table(
        pl.concat(part.frame for part in parts),
        pl.concat(part.malformed for part in parts),
        pl.concat(part.mistyped for part in parts),
        parts[-1].dialect,
        parts[-1].columns,
    )


def table_parts(path: Path) -> Iterator[Table]:
    """Yield ``path`` in parts of whole lines, at least one; see ``read_table``.

    ``dialect`` is what was found so far, so that the last part's is that of the file.
    """
    try:
        with open_file(path) as file:
            yield from _read(path, file)
    except FileNotFoundError as error:
        raise FerError(
            "no such manifest", code="missing-manifest", where=path, fix="correct the path"
        ) from error
    except OSError as error:
        raise FerError(
            f"manifest cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="grant read access, or copy the file again",
        ) from error


def _read(path: Path, file: io.BufferedReader) -> Iterator[Table]:
    header = file.readline(_HEADER_BYTES)
    mark = ["a byte order mark"] if header.startswith(codecs.BOM_UTF8) else []
    columns = _header(path, header.removeprefix(codecs.BOM_UTF8))
    wanted = [name for name in SCHEMA if name in columns]
    crlf, empty, line = header.endswith(b"\r\n"), 0, 2
    nothing = pl.DataFrame(schema=FINDING_SCHEMA)
    rows, bad = _cells(b"", columns).with_columns(pl.lit(None, pl.Int64).alias("line")), nothing
    for block in itertools.chain([b""], _blocks(file)):
        if block:  # The first part is empty, so that a file without rows has one too.
            rows, bad, lines, blank = _parse(block, columns, line)
            line, empty = line + lines, empty + blank
        crlf |= b"\r\n" in block
        typed, mistyped = _typed(rows, wanted)
        dialect = [*mark, *["CRLF line ends"] * crlf, *[f"{empty} empty lines"] * bool(empty)]
        yield Table(typed, bad, mistyped, tuple(dialect), tuple(columns))


def _header(path: Path, line: bytes) -> list[str]:
    try:
        names = next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise FerError(
            f"not a readable CSV: its header is damaged: {error}",
            code="invalid-csv-header",
            where=path,
        ) from error
    if len(line) >= _HEADER_BYTES or len(names) > _COLUMNS:
        raise FerError(
            f"not a manifest: its header has {len(names):,} columns in {len(line):,} bytes",
            code="too-many-columns",
            where=path,
            allowed=f"at most {_COLUMNS} columns in {_HEADER_BYTES:,} bytes",
        )
    if not any(names):
        raise FerError(
            "not a readable CSV: it has no header", code="invalid-csv-header", where=path
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FerError(
            f"header names a column twice: {', '.join(map(repr, twice))}",
            code="duplicate-column",
            where=path,
            fix="keep one of them",
        )
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise FerError(
            f"manifest lacks the column {', '.join(missing)}",
            code="missing-column",
            where=path,
            allowed=f"found: {', '.join(map(repr, names[:20]))}",
            fix=f"a manifest needs {', '.join(NEEDED)}, separated by commas",
        )
    return names


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield the rest of the file in blocks of whole lines, each with its newline."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest:
        yield rest + b"\n"


def _parse(
    block: bytes, columns: list[str], first: int
) -> tuple[pl.DataFrame, pl.DataFrame, int, int]:
    """Return text cells with ``line``, malformed lines, and counts of lines and empty lines."""
    codes = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(codes == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    commas = np.diff(
        np.searchsorted(np.flatnonzero(codes == _COMMA), np.append(starts, len(block)))
    )
    plain = commas == len(columns) - 1
    empty = ends - starts <= np.where(codes[np.maximum(ends - 1, 0)] == ord("\r"), 1, 0)
    odd = np.flatnonzero((codes == _QUOTE) | (codes == 0))
    plain[np.searchsorted(ends, odd)] = False
    if not _is_utf8(block):
        for index in np.flatnonzero(plain):
            plain[index] = _is_utf8(block[starts[index] : ends[index]])
    plain &= ~empty
    numbers = np.arange(len(ends)) + first
    if plain.all():
        text = block
    else:
        text = b"".join(block[starts[i] : ends[i] + 1] for i in np.flatnonzero(plain))
    frame = _cells(text, columns).with_columns(pl.Series("line", numbers[plain], pl.Int64))
    rows, faults = [], []
    for index in np.flatnonzero(~plain & ~empty):
        line = block[starts[index] : ends[index]].removesuffix(b"\r")
        cells, fault = _strict(line, len(columns))
        if fault is None:
            rows.append([*(cell or None for cell in cells), int(numbers[index])])
        else:
            faults.append((int(numbers[index]), fault))
    if rows:
        schema = {**dict.fromkeys(columns, pl.String), "line": pl.Int64}
        frame = pl.concat([frame, pl.DataFrame(rows, schema=schema, orient="row")]).sort("line")
    bad = pl.DataFrame(faults, schema=FINDING_SCHEMA, orient="row")
    return frame, bad, len(ends), int(empty.sum())


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cells(text: bytes, columns: list[str]) -> pl.DataFrame:
    if not text:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    # A line of its own in front: polars would take some beginnings of a text for compressed ones.
    return pl.read_csv(
        io.BytesIO(b"-\n" + text),
        has_header=False,
        skip_rows=1,
        new_columns=columns,
        schema=dict.fromkeys(columns, pl.String),
        quote_char=None,
    )


def _strict(line: bytes, count: int) -> tuple[list[str], str | None]:
    """Return the cells of one line, or why it is not a valid row."""
    if b"\0" in line:
        return [], "it holds a NUL"
    try:
        cells = next(csv.reader([line.decode()], strict=True))
    except UnicodeDecodeError:
        return [], "it is not UTF-8"
    except csv.Error as error:
        return [], f"its quotes are wrong: {error}"
    if len(cells) != count:
        return [], f"{len(cells)} of {count} fields"
    return cells, None


def _typed(rows: pl.DataFrame, wanted: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return ``rows`` with the types of ``SCHEMA``, and the cells whose text is of another type."""
    numbers = [name for name in wanted if SCHEMA[name] != pl.String()]
    typed = rows.with_columns(pl.col(name).cast(SCHEMA[name], strict=False) for name in numbers)
    floats = [name for name in numbers if SCHEMA[name] == pl.Float64()]
    typed = typed.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in floats
    )
    wrong = [
        rows.filter(rows[name].is_not_null() & typed[name].is_null()).select(
            "line",
            pl.format(
                f"{name}: '{{}}' is no {'number' if name in floats else 'whole number'}",
                pl.col(name).str.head(40),
            ).alias("detail"),
        )
        for name in numbers
    ]
    mistyped = pl.concat([pl.DataFrame(schema=FINDING_SCHEMA), *wrong]).sort("line")
    absent = [pl.lit(None, dtype).alias(n) for n, dtype in SCHEMA.items() if n not in wanted]
    return typed.with_columns(absent).select("line", *SCHEMA), mistyped
