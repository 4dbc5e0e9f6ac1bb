"""RAF-ML as its authors publish it: a distribution over six emotions for each face.

``EmoLabel/distribution.txt`` has ``<name> <six numbers>`` on each line, in ``labels.RAFML_ORDER``;
``EmoLabel/partition_label.txt`` has ``<name> <0 train, 1 test>``. Images lie as in RAF-DB. There
is no Neutral.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.base.labels import RAFML_ORDER
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    COUNT,
    NAME,
    WORD,
    Columns,
    Lines,
    Row,
    RowFault,
    class_votes,
    expect_fields,
    has_file,
    make_listing,
    mapped,
    parse_number,
    read_rows,
    require_file,
    require_root,
    safe_path,
    set_meaning,
    set_split,
    shown,
    vote_columns,
    winner,
)
from fer_ml.sources.rafdb import image_path

DISTRIBUTION = "EmoLabel/distribution.txt"
PARTITION = "EmoLabel/partition_label.txt"
SPLITS: dict[str, str] = {"0": "train", "1": "test"}
#: Each of the six is one of the classes.
MEANINGS = {label: label for label in RAFML_ORDER}
_PLAIN_SHARE = rf"{COUNT}(?:\.{COUNT})?"


def list_argmax(root: Path) -> pl.DataFrame:
    """Return the listing of ``distribution.txt``; the label is the emotion of strictly most share.

    A line of ``partition_label.txt`` without a distribution becomes a faulty row.
    """
    root = require_root(root)
    index = require_file(root, DISTRIBUTION)
    partition = Lines(require_file(root, PARTITION), {"name": NAME, "word": WORD})
    words = _words(partition)
    image = image_path(root)
    listed: set[str] = set()

    def parse(row: Row, text: str) -> None:
        fields = text.split()
        listed.update(fields[:1])
        name, *shares = expect_fields(fields, 1 + len(RAFML_ORDER))
        meaning = _set_shares(row, shares)
        row["file"] = safe_path(name)
        _set_partition(row, words.get(name, set()))
        set_meaning(row, meaning)

    lines = Lines(index, {"file": NAME, **dict.fromkeys(RAFML_ORDER, _PLAIN_SHARE)})
    shares = lines.cells.select(pl.col(RAFML_ORDER).cast(pl.Float64)).to_numpy()
    splits = {
        name: SPLITS.get(min(entries)) for name, entries in words.items() if len(entries) == 1
    }
    columns: Columns = {
        **vote_columns(shares, MEANINGS),
        "file": pl.col("file"),
        "split": mapped("file", splits),
    }
    faces = lines.listing(columns, parse).with_columns(image)
    listed.update(lines.cells["file"])
    return pl.concat([faces, _without_distribution(partition, listed)])


def _words(partition: Lines) -> dict[str, set[str]]:
    """Return for each name the words for its split: several if lines contradict each other."""
    words: dict[str, set[str]] = defaultdict(set)
    for name, word in partition.cells.iter_rows():
        words[name].add(word)
    for row in read_rows(partition.path.name, _parse_partition, partition.others()):
        if not row.get("fault"):
            words[row["name"]].add(row["word"])
    return words


def _parse_partition(row: Row, text: str) -> None:
    row["name"], row["word"] = expect_fields(text.split(), 2)


def _set_shares(row: Row, fields: list[str]) -> str:
    shares = [parse_number(text, label) for label, text in zip(RAFML_ORDER, fields, strict=True)]
    if min(shares) < 0:
        raise RowFault(f"malformed line: negative share {min(shares)}")
    row["votes"] = class_votes(np.array(shares), MEANINGS).tolist()
    row["native_label"], meaning = winner(shares, MEANINGS)
    return meaning


def _set_partition(row: Row, words: set[str]) -> None:
    if not words:
        raise RowFault(f"unknown split: not in {PARTITION}")
    if len(words) > 1:
        raise RowFault(f"unknown split: {' and '.join(map(shown, sorted(words)))}")
    set_split(row, next(iter(words)), SPLITS.get)


def _without_distribution(partition: Lines, listed: set[str]) -> pl.DataFrame:
    is_listed = np.array([name in listed for name in partition.cells["name"]], dtype=bool)
    lines = read_rows(partition.path.name, _parse_partition, partition.others(is_listed))
    return make_listing(
        [
            {
                "where": line["where"],
                "fault": line.get("fault")
                or f"malformed line: no distribution of {shown(line['name'])}",
            }
            for line in lines
            if line.get("name") not in listed
        ]
    )


ADAPTER = Adapter(
    name="rafml_argmax",
    title="RAF-ML, the largest of six shares",
    layout="EmoLabel/{distribution,partition_label}.txt; Image/aligned/<stem>_aligned.jpg",
    read=list_argmax,
    fits=has_file(DISTRIBUTION),
)
