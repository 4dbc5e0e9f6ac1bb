"""FER+ as its authors publish it: the votes of ten annotators for every face of FER2013.

``fer2013new.csv`` has the columns ``Usage, Image name``, then one vote count for each of
``labels.FERPLUS_COLUMNS``. The images lie in ``data/FER2013Train``, ``data/FER2013Valid`` and
``data/FER2013Test``, or in those folders directly below the root. A row without an image name is
a picture that the authors removed.
"""

from pathlib import Path

import polars as pl

from fer_ml.labels import CLASSES, FERPLUS_COLUMNS
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    RowFault,
    make_listing,
    parse_integer,
    read_csv,
    require_file,
    require_folder,
    require_root,
    safe_path,
    set_split,
    winners,
)

INDEX = "fer2013new.csv"
SPLITS: dict[str, str] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
FOLDERS: dict[str, str] = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}
COLUMNS = tuple(FERPLUS_COLUMNS)
_COLUMN_OF_CLASS = {label: column for column, label in FERPLUS_COLUMNS.items()}


def list_votes(root: Path) -> pl.DataFrame:
    """Listing of ``fer2013new.csv``; the label is the column that has strictly most votes."""
    root = require_root(root)
    index = require_file(root, INDEX)
    candidates = [f"{above}{folder}" for above in ("data/", "") for folder in FOLDERS.values()]
    # One place for all splits: a split whose folder is absent must show as missing files.
    above = require_folder(root, *candidates).rpartition("FER2013")[0]

    def parse(row: Row, cells: dict[str, str]) -> None:
        votes = _parse_votes(cells)
        row["votes"] = [float(votes[_COLUMN_OF_CLASS[label]]) for label in CLASSES]
        most = [COLUMNS[index] for index in winners(list(votes.values()))]
        row["native_label"] = "|".join(most)
        name, usage = cells["Image name"], cells["Usage"]
        if name or most != ["NF"]:
            name = safe_path(name)
        set_split(row, usage, SPLITS)
        if name:
            row["file"] = f"{above}{FOLDERS[usage]}/{name}"
        meaning = FERPLUS_COLUMNS[most[0]] if len(most) == 1 else "tied votes"
        row["label" if meaning in CLASSES else "excluded"] = meaning

    return make_listing(read_csv(index, ("Usage", "Image name", *COLUMNS), parse))


def _parse_votes(cells: dict[str, str]) -> dict[str, int]:
    votes = {column: parse_integer(cells[column], f"vote {column!r}") for column in COLUMNS}
    for column, count in votes.items():
        if count < 0:
            raise RowFault(f"malformed line: vote {column!r} is negative: {count}")
    return votes


ADAPTER = Adapter(
    name="ferplus_votes",
    title="FER+ with its annotators' votes",
    layout="fer2013new.csv; data/{FER2013Train,FER2013Valid,FER2013Test}/<image>",
    listing=list_votes,
)
