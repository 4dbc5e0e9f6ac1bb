"""FER+ and FER2013 as published: every row accounted for."""

import csv
import importlib.util
import os
from pathlib import Path

import polars as pl
import pytest

from fer_ml.base.labels import CLASSES, FERPLUS_COLUMNS
from fer_ml.sources import get_adapter

pytestmark = pytest.mark.real_data

FACES = 32_137
FERPLUS_LABELS = {
    "train": {
        "Angry": 2399,
        "Disgust": 175,
        "Fear": 648,
        "Happy": 7410,
        "Neutral": 9365,
        "Sad": 3403,
        "Surprise": 3378,
    },
    "val": {
        "Angry": 310,
        "Disgust": 31,
        "Fear": 73,
        "Happy": 880,
        "Neutral": 1242,
        "Sad": 395,
        "Surprise": 441,
    },
}
FERPLUS_EXCLUDED = {
    "train": {"contempt": 162, "not a face": 150, "tied votes": 1449, "unknown": 170},
    "val": {"contempt": 24, "not a face": 11, "tied votes": 157, "unknown": 25},
}
FER2013_LABELS = {
    "train": {
        "Angry": 3968,
        "Disgust": 439,
        "Fear": 4075,
        "Happy": 7185,
        "Neutral": 4936,
        "Sad": 4791,
        "Surprise": 3164,
    },
    "val": {
        "Angry": 465,
        "Disgust": 56,
        "Fear": 498,
        "Happy": 890,
        "Neutral": 604,
        "Sad": 652,
        "Surprise": 414,
    },
}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sets in their publishers' layouts."""
    beside = Path(__file__).resolve().parents[4] / "shared/data"
    data = Path(os.environ.get("FER_DATA") or beside)
    script = data / "unpack.py"
    if not script.is_file() or not (data / "ferplus.tar").is_file():
        pytest.skip(f"no real faces in {data}: set FER_DATA to the folder of ferplus.tar")
    spec = importlib.util.spec_from_file_location("unpack", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dest = tmp_path_factory.mktemp("faces")
    module.main(dest)
    return dest


def counts(frame: pl.DataFrame, column: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    grouped = frame.drop_nulls(column).group_by("split", column).len().sort("split", column)
    for split, value, number in grouped.rows():
        found.setdefault(split, {})[value] = number
    return found


def test_ferplus(unpacked: Path) -> None:
    root = unpacked / "ferplus"
    frame = get_adapter("ferplus_votes").listing(root)

    # The csv has 158 rows of removed pictures and names three faces twice.
    assert frame.height == 32_298
    assert frame["file"].null_count() == 158
    assert frame["file"].drop_nulls().n_unique() == FACES
    on_disk = {path.relative_to(root).as_posix() for path in root.glob("data/*/*.png")}
    assert set(frame["file"].drop_nulls()) == on_disk
    assert frame["fault"].null_count() == frame.height
    assert counts(frame, "label") == FERPLUS_LABELS
    assert counts(frame, "excluded") == FERPLUS_EXCLUDED


def test_ferplus_distribution(unpacked: Path) -> None:
    root = unpacked / "ferplus"
    majority = get_adapter("ferplus_votes").listing(root)
    frame = get_adapter("ferplus_votes").listing(root, votes="distribution")

    # On these faces no label hangs on a single vote; only such votes are gone.
    assert frame.drop("votes").equals(majority.drop("votes"))
    with (root / "fer2013new.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    column = {label: name for name, label in FERPLUS_COLUMNS.items()}
    assert frame["votes"].to_list() == [
        [float(row[column[label]]) if row[column[label]] != "1" else 0.0 for label in CLASSES]
        for row in rows
    ]
    assert frame.filter(pl.col("label").is_not_null())["votes"].list.sum().min() == 3


def test_fer2013(unpacked: Path) -> None:
    frame = get_adapter("fer2013_csv").listing(unpacked / "fer2013")

    assert frame.height == FACES
    assert frame["fault"].null_count() == frame.height
    assert frame["excluded"].null_count() == frame.height
    assert frame["inline_png"].null_count() == 0
    assert counts(frame, "label") == FER2013_LABELS
