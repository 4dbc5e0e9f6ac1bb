"""The columns of a manifest, and the functions that write and read it."""

import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from fer_ml.base.errors import FerError
from fer_ml.base.reading import as_text, open_file
from fer_ml.sources import ATTRIBUTES

#: The first pipeline's columns keep their names and meaning; the new ones follow.
#:
#: ``image_path`` is relative to the profile's artifact root; ``bbox_*`` are px of the frame named
#: by ``bbox_frame`` ('photo': of the image itself), right and bottom exclusive; ``sample_id``
#: hashes the decoded pixels and the box; ``group_id`` is shared by all faces of one photo, by
#: identical photos and, once sources are unified, by near-identical faces of all sources;
#: ``votes`` are annotators' votes in class order, joined by ';'; ``brightness`` is the face's mean
#: grey, 0 to 255; ``twin_in`` names the other splits in which publishers have the same face;
#: ``weight`` is how much a row counts in training (1 where empty) and ``neg_label`` a class that
#: the face does not show, both of pseudo-labelled data. ``ATTRIBUTES`` are the publisher's words.
SCHEMA: dict[str, pl.DataType] = {
    "image_path": pl.String(),
    "label": pl.String(),
    "split": pl.String(),
    "source": pl.String(),
    "confidence": pl.Float64(),
    "orig_image": pl.String(),
    "face_id": pl.Int64(),
    "bbox_top": pl.Int64(),
    "bbox_left": pl.Int64(),
    "bbox_right": pl.Int64(),
    "bbox_bottom": pl.Int64(),
    "bbox_frame": pl.String(),
    "sample_id": pl.String(),
    "group_id": pl.String(),
    "votes": pl.String(),
    "width": pl.Int64(),
    "height": pl.Int64(),
    "brightness": pl.Float64(),
    "twin_in": pl.String(),
    "weight": pl.Float64(),
    "neg_label": pl.String(),
    **dict.fromkeys(ATTRIBUTES, pl.String()),
}
REQUIRED = ("image_path", "label", "split", "source", "sample_id", "group_id", "width", "height")
#: What the unified manifest decides of a source's rows; it takes over all other cells.
DECIDED = ("split", "group_id", "twin_in")
BOX = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")
#: Bytes of text that are parsed at once: a part of a manifest, some 80,000 rows.
_PART_BYTES = 1 << 24
_ROW_GROUP = 1 << 18


def write_manifest(
    parts: pl.DataFrame | Iterable[pl.DataFrame], csv: Path, attributes: Collection[str] = ()
) -> None:
    """Write a manifest as CSV, the reference, and as parquet beside it, for speed.

    ``parts`` are its rows, in one frame or in several, of which only one need be in memory. Columns
    on people (``ATTRIBUTES``) are written only where known: from one frame those that have values,
    from several those that ``attributes`` names.
    """
    if isinstance(parts, pl.DataFrame):
        attributes = [name for name in ATTRIBUTES if parts[name].count()]
        parts = [parts]
    left_out = set(ATTRIBUTES) - set(attributes)
    schema = {name: dtype for name, dtype in SCHEMA.items() if name not in left_out}
    columns = [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    with csv.open("wb") as file:
        file.write(pl.DataFrame(schema=schema).write_csv().encode())
        for frame in parts:
            frame.select(columns).write_csv(file, include_header=False)
    # Read again, so that both say the same of cells that a csv cannot tell apart.
    written = register_io_source(lambda *_: _parse(csv, schema), schema=schema)
    written.sink_parquet(csv.with_suffix(".parquet"), row_group_size=_ROW_GROUP)


def attributes_of(csvs: Iterable[Path]) -> list[str]:
    """Return the ``ATTRIBUTES`` that at least one of these manifests has, by their headers."""
    columns = {name for csv in csvs for name in _header(csv)}
    return [name for name in ATTRIBUTES if name in columns]


def read_manifest(csv: Path) -> pl.DataFrame:
    """Read a manifest of this platform whole; see ``manifest_parts``."""
    return pl.concat(manifest_parts(csv), rechunk=True)


def about_rows(csv: Path) -> int:
    """Return about how many rows a manifest has, rather too many: two hashes take 64 bytes."""
    return csv.stat().st_size // 100


def manifest_parts(csv: Path) -> Iterator[pl.DataFrame]:
    """Yield a manifest of this platform part by part, at least one, in the order of its rows.

    A part has all columns of ``SCHEMA``, attributes null where absent. ``FerError`` names the
    columns that are missing, or what cannot be read.
    """
    try:
        columns = _header(csv)
        missing = [n for n in SCHEMA if n not in columns and n not in ATTRIBUTES]
        if missing:
            raise FerError(
                f"manifest lacks the columns {', '.join(missing)}",
                code="missing-column",
                where=csv,
                allowed=", ".join(SCHEMA),
            )
        absent = [pl.lit(None, pl.String).alias(n) for n in ATTRIBUTES if n not in columns]
        for part in _parse(csv, dict.fromkeys(columns, pl.String())):
            yield _typed(part.with_columns(absent), csv)
    except FileNotFoundError as error:
        raise FerError(
            "no manifest here",
            code="missing-manifest",
            where=csv,
            fix="correct the path, or make the manifest: fer materialize",
        ) from error
    except pl.exceptions.PolarsError as error:
        raise FerError(
            f"not a readable CSV: {error}", code="invalid-csv", where=csv, fix="replace the file"
        ) from error


def _typed(rows: pl.DataFrame, csv: Path) -> pl.DataFrame:
    try:
        return rows.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise FerError(
            f"a column has values of the wrong type: {error}",
            code="invalid-column-type",
            where=csv,
            fix="correct the values",
        ) from error


def _header(csv: Path) -> list[str]:
    return pl.read_csv(as_text(csv), glob=False, n_rows=0).columns


def _parse(csv: Path, schema: dict[str, pl.DataType]) -> Iterator[pl.DataFrame]:
    """Yield the rows below the header, at least one part, with the types of ``schema``."""
    empty = pl.DataFrame(schema=schema)
    # In front of each part, so that its first row says nothing of the number of columns, and that
    # polars does not unpack a text that begins like a compressed one.
    header = empty.write_csv().encode()
    with open_file(csv) as file:
        file.readline()
        yield empty
        for text in _whole_rows(file):
            yield pl.read_csv(io.BytesIO(header + text), schema=schema)


def _whole_rows(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield the rest of a csv in blocks of whole rows; a quoted cell may have line ends."""
    rest = b""
    while block := file.read(_PART_BYTES):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:]
        if block.count(b'"', 0, cut) % 2:  # The last line end lies in a cell.
            rest = block
        elif cut:
            yield block[:cut]
    if rest:
        yield rest


def boxes(frame: pl.DataFrame) -> list[tuple[int, int, int, int] | None]:
    """Return ``(left, top, right, bottom)`` in px of the image per row, ``None`` without a box.

    A box with an empty cell keeps its ``None`` there, so that the rule on boxes finds it.
    """
    return [
        None if row == (None, None, None, None) else (row[0], row[1], row[2], row[3])
        for row in frame.select(BOX).iter_rows()
    ]
