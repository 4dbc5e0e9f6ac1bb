"""RAF-DB, basic and compound expressions, as its authors publish them.

``EmoLabel/list_patition_label.txt`` (spelled so by the publisher) has ``<name> <id>`` on each line,
such as ``train_00001.jpg 5``; the prefix of the name is the split. The aligned faces lie in
``Image/aligned`` as ``train_00001_aligned.jpg``, the photos in ``Image/original``; unpacking the
archives often repeats the last folder.
"""

from itertools import chain
from pathlib import Path

import polars as pl

from fer_ml.base.labels import (
    RAFDB_BASIC_IDS,
    RAFDB_COMPOUND_IDS,
    SPLIT_WORDS,
    LabelTable,
    numbered,
)
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    NAME,
    WORD,
    Lines,
    Row,
    expect_fields,
    folder_names,
    has_file,
    label_columns,
    require_file,
    require_folder,
    require_root,
    safe_path,
    set_label,
    set_split,
)

INDEXES = ("EmoLabel/list_patition_label.txt", "EmoLabel/list_partition_label.txt")
IMAGE_FOLDERS = (
    "Image/aligned/aligned",
    "Image/aligned",
    "Image/original/original",
    "Image/original",
)
ALIGNED_ENDING = "_aligned.jpg"


def list_partition(root: Path, labels: LabelTable) -> pl.DataFrame:
    """Return the listing of ``list_patition_label.txt``, whose ids are mapped by ``labels``."""
    root = require_root(root)
    index = require_file(root, *INDEXES)
    image = image_path(root)

    def parse(row: Row, text: str) -> None:
        name, number = expect_fields(text.split(), 2)
        row["file"] = safe_path(name)
        set_split(row, name.partition("_")[0])
        set_label(row, number, labels)

    lines = Lines(index, {"file": NAME, "native_label": WORD})
    prefix = pl.col("file").str.extract("^([^_]*)").str.to_lowercase()
    columns = {
        **label_columns(lines.cells, "native_label", labels),
        "file": pl.col("file"),
        "split": prefix.replace_strict(SPLIT_WORDS, default=None),
    }
    return lines.listing(columns, parse).with_columns(image)


def image_path(root: Path) -> pl.Expr:
    """Return an expression from the published name in column ``file`` to the image's path.

    Folder and naming are chosen once for the whole dataset. A search for each image would silently
    replace a missing aligned face by the whole photo.
    """
    folder = require_folder(root, *IMAGE_FOLDERS)
    # An empty folder keeps the published naming: all its files are missing, not named otherwise.
    names = folder_names(root / folder)
    first = next(names, ALIGNED_ENDING)
    renamed = any(name.endswith(ALIGNED_ENDING) for name in chain((first,), names))
    name = pl.col("file")
    if "aligned" in folder and renamed:
        aligned = name.str.replace(r"(?s)^(.+)\.[^.]*$", "${1}") + ALIGNED_ENDING
        name = pl.when(name.str.ends_with(ALIGNED_ENDING)).then(name).otherwise(aligned)
    return (f"{folder}/" + name).alias("file")


ADAPTER = (
    Adapter(
        name="rafdb_basic",
        title="RAF-DB, seven basic expressions",
        layout="EmoLabel/list_patition_label.txt; Image/aligned/<stem>_aligned.jpg",
        read=list_partition,
        fits=has_file(*INDEXES),
        labels=numbered(RAFDB_BASIC_IDS),
    ),
    Adapter(
        name="rafdb_compound",
        title="RAF-DB, compound expressions by their primary emotion",
        layout="EmoLabel/list_patition_label.txt; Image/aligned/<stem>_aligned.jpg",
        read=list_partition,
        fits=has_file(*INDEXES),
        labels=numbered(RAFDB_COMPOUND_IDS),
    ),
)
