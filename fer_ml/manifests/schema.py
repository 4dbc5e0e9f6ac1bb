"""The columns of a manifest, and the functions that write and read it."""

from collections.abc import Collection, Iterable
from pathlib import Path

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.reading import as_text
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
    pl.scan_csv(as_text(csv), glob=False, schema=schema).sink_parquet(csv.with_suffix(".parquet"))


def attributes_of(csvs: Iterable[Path]) -> list[str]:
    """Return the ``ATTRIBUTES`` that at least one of these manifests has, by their headers."""
    columns = {
        name for csv in csvs for name in pl.read_csv(as_text(csv), glob=False, n_rows=0).columns
    }
    return [name for name in ATTRIBUTES if name in columns]


def read_manifest(csv: Path) -> pl.DataFrame:
    """Read a manifest of this platform: all columns of ``SCHEMA``, attributes null where absent.

    ``FerError`` names the columns that are missing.
    """
    try:
        frame = pl.read_csv(as_text(csv), glob=False, infer_schema=False)
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
    absent = [name for name in ATTRIBUTES if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise FerError(
            f"manifest lacks the columns {', '.join(missing)}",
            code="missing-column",
            where=csv,
            allowed=", ".join(SCHEMA),
        )
    try:
        return frame.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise FerError(
            f"a column has values of the wrong type: {error}",
            code="invalid-column-type",
            where=csv,
            fix="correct the values",
        ) from error


def boxes(frame: pl.DataFrame) -> list[tuple[int, int, int, int] | None]:
    """Return ``(left, top, right, bottom)`` in px of the image per row, ``None`` without a box.

    A box with an empty cell keeps its ``None`` there, so that the rule on boxes finds it.
    """
    return [
        None if row == (None, None, None, None) else (row[0], row[1], row[2], row[3])
        for row in frame.select(BOX).iter_rows()
    ]
