"""RAF-ML as its authors publish it: a distribution over six emotions for each face.

``EmoLabel/distribution.txt`` has ``<name> <six numbers>`` on each line, in ``labels.RAFML_ORDER``;
``EmoLabel/partition_label.txt`` has ``<name> <0 train, 1 test>``. Images lie as in RAF-DB. There
is no Neutral.
"""

from collections import defaultdict
from pathlib import Path

import polars as pl

from fer_ml.labels import CLASSES, RAFML_ORDER
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    RowFault,
    expect_fields,
    make_listing,
    parse_number,
    read_rows,
    require_file,
    require_root,
    safe_path,
    set_split,
    shown,
    winners,
)
from fer_ml.sources.rafdb import image_paths

DISTRIBUTION = "EmoLabel/distribution.txt"
PARTITION = "EmoLabel/partition_label.txt"
SPLITS: dict[str, str] = {"0": "train", "1": "test"}


def list_argmax(root: Path) -> pl.DataFrame:
    """Listing of ``distribution.txt``; the label is the emotion with the strictly largest share.

    A line of ``partition_label.txt`` for which there is no distribution is a faulty row of its own.
    """
    root = require_root(root)
    distribution = require_file(root, DISTRIBUTION)
    partition = read_rows(require_file(root, PARTITION), _parse_partition)
    path_of = image_paths(root)
    words: dict[str, set[str]] = defaultdict(set)
    for line in partition:
        if not line.get("fault"):
            words[line["name"]].add(line["word"])
    listed: set[str] = set()

    def parse(row: Row, text: str) -> None:
        fields = text.split()
        listed.update(fields[:1])
        name, *shares = expect_fields(fields, 1 + len(RAFML_ORDER))
        _set_shares(row, shares)
        row["file"] = path_of(safe_path(name))
        _set_partition(row, words.get(name, set()))
        most = row["native_label"].split("|")
        row.update({"label": most[0]} if len(most) == 1 else {"excluded": "tied votes"})

    rows = read_rows(distribution, parse)
    rows += [_without_distribution(line) for line in partition if line.get("name") not in listed]
    return make_listing(rows)


def _parse_partition(row: Row, text: str) -> None:
    row["name"], row["word"] = expect_fields(text.split(), 2)


def _set_shares(row: Row, fields: list[str]) -> None:
    shares = [parse_number(text, label) for label, text in zip(RAFML_ORDER, fields, strict=True)]
    if min(shares) < 0:
        raise RowFault(f"malformed line: negative share {min(shares)}")
    row["votes"] = [
        dict(zip(RAFML_ORDER, shares, strict=True)).get(label, 0.0) for label in CLASSES
    ]
    row["native_label"] = "|".join(RAFML_ORDER[index] for index in winners(shares))


def _set_partition(row: Row, words: set[str]) -> None:
    if not words:
        raise RowFault(f"unknown split: not in {PARTITION}")
    if len(words) > 1:
        raise RowFault(f"unknown split: {' and '.join(map(shown, sorted(words)))}")
    set_split(row, next(iter(words)), SPLITS)


def _without_distribution(line: Row) -> Row:
    fault = line.get("fault") or f"malformed line: no distribution of {shown(line['name'])}"
    return {"where": line["where"], "fault": fault}


ADAPTER = Adapter(
    name="rafml_argmax",
    title="RAF-ML, the largest of six shares",
    layout="EmoLabel/{distribution,partition_label}.txt; Image/aligned/<stem>_aligned.jpg",
    listing=list_argmax,
)
