"""FER+ as its authors publish it: the votes of ten annotators for every face of FER2013.

``fer2013new.csv`` has the columns ``Usage, Image name``, then one vote count for each of
``labels.FERPLUS_COLUMNS``. The images lie in ``data/FER2013Train``, ``data/FER2013Valid`` and
``data/FER2013Test``, or in those folders directly below the root. A row without an image name is
a picture that the authors removed.
"""

from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.labels import FERPLUS_COLUMNS
from fer_ml.sources import Adapter, Option
from fer_ml.sources._listing import (
    COUNT,
    NAME,
    WORD,
    Columns,
    Row,
    RowFault,
    class_votes,
    csv_header,
    csv_lines,
    csv_parser,
    has_file,
    mapped,
    parse_integer,
    require_columns,
    require_file,
    require_folder,
    require_root,
    safe_path,
    set_meaning,
    set_split,
    split_words,
    vote_columns,
    winner,
)

INDEX = "fer2013new.csv"
FOLDERS: dict[str, str] = {
    "train": "FER2013Train",
    "val": "FER2013Valid",
    "test": "FER2013Test",
}
COLUMNS = tuple(FERPLUS_COLUMNS)
_PLAIN = {"Usage": WORD, "Image name": NAME, **dict.fromkeys(COLUMNS, COUNT)}


def list_votes(root: Path, votes: str = "majority") -> pl.DataFrame:
    """Return the listing of ``fer2013new.csv``; the label is the column with strictly most votes.

    With ``votes`` 'distribution' single votes count as outliers and are removed first, as by
    Barsoum et al. (2016) before they train on the distribution. The column ``votes`` then holds
    the remaining votes for the seven classes; divided by their sum they are shares. In both cases a
    face is excluded if contempt, unknown or NF has most votes, or if two columns are tied. The
    authors' code lets an emotion win such a tie; here it has no label.
    """
    root = require_root(root)
    index = require_file(root, INDEX)
    candidates = [f"{above}{folder}" for above in ("data/", "") for folder in FOLDERS.values()]
    # One place for all splits: a split whose folder is absent must show as missing files.
    above = require_folder(root, *candidates).rpartition("FER2013")[0]
    folders = {split: f"{above}{folder}/" for split, folder in FOLDERS.items()}
    outlier = 1 if votes == "distribution" else 0

    def parse(row: Row, cells: dict[str, str]) -> None:
        counts = _parse_votes(cells)
        counts[counts == outlier] = 0
        row["votes"] = class_votes(counts, FERPLUS_COLUMNS).tolist()
        row["native_label"], meaning = winner(counts.tolist(), FERPLUS_COLUMNS)
        name = cells["Image name"]
        if name or row["native_label"] != "NF":
            name = safe_path(name)
        set_split(row, cells["Usage"])
        if name:
            row["file"] = f"{folders[row['split']]}{name}"
        set_meaning(row, meaning)

    header = csv_header(index)
    require_columns(index, header, tuple(_PLAIN))
    lines = csv_lines(index, header, _PLAIN)
    counts = lines.cells.select(pl.col(COLUMNS).cast(pl.Int64)).to_numpy()
    splits = split_words(lines.cells, "Usage")
    above_image = {usage: folders.get(split or "") for usage, split in splits.items()}
    columns: Columns = {
        **vote_columns(np.where(counts == outlier, 0, counts), FERPLUS_COLUMNS),
        "file": mapped("Usage", above_image) + pl.col("Image name"),
        "split": mapped("Usage", splits),
    }
    return lines.listing(columns, csv_parser(header, parse))


def _parse_votes(cells: dict[str, str]) -> np.ndarray:
    votes = [parse_integer(cells[column], f"vote {column!r}") for column in COLUMNS]
    for column, count in zip(COLUMNS, votes, strict=True):
        if count < 0:
            raise RowFault(f"malformed line: vote {column!r} is negative: {count}")
    return np.array(votes)


ADAPTER = Adapter(
    name="ferplus_votes",
    title="FER+ with its annotators' votes",
    layout="fer2013new.csv; data/{FER2013Train,FER2013Valid,FER2013Test}/<image>",
    read=list_votes,
    fits=has_file(INDEX),
    options={
        "votes": Option(
            meaning="'distribution' removes single votes before the label is taken",
            allowed="majority, distribution",
            pattern="majority|distribution",
        )
    },
)
