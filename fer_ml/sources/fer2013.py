"""FER2013 as its challenge ships it: one csv that holds the pixels.

``fer2013.csv`` has the columns ``emotion`` (0 to 6), ``pixels`` (48x48 grey values from 0 to 255,
row by row, a blank between them) and ``Usage``. Each face becomes a lossless PNG in the listing.
"""

from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.labels import FER2013_IDS, LabelTable, numbered
from fer_ml.images.pixels import encode_png
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    RowFault,
    csv_header,
    csv_parser,
    has_file,
    make_listing,
    no_samples,
    read_rows,
    require_columns,
    require_file,
    require_root,
    set_label,
    set_split,
    text_lines,
)

INDEX = "fer2013.csv"
SIDE = 48


def list_csv(root: Path, labels: LabelTable) -> pl.DataFrame:
    """Return the listing of ``fer2013.csv``, with ``inline_png`` in place of files."""
    index = require_file(require_root(root), INDEX)
    header = csv_header(index)
    require_columns(index, header, ("emotion", "pixels", "Usage"))

    def parse(row: Row, cells: dict[str, str]) -> None:
        row["inline_png"] = encode_png(parse_pixels(cells["pixels"]).reshape(SIDE, SIDE))
        set_split(row, cells["Usage"])
        set_label(row, cells["emotion"], labels)

    lines = text_lines(index)
    next(lines)
    rows = read_rows(index.name, csv_parser(header, parse), lines)
    if not rows:
        raise no_samples(index)
    return make_listing(rows)


def parse_pixels(text: str) -> np.ndarray:
    """Parse decimal numbers with one blank between them to ``[2304] uint8``.

    The digits of all numbers are combined at once: converting 2304 words one by one takes several
    times longer, and 32,000 faces hold 74 million of them.
    """
    # The blanks in front let every number be read as one of three digits.
    codes = np.frombuffer(f"  {text} ".encode(), np.uint8)
    is_blank = codes == ord(" ")
    ends = np.flatnonzero(is_blank)[2:]
    if ends.size != SIDE * SIDE:
        raise RowFault(f"malformed line: {ends.size} of {SIDE * SIDE} pixels")
    digits = np.where(is_blank, 0, codes - np.uint8(ord("0"))).astype(np.int16)
    lengths = np.diff(ends, prepend=1) - 1
    values = digits[ends - 1]
    values += 10 * digits[ends - 2] * (lengths > 1)
    values += 100 * digits[ends - 3] * (lengths > 2)
    if digits.max() > 9 or lengths.min() < 1 or lengths.max() > 3 or values.max() > 255:
        raise RowFault("malformed line: pixels are not all integers from 0 to 255")
    return values.astype(np.uint8)


ADAPTER = Adapter(
    name="fer2013_csv",
    title="FER2013 as one csv with pixels",
    layout="fer2013.csv with emotion,pixels,Usage",
    read=list_csv,
    fits=has_file(INDEX),
    labels=numbered(FER2013_IDS),
)
