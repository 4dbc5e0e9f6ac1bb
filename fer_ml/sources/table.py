"""The adapter for any dataset that is described by a csv file.

Columns: ``file`` or ``image_path`` (relative to the root, folders separated by ``/`` or a
backslash), ``label`` (a word), and optionally ``split``, ``confidence``, ``face_id``, ``weight`` (0
or more), ``neg_label`` (a class that the face does not show), ``age``, ``sex``, ``ethnicity`` (a
group's name) and all four of ``bbox_left``, ``bbox_top``, ``bbox_right``, ``bbox_bottom``. Other
columns are ignored, but one that seems to hold one of these under another name is refused. An empty
cell means that there is no such value or box; a split or label must be given.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import (
    WORD_TABLE,
    LabelTable,
    label_of_word,
    normalise_word,
    split_of_word,
)
from fer_ml.sources import ATTRIBUTES, Adapter, Option
from fer_ml.sources._listing import (
    COUNT,
    INTEGER,
    NUMBER,
    PATH,
    Row,
    RowFault,
    csv_header,
    csv_lines,
    csv_parser,
    has_file,
    label_columns,
    mapped,
    parse_integer,
    parse_number,
    require_columns,
    require_file,
    require_root,
    safe_path,
    set_split,
    shown,
)

INDEX = "manifest.csv"
FILE_COLUMNS = ("file", "image_path")
BOX_COLUMNS = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")
COLUMNS = (
    *FILE_COLUMNS,
    *("label", "split", "confidence", "face_id", "weight", "neg_label", *ATTRIBUTES),
    *BOX_COLUMNS,
)
# label_of_word forgives blanks and punctuation, which in a table are signs of a damaged cell.
_WORD = re.compile(r"[A-Za-z]+(?:[ _-][A-Za-z]+)*")
# The name of a group, such as 20-29, 70+ or "South Asian".
_GROUP = re.compile(r"[A-Za-z0-9<>](?:[A-Za-z0-9 ._+<>/-]{0,38}[A-Za-z0-9+>])?")
_PLAIN = {
    "label": _WORD.pattern,
    "confidence": f"(?:{NUMBER})?",
    "weight": rf"(?:{COUNT}(?:\.{COUNT})?)?",
    "neg_label": f"(?:{_WORD.pattern})?",
    **dict.fromkeys(ATTRIBUTES, f"(?:{_GROUP.pattern})?"),
    **dict.fromkeys(("face_id", *BOX_COLUMNS), f"(?:{INTEGER})?"),
}


def list_manifest(root: Path, labels: LabelTable, manifest: str = INDEX) -> pl.DataFrame:
    """Return the listing of the csv file ``manifest`` in ``root``."""
    index = require_file(require_root(root), manifest)
    header = csv_header(index)
    file_column = _file_column(index, header)
    box = BOX_COLUMNS if any(name in header for name in BOX_COLUMNS) else ()
    classes = [name for name in header if label_of_word(name)[0]]
    if "label" not in header and len(classes) > 1:
        raise FerError(
            f"no column 'label', and one for each class: {', '.join(map(repr, classes))}",
            code="one-hot-labels",
            where=index,
            allowed="a column label with the word for the class",
            fix="write a column label: the name of the column with the 1, or with the most votes",
        )
    require_columns(index, header, (file_column, "label", *box))
    _require_spelling(index, header)

    def parse(row: Row, cells: dict[str, str]) -> None:
        if cells.get("confidence"):
            row["confidence"] = parse_number(cells["confidence"], "confidence")
        if cells.get("face_id"):
            row["face_id"] = parse_integer(cells["face_id"], "face_id")
        if cells.get("weight"):
            row["weight"] = _weight(cells["weight"])
        if any(cells[name] for name in box):
            row.update([(name, parse_integer(cells[name], name)) for name in box])
        row["file"] = safe_path(cells[file_column], backslashes=True)
        set_split(row, cells.get("split", "unassigned"), _split)
        if cells.get("neg_label"):
            row["neg_label"] = _negative(cells["neg_label"], cells["label"], labels)
        row.update({name: _group(cells[name], name) for name in ATTRIBUTES if cells.get(name)})
        _set_word(row, cells["label"], labels)

    lines = csv_lines(index, header, {file_column: PATH, **_PLAIN})
    _require_split(index, lines.cells)
    columns = _columns(lines.cells, labels, file_column, box)
    return lines.listing(columns, csv_parser(header, parse))


def _columns(
    cells: pl.DataFrame, labels: LabelTable, file_column: str, box: Sequence[str]
) -> dict[str, pl.Expr]:
    """Return the columns of plain lines; an incomplete box gives no split: the parser decides."""
    meanings = label_columns(cells, "label", labels)
    plain = ("confidence", "face_id", "weight", *ATTRIBUTES, *box)
    given = [name for name in plain if name in cells.columns]
    split = pl.lit("unassigned")
    if "split" in cells.columns:
        split = mapped("split", {word: _split(word) for word in cells["split"].unique()})
    if box:
        edges = pl.sum_horizontal(pl.col(box) != "")
        split = pl.when(edges.is_in([0, len(box)])).then(split)
    negative = pl.lit(None, pl.String)
    if "neg_label" in cells.columns:
        # What is no class, or the label itself, is left to the parser too.
        words = {word: labels(word)[0] for word in cells["neg_label"].unique() if word}
        negative = mapped("neg_label", words)
        wrong = negative.is_null() | (negative == meanings["label"])
        split = pl.when((pl.col("neg_label") == "") | ~wrong.fill_null(False)).then(split)
    return {
        "neg_label": negative,
        **{name: pl.when(pl.col(name) != "").then(name) for name in given},
        **meanings,
        "file": pl.col(file_column),
        "split": split,
    }


def _require_spelling(index: Path, header: list[str]) -> None:
    """Raise ``FerError`` for a known column in another spelling, which would be ignored."""
    ours = {normalise_word(name): name for name in COLUMNS}
    for name in header:
        meant = ours.get(normalise_word(name), name)
        if meant != name:
            raise FerError(
                f"column {name!r} would be ignored: its name differs from {meant!r} in spelling",
                code="misnamed-column",
                where=index,
                allowed=", ".join(COLUMNS),
                fix=f"call it {meant}, or give it a name that is none of these",
            )


def _require_split(index: Path, cells: pl.DataFrame) -> None:
    """Raise ``FerError`` if another column holds the publisher's splits, which would be ignored."""
    if "split" in cells.columns or cells.is_empty():
        return
    for name in cells.columns:
        if name not in COLUMNS and all(map(_split, words := cells[name].unique().to_list())):
            raise FerError(
                f"no column 'split', and column {name!r} says {', '.join(map(repr, words))}",
                code="misnamed-column",
                where=index,
                fix="call it split, or remove it if the rows are to be split anew",
            )


def _file_column(index: Path, header: list[str]) -> str:
    named = [name for name in FILE_COLUMNS if name in header]
    if not named:
        require_columns(index, header, (FILE_COLUMNS[0], "label"))
    if len(named) > 1:
        raise FerError(
            "two columns name the image",
            code="ambiguous-image-column",
            where=index,
            allowed=" or ".join(FILE_COLUMNS),
            fix="remove one of them",
        )
    return named[0]


def _weight(text: str) -> float:
    weight = parse_number(text, "weight")
    if weight < 0:
        raise RowFault(f"malformed line: weight is below 0: {shown(text)}")
    return weight


def _group(text: str, name: str) -> str:
    if not _GROUP.fullmatch(text):
        raise RowFault(f"malformed line: {name} is no name of a group: {shown(text)}")
    return text


def _negative(text: str, label: str, labels: LabelTable) -> str:
    """Return the class of a cell ``neg_label``; ``RowFault`` if it is unknown or the label's."""
    negative, label_class = (_meaning(word, labels)[0] for word in (text, label))
    if negative is None or negative == label_class:
        reason = "is the label itself" if negative else "is no class"
        raise RowFault(f"bad neg_label: {shown(text)} {reason}")
    return negative


def _meaning(text: str, labels: LabelTable) -> tuple[str | None, str | None]:
    return labels(text) if _WORD.fullmatch(text) or not labels.words else (None, None)


def _set_word(row: Row, text: str, labels: LabelTable) -> None:
    row["native_label"] = text
    row["label"], row["excluded"] = _meaning(text, labels)
    if not row["label"] and not row["excluded"]:
        raise RowFault(f"bad label: {shown(text)}")


def _split(word: str) -> str | None:
    return word if word == "unassigned" else split_of_word(word)


ADAPTER = Adapter(
    name="csv_manifest",
    title="A csv that names files and labels",
    layout="manifest.csv with file (or image_path), label, and optional columns",
    read=list_manifest,
    fits=has_file(INDEX),
    labels=WORD_TABLE,
    options={
        "manifest": Option(
            meaning=f"name of the csv (default {INDEX})",
            allowed="a path below the root, with /",
            pattern=r"(?s)(?!.*\.\.)[^/\\:\0][^\\:\0]*",
        )
    },
)
