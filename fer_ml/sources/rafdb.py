"""RAF-DB, basic and compound expressions, as its authors publish them.

``EmoLabel/list_patition_label.txt`` (spelled so by the publisher) has ``<name> <id>`` on each line,
such as ``train_00001.jpg 5``; the prefix of the name is the split. The aligned faces lie in
``Image/aligned`` as ``train_00001_aligned.jpg``, the photos in ``Image/original``; unpacking the
archives often repeats the last folder.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from fer_ml.labels import RAFDB_BASIC_IDS, RAFDB_COMPOUND_IDS
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    by_text,
    expect_fields,
    folder_names,
    make_listing,
    read_rows,
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
SPLITS: dict[str, str] = {"train": "train", "test": "test"}


def list_partition(root: Path, labels: dict[str, str]) -> pl.DataFrame:
    """Listing of ``list_patition_label.txt``, whose ids mean ``labels``."""
    root = require_root(root)
    index = require_file(root, *INDEXES)
    path_of = image_paths(root)

    def parse(row: Row, text: str) -> None:
        name, number = expect_fields(text.split(), 2)
        row["file"] = path_of(safe_path(name))
        set_split(row, name.partition("_")[0], SPLITS)
        set_label(row, number, labels)

    return make_listing(read_rows(index, parse))


def image_paths(root: Path) -> Callable[[str], str]:
    """How a published name becomes the path of its image.

    Folder and naming are chosen once for the whole dataset. Looking for each image in turn would
    replace a missing aligned face by the whole photo, and nobody would see it.
    """
    folder = require_folder(root, *IMAGE_FOLDERS)
    # An empty folder keeps the published naming: all its files are missing, not named otherwise.
    names = folder_names(root / folder)
    renamed = not names or any(name.endswith(ALIGNED_ENDING) for name in names)

    def path_of(name: str) -> str:
        if "aligned" in folder and renamed and not name.endswith(ALIGNED_ENDING):
            name = f"{name.rpartition('.')[0] or name}{ALIGNED_ENDING}"
        return f"{folder}/{name}"

    return path_of


ADAPTER = (
    Adapter(
        name="rafdb_basic",
        title="RAF-DB, seven basic expressions",
        layout="EmoLabel/list_patition_label.txt; Image/aligned/<stem>_aligned.jpg",
        listing=partial(list_partition, labels=by_text(RAFDB_BASIC_IDS)),
    ),
    Adapter(
        name="rafdb_compound",
        title="RAF-DB, compound expressions by their primary emotion",
        layout="EmoLabel/list_patition_label.txt; Image/aligned/<stem>_aligned.jpg",
        listing=partial(list_partition, labels=by_text(RAFDB_COMPOUND_IDS)),
    ),
)
