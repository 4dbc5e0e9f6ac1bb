"""Every adapter on a tiny dataset, against rows worked out by hand."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES, EXCLUSIONS
from fer_ml.sources import PUBLISHER_SPLITS, adapters, get_adapter, listing_schema
from fer_ml.sources._listing import MAX_LINE
from tests.machine import POSIX, pipe
from tests.refusals import refused

MakeTree = Callable[[str], Path]


def folder_row(path: str, split: str | None, native: str | None, **more: Any) -> dict[str, Any]:
    row = {"where": path, "file": path, "split": split, "native_label": native, **more}
    return {name: value for name, value in row.items() if value is not None}


def votes(**by_class: float) -> list[float]:
    return [float(by_class.get(name, 0)) for name in CLASSES]


def raf_rows(index: str, first: dict[str, str], **labels: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that differ between RAF-DB's two sets only by what the ids mean."""
    folder = "Image/aligned/aligned"

    def row(line: int, name: str, split: str, native: str, **more: Any) -> dict[str, Any]:
        where, file = f"{index}:{line}", f"{folder}/{name}_aligned.jpg"
        return {"where": where, "file": file, "split": split, "native_label": native, **more}

    unknown = row(5, "fold_5", "fold", "", fault="unknown split: 'fold'")
    del unknown["native_label"]
    return [
        row(1, "train_1", "train", "1", **first),
        row(2, "test_2", "test", "5", label="Sad"),
        row(3, "train_3", "train", "11", **labels["eleven"]),
        row(4, "train_4", "train", "12", fault="bad label: '12'"),
        unknown,
        {"where": f"{index}:6", "fault": "malformed line: 1 of 2 fields"},
        {"where": f"{index}:7", "fault": "bad path: '/etc/train_7.jpg'"},
    ]


def faulty(where: str, fault: str, **more: Any) -> dict[str, Any]:
    return {"where": where, "fault": fault, **more}


def yolo_row(where: str, split: str, face: int, native: str | None, **more: Any) -> dict[str, Any]:
    stem, _, line = where.partition(".txt:")
    file = f"{stem.replace('labels', 'images')}.png"
    row = {"where": f"{stem}.txt:{line}", "file": file, "split": split, "face_id": face}
    return row | ({} if native is None else {"native_label": native}) | more


def box(left: int, top: int, right: int, bottom: int) -> dict[str, int]:
    edges = {"left": left, "top": top, "right": right, "bottom": bottom}
    return {f"bbox_{edge}": value for edge, value in edges.items()}


BOX = {"bbox_left": 20, "bbox_top": 10, "bbox_right": 60, "bbox_bottom": 70}
ANGRY_SHARES = votes(Angry=1)

#: Without nulls, and without the PNGs of fer2013_csv.
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "split_folders": [
        folder_row("fold/fear/h.png", "fold", "fear", fault="unknown split: 'fold'"),
        folder_row("stray.png", None, None, fault="unknown split: ''"),
        folder_row("test/neutral/notes.txt", "test", "neutral", label="Neutral"),
        folder_row("train/Bored/c.png", "train", "Bored", fault="bad label: 'Bored'"),
        folder_row("train/Happy/a.png", "train", "Happy", label="Happy"),
        folder_row("train/Happy/b.png", "train", "Happy", label="Happy"),
        folder_row(
            "train/Happy/deep/e.png",
            "train",
            "Happy",
            fault="bad path: folder 'deep' inside a class folder",
        ),
        folder_row("train/contempt/d.png", "train", "contempt", excluded="contempt"),
        folder_row("train/loose.png", "train", None, fault="bad label: not in a class folder"),
        folder_row("valid/suprise/f.png", "val", "suprise", label="Surprise"),
        folder_row("validation/SAD/g.png", "val", "SAD", label="Sad"),
    ],
    "class_folders": [
        folder_row("Bored/c.jpg", "unassigned", "Bored", fault="bad label: 'Bored'"),
        folder_row("anger/a.jpg", "unassigned", "anger", label="Angry"),
        folder_row(
            "anger/sub/d.jpg",
            "unassigned",
            "anger",
            fault="bad path: folder 'sub' inside a class folder",
        ),
        folder_row("non-face/b.jpg", "unassigned", "non-face", excluded="not a face"),
        folder_row("stray.jpg", "unassigned", None, fault="bad label: not in a class folder"),
    ],
    "ferplus_votes": [
        {
            "where": "fer2013new.csv:2",
            "file": "data/FER2013Train/a.png",
            "native_label": "anger",
            "label": "Angry",
            "split": "train",
            "votes": [4.0, 0.0, 3.0, 2.0, 0.0, 0.0, 1.0],
        },
        {
            "where": "fer2013new.csv:3",
            "file": "data/FER2013Valid/b.png",
            "native_label": "contempt",
            "excluded": "contempt",
            "split": "val",
            "votes": votes(Fear=4),
        },
        {
            "where": "fer2013new.csv:4",
            "file": "data/FER2013Test/c.png",
            "native_label": "neutral|happiness",
            "excluded": "tied votes",
            "split": "test",
            "votes": votes(Neutral=5, Happy=5),
        },
        {
            "where": "fer2013new.csv:5",
            "file": "data/FER2013Train/d.png",
            "native_label": "unknown",
            "excluded": "unknown",
            "split": "train",
            "votes": votes(Neutral=2),
        },
        {
            "where": "fer2013new.csv:6",
            "native_label": "NF",
            "excluded": "not a face",
            "split": "train",
            "votes": votes(),
        },
        faulty(
            "fer2013new.csv:7",
            "malformed line: no image name",
            native_label="neutral",
            votes=votes(Neutral=10),
        ),
        faulty("fer2013new.csv:8", "malformed line: 5 of 12 fields"),
        faulty(
            "fer2013new.csv:9",
            "bad path: '../f.png'",
            native_label="neutral",
            votes=votes(Neutral=9),
        ),
        faulty(
            "fer2013new.csv:10",
            "unknown split: 'Holdout'",
            native_label="neutral",
            votes=votes(Neutral=9),
            split="Holdout",
        ),
        faulty("fer2013new.csv:11", "malformed line: vote 'fear' is negative: -1"),
        faulty("fer2013new.csv:12", "malformed line: not UTF-8"),
    ],
    "fer2013_csv": [
        {"where": "fer2013.csv:2", "native_label": "3", "label": "Happy", "split": "train"},
        {"where": "fer2013.csv:3", "native_label": "6", "label": "Neutral", "split": "val"},
        {"where": "fer2013.csv:4", "native_label": "0", "label": "Angry", "split": "test"},
        faulty("fer2013.csv:5", "bad label: '7'", native_label="7", split="train"),
        faulty("fer2013.csv:6", "malformed line: 2303 of 2304 pixels"),
        faulty("fer2013.csv:7", "malformed line: pixels are not all integers from 0 to 255"),
        faulty("fer2013.csv:8", "unknown split: 'Holdout'", split="Holdout"),
        faulty("fer2013.csv:9", "malformed line: 1 of 3 fields"),
    ],
    "rafdb_basic": raf_rows(
        "list_patition_label.txt", {"label": "Surprise"}, eleven={"fault": "bad label: '11'"}
    ),
    "rafdb_compound": raf_rows(
        "list_partition_label.txt", {"label": "Happy"}, eleven={"label": "Disgust"}
    ),
    "rafml_argmax": [
        {
            "where": "distribution.txt:1",
            "file": "Image/aligned/1_aligned.jpg",
            "native_label": "Happy",
            "label": "Happy",
            "split": "train",
            "votes": votes(Surprise=0.1, Happy=0.7, Sad=0.2),
        },
        {
            "where": "distribution.txt:2",
            "file": "Image/aligned/2_aligned.jpg",
            "native_label": "Surprise|Fear",
            "excluded": "tied votes",
            "split": "test",
            "votes": votes(Surprise=0.5, Fear=0.5),
        },
        faulty("distribution.txt:3", "malformed line: 6 of 7 fields"),
        faulty(
            "distribution.txt:4",
            "unknown split: '2'",
            file="Image/aligned/4_aligned.jpg",
            native_label="Angry",
            split="2",
            votes=ANGRY_SHARES,
        ),
        faulty(
            "distribution.txt:5",
            "unknown split: not in EmoLabel/partition_label.txt",
            file="Image/aligned/5_aligned.jpg",
            native_label="Angry",
            votes=ANGRY_SHARES,
        ),
        faulty("distribution.txt:6", "malformed line: Sad is not a number: 'nan'"),
        faulty("partition_label.txt:6", "malformed line: no distribution of '7.jpg'"),
        faulty("partition_label.txt:7", "malformed line: 1 of 2 fields"),
    ],
    "expw": [
        {
            "where": "label.lst:1",
            "file": "origin/origin/a.jpg",
            "native_label": "3",
            "label": "Happy",
            "split": "unassigned",
            "confidence": 62.5,
            "face_id": 0,
            **BOX,
        },
        {
            "where": "label.lst:2",
            "file": "origin/origin/a.jpg",
            "native_label": "6",
            "label": "Neutral",
            "split": "unassigned",
            "confidence": 1.0,
            "face_id": 1,
            "bbox_left": 90,
            "bbox_top": -4,
            "bbox_right": 30,
            "bbox_bottom": 8,
        },
        faulty(
            "label.lst:3",
            "bad label: '7'",
            file="origin/origin/b.jpg",
            native_label="7",
            split="unassigned",
            confidence=62.5,
            face_id=0,
            **BOX,
        ),
        faulty("label.lst:4", "malformed line: 6 of 8 fields"),
        faulty("label.lst:5", "malformed line: bbox_bottom is not an integer: '7.5'"),
        faulty(
            "label.lst:6",
            "bad path: '../e.jpg'",
            split="unassigned",
            confidence=62.5,
            face_id=0,
            **BOX,
        ),
        faulty("label.lst:7", "malformed line: 0 of 8 fields"),
    ],
    "affectnet_yolo": [
        faulty("stray.png", "bad path: neither an image nor a label file"),
        faulty("fold/images/g.png", "unknown split: 'fold'"),
        yolo_row("labels/Val/h.txt:1", "val", 0, "Happy", label="Happy", **box(0, 0, 2, 2)),
        yolo_row("train/labels/a.txt:1", "train", 0, "Anger", label="Angry", **box(0, 0, 10, 20)),
        yolo_row(
            "train/labels/a.txt:2", "train", 1, "Contempt", excluded="contempt", **box(1, 2, 4, 8)
        ),
        # Outside of the image, and for the gate to find.
        yolo_row("train/labels/a.txt:3", "train", 2, "Happy", label="Happy", **box(7, 5, 11, 15)),
        *(
            yolo_row(
                f"train/labels/a.txt:{line}",
                "train",
                line - 1,
                native,
                fault=f"bad label: {native!r}",
                **box(0, 0, 10, 20),
            )
            for line, native in ((4, "Bored"), (5, "4"), (6, "02"))
        ),
        *(
            yolo_row(f"train/labels/a.txt:{line}", "train", line - 1, None, fault=fault)
            for line, fault in (
                (7, "malformed line: 4 of 5 fields"),
                (8, "malformed line: h is not a number: 'nan'"),
                (9, "malformed line: the box is not in fractions of the image"),
                (10, "malformed line: not UTF-8"),
            )
        ),
        faulty("train/images/b.png", "bad label: no label file 'b.txt'"),
        faulty("train/images/c.jpg", "bad label: 'c.txt' belongs to several images"),
        faulty("train/images/c.png", "bad label: 'c.txt' belongs to several images"),
        faulty(
            "train/labels/d.txt",
            "bad label: no face in the label file",
            file="train/images/d.png",
            split="train",
        ),
        faulty("train/images/deep/e.png", "bad path: neither an image nor a label file"),
        faulty("train/labels/z.txt", "bad label: no image belongs to this file"),
        yolo_row(
            "valid/labels/f.txt:1",
            "val",
            0,
            None,
            fault="undecodable: no image size in the file's header",
        ),
    ],
    "csv_manifest": [
        {
            "where": "manifest.csv:2",
            "file": "a.jpg",
            "native_label": "happy",
            "label": "Happy",
            "split": "train",
            "confidence": 0.5,
            "face_id": 2,
            "bbox_left": 1,
            "bbox_top": 2,
            "bbox_right": 3,
            "bbox_bottom": 4,
        },
        {
            "where": "manifest.csv:3",
            "file": "b,1.jpg",
            "native_label": "Non-Face",
            "excluded": "not a face",
            "split": "unassigned",
        },
        faulty(
            "manifest.csv:4",
            "bad label: 'Happy '",
            file="c.jpg",
            native_label="Happy ",
            split="val",
        ),
        faulty("manifest.csv:5", "bad label: '3'", file="d.jpg", native_label="3", split="test"),
        faulty("manifest.csv:6", "unknown split: 'fold'", file="e.jpg", split="fold"),
        faulty("manifest.csv:7", "malformed line: bbox_right is not an integer: ''"),
        faulty("manifest.csv:8", r"bad path: 'C:\\faces\\g.jpg'"),
        faulty("manifest.csv:9", "malformed line: 2 of 10 fields"),
        faulty("manifest.csv:10", "malformed line: unexpected end of data"),
        faulty("manifest.csv:11", "malformed line: no image name"),
    ],
}

INDEX_FILES = {
    "ferplus_votes": ["fer2013new.csv"],
    "fer2013_csv": ["fer2013.csv"],
    "rafdb_basic": ["EmoLabel/list_patition_label.txt"],
    "rafdb_compound": ["EmoLabel/list_partition_label.txt"],
    "rafml_argmax": ["EmoLabel/distribution.txt", "EmoLabel/partition_label.txt"],
    "expw": ["label.lst"],
    "affectnet_yolo": ["data.yaml"],
    "csv_manifest": ["manifest.csv"],
}
#: The name that the publisher uses is the one that a user is asked for.
INDEX_NAME = {"EmoLabel/list_partition_label.txt": "EmoLabel/list_patition_label.txt"}
INDEX_CASES = [(name, file) for name, files in INDEX_FILES.items() for file in files]


def test_every_adapter_has_an_expected_listing() -> None:
    assert set(EXPECTED) == set(adapters())


@pytest.mark.parametrize("name", EXPECTED)
def test_listing_is_the_one_worked_out_by_hand(name: str, make_tree: MakeTree) -> None:
    frame = get_adapter(name).listing(make_tree(name))

    found = [
        {key: value for key, value in row.items() if value is not None and key != "inline_png"}
        for row in frame.to_dicts()
    ]
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_listing_keeps_the_contract(name: str, make_tree: MakeTree) -> None:
    root = make_tree(name)
    listing = get_adapter(name).listing
    frame = listing(root)

    assert dict(frame.schema) == listing_schema()
    assert frame.equals(listing(root))
    assert frame["where"].null_count() == 0
    assert frame["where"].is_unique().all()
    outcomes = frame.select(
        pl.sum_horizontal(pl.col("label", "excluded", "fault").is_not_null().cast(pl.Int64))
    )
    assert outcomes.to_series().eq(1).all()
    assert set(frame["label"].drop_nulls()) <= set(CLASSES)
    assert set(frame["excluded"].drop_nulls()) <= set(EXCLUSIONS)
    good = frame.filter(pl.col("fault").is_null())
    assert set(good["split"]) <= set(PUBLISHER_SPLITS)
    usable = frame.filter(pl.col("label").is_not_null())
    assert (
        usable.select(pl.col("file").is_null() ^ pl.col("inline_png").is_null()).to_series().all()
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_missing_root_is_refused(name: str, tmp_path: Path) -> None:
    with refused("missing-folder") as caught:
        get_adapter(name).listing(tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")
    assert caught.value.fix


@pytest.mark.parametrize("name", EXPECTED)
def test_root_that_is_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with refused("not-a-folder"):
        get_adapter(name).listing(tmp_path / "file")


@pytest.mark.parametrize("name", EXPECTED)
def test_empty_root_is_refused(name: str, tmp_path: Path) -> None:
    with refused("empty-folder"):
        get_adapter(name).listing(tmp_path)


@pytest.mark.parametrize(("name", "file"), INDEX_CASES)
def test_missing_index_is_refused(name: str, file: str, make_tree: MakeTree) -> None:
    root = make_tree(name)
    (root / file).unlink()
    (root / "other.txt").write_text("x")
    with refused("missing-index-file") as caught:
        get_adapter(name).listing(root)
    assert INDEX_NAME.get(file, file) in caught.value.what


@pytest.mark.parametrize(("name", "file"), INDEX_CASES)
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_index_without_lines_is_refused(
    name: str, file: str, data: bytes, make_tree: MakeTree
) -> None:
    root = make_tree(name)
    (root / file).write_bytes(data)
    if data and file.endswith((".txt", ".lst")):
        # A line of its own, however useless, is reported and not dropped.
        assert "malformed line: 0 of" in str(get_adapter(name).listing(root)["fault"].to_list())
    else:
        code = {".csv": "invalid-csv-header", ".yaml": "invalid-class-names"}
        with refused(code.get(Path(file).suffix, "empty-index-file")):
            get_adapter(name).listing(root)


@pytest.mark.parametrize("name", EXPECTED)
def test_unknown_option_is_refused(name: str, make_tree: MakeTree) -> None:
    adapter = get_adapter(name)
    with refused("unknown-option") as caught:
        adapter.listing(make_tree(name), colour="red")
    assert caught.value.allowed == (", ".join(sorted(adapter.options)) or "no option at all")


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        ("ferplus_votes", "votes", "Majority", "majority, distribution"),
        ("ferplus_votes", "votes", "", "majority, distribution"),
        ("ferplus_votes", "votes", True, "majority, distribution"),
        ("expw", "min_confidence", "60%", "a number"),
        ("expw", "min_confidence", "nan", "a number"),
        ("expw", "min_confidence", "1_0", "a number"),
        ("expw", "min_confidence", "٣", "a number"),
        ("expw", "min_confidence", "60\n", "a number"),
        ("expw", "min_confidence", 60, "a number"),
        ("csv_manifest", "manifest", "", "a path below the root"),
        ("csv_manifest", "manifest", "/etc/faces.csv", "a path below the root"),
        ("csv_manifest", "manifest", "../faces.csv", "a path below the root"),
    ],
)
def test_option_with_another_value_is_refused(
    name: str, option: str, value: Any, allowed: str, make_tree: MakeTree
) -> None:
    with refused("invalid-option") as caught:
        get_adapter(name).listing(make_tree(name), **{option: value})
    assert option in caught.value.what
    assert str(caught.value.allowed).startswith(allowed)


def test_expw_below_a_confidence_is_excluded_and_not_dropped(make_tree: MakeTree) -> None:
    root = make_tree("expw")
    lines = [f"{name}.jpg 0 1 2 3 4 {c} 3" for name, c in (("a", 59.99), ("b", 60), ("c", "6e1"))]
    (root / "label.lst").write_text("\n".join([*lines, "d.jpg 0 1 2 3 4 5 7"]))
    everything = get_adapter("expw").listing(root)
    frame = get_adapter("expw").listing(root, min_confidence="60")
    assert frame.select("label", "excluded", "fault").rows() == [
        (None, "low confidence", None),
        ("Happy", None, None),
        ("Happy", None, None),
        (None, None, "bad label: '7'"),
    ]
    same = pl.exclude("label", "excluded")
    assert frame.select(same).equals(everything.select(same))


def test_ferplus_distribution_leaves_single_votes_out(make_tree: MakeTree) -> None:
    root = make_tree("ferplus_votes")
    header = (root / "fer2013new.csv").read_bytes().partition(b"\n")[0]
    # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF; the blank
    # in the last name takes its line through the strict parser.
    lines = [
        b"Training,a.png,1,2,0,0,4,0,3,0,0,0",
        b"Training,b.png,1,1,1,1,1,1,1,1,1,1",
        b"Training,c.png,0,0,0,3,0,0,0,2,5,0",
        b"Training,d.png,0,0,0,4,0,0,0,4,1,1",
        b"Training,e.png,0,3,0,0,0,0,0,6,1,0",
        b"Training,f f.png,1,2,0,0,4,0,3,0,0,0",
    ]
    (root / "fer2013new.csv").write_bytes(b"\n".join([header, *lines]))
    frame = get_adapter("ferplus_votes").listing(root, votes="distribution")
    assert frame.select("label", "excluded", "votes").rows() == [
        ("Angry", None, votes(Angry=4, Fear=3, Happy=2)),
        (None, "tied votes", votes()),
        (None, "unknown", votes(Sad=3)),
        (None, "tied votes", votes(Sad=4)),
        (None, "contempt", votes(Happy=3)),
        ("Angry", None, votes(Angry=4, Fear=3, Happy=2)),
    ]
    majority = get_adapter("ferplus_votes").listing(root, votes="majority")
    assert majority["votes"][0].to_list() == votes(Angry=4, Fear=3, Happy=2, Neutral=1)
    assert majority.equals(get_adapter("ferplus_votes").listing(root))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("ferplus_votes", "Usage"),
        ("ferplus_votes", "NF"),
        ("fer2013_csv", "pixels"),
        ("csv_manifest", "image_path"),
        ("csv_manifest", "label"),
        ("csv_manifest", "bbox_right"),
    ],
)
def test_missing_column_is_refused_with_the_columns_found(
    name: str, column: str, make_tree: MakeTree
) -> None:
    root = make_tree(name)
    index = root / INDEX_FILES[name][0]
    header, _, rest = index.read_bytes().partition(b"\n")
    # A blank behind a name makes it another name: the header is read exactly.
    index.write_bytes(header.replace(column.encode(), column.encode() + b" ") + b"\n" + rest)

    with refused("missing-column") as caught:
        get_adapter(name).listing(root)
    assert f"'{column} '" in str(caught.value.where)
    needed = "file" if column == "image_path" else column
    assert f"'{needed}'" in str(caught.value.allowed)


@pytest.mark.parametrize(("name", "file"), [case for case in INDEX_CASES if case[1][-3:] == "csv"])
@pytest.mark.parametrize("header", ["a,b,a", "", '"a', "\xff"])
def test_header_that_cannot_be_read_is_refused(
    name: str, file: str, header: str, make_tree: MakeTree
) -> None:
    root = make_tree(name)
    (root / file).write_bytes(f"{header}\n1,2,3\n".encode("latin-1"))
    with refused("invalid-csv-header"):
        get_adapter(name).listing(root)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ferplus_votes", "data/FER2013Train"),
        ("rafdb_basic", "Image"),
        ("rafml_argmax", "Image"),
        ("expw", "origin"),
    ],
)
def test_no_image_folder_at_all_is_refused(name: str, folder: str, make_tree: MakeTree) -> None:
    root = make_tree(name)
    (root / folder).rename(root / "elsewhere")
    with refused("missing-image-folder"):
        get_adapter(name).listing(root)


def test_ferplus_accepts_image_folders_below_the_root(make_tree: MakeTree) -> None:
    root = make_tree("ferplus_votes")
    (root / "data/FER2013Train").rename(root / "FER2013Train")
    frame = get_adapter("ferplus_votes").listing(root)
    # The absent folders of the other splits stay where they belong, to be reported as missing.
    assert frame["file"].drop_nulls().to_list() == [
        "FER2013Train/a.png",
        "FER2013Valid/b.png",
        "FER2013Test/c.png",
        "FER2013Train/d.png",
    ]


def test_fer2013_pixels_are_kept_exactly(make_tree: MakeTree) -> None:
    root = make_tree("fer2013_csv")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    text = " ".join(map(str, pixels.reshape(-1).tolist()))
    (root / "fer2013.csv").write_text(f"emotion,pixels,Usage\n3,{text},Training\n")
    png = get_adapter("fer2013_csv").listing(root)["inline_png"][0]
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("word", ["1000", "-1", "1.5", "x", "", "+1", "1_0", "256", "\t1", "²"])
def test_fer2013_refuses_pixels_that_are_not_bytes(word: str, make_tree: MakeTree) -> None:
    root = make_tree("fer2013_csv")
    for position in (0, 1000, 2303):
        words = ["0"] * 2304
        words[position] = word
        text = f"emotion,pixels,Usage\n3,{' '.join(words)},Training\n"
        (root / "fer2013.csv").write_text(text, encoding="utf-8")
        fault = get_adapter("fer2013_csv").listing(root)["fault"][0]
        assert fault == "malformed line: pixels are not all integers from 0 to 255"


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["Image/aligned/train_1_aligned.jpg"], "Image/aligned/train_1_aligned.jpg"),
        (["Image/aligned/aligned/train_1.jpg"], "Image/aligned/aligned/train_1.jpg"),
        (["Image/aligned/train_9.jpg"], "Image/aligned/train_1.jpg"),
        (["Image/original/original/train_1.jpg"], "Image/original/original/train_1.jpg"),
        (["Image/original/train_1.jpg"], "Image/original/train_1.jpg"),
        # The aligned face is missing, and the photo beside it must not take its place.
        (
            ["Image/aligned/train_2_aligned.jpg", "Image/original/train_1.jpg"],
            "Image/aligned/train_1_aligned.jpg",
        ),
    ],
)
def test_rafdb_layout_is_chosen_once(
    images: list[str], expected: str, tmp_path: Path, make_tree: MakeTree
) -> None:
    root = make_tree("rafdb_basic")
    (root / "Image").rename(tmp_path / "old")
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(b"")
    assert get_adapter("rafdb_basic").listing(root)["file"][0] == expected


def test_rafdb_empty_aligned_folder_keeps_the_published_naming(make_tree: MakeTree) -> None:
    root = make_tree("rafdb_basic")
    (root / "Image/aligned/aligned/train_1_aligned.jpg").unlink()
    file = get_adapter("rafdb_basic").listing(root)["file"][0]
    assert file == "Image/aligned/aligned/train_1_aligned.jpg"


def test_rafdb_name_that_is_aligned_already_is_kept(make_tree: MakeTree) -> None:
    root = make_tree("rafdb_basic")
    (root / "EmoLabel/list_patition_label.txt").write_text("train_1_aligned.jpg 4\n")
    file = get_adapter("rafdb_basic").listing(root)["file"][0]
    assert file == "Image/aligned/aligned/train_1_aligned.jpg"


def test_rafml_negative_share_is_a_fault(make_tree: MakeTree) -> None:
    root = make_tree("rafml_argmax")
    (root / "EmoLabel/distribution.txt").write_text("1.jpg 0.9 -0.1 0.2 0 0 0\n")
    row = get_adapter("rafml_argmax").listing(root).row(0, named=True)
    assert row["fault"] == "malformed line: negative share -0.1"


@pytest.mark.parametrize("cell", ["9" * 16, "9" * 5000, " 1", "1_0", "٣", "1.0", "+1", "x"])
def test_integer_cell_is_not_coerced(cell: str, tmp_path: Path) -> None:
    lines = f"file,label,face_id\na.png,Fear,{cell}\n"
    (tmp_path / "manifest.csv").write_text(lines, encoding="utf-8")
    fault = get_adapter("csv_manifest").listing(tmp_path)["fault"][0]
    assert fault.startswith("malformed line: face_id is not an integer: ")
    assert len(fault) < 200


@pytest.mark.parametrize("cell", ["nan", "inf", "1e999", "1_0", " 1", "٣", "1;5"])
def test_number_cell_is_not_coerced(cell: str, tmp_path: Path) -> None:
    lines = f"file,label,confidence\na.png,Fear,{cell}\n"
    (tmp_path / "manifest.csv").write_text(lines, encoding="utf-8")
    fault = get_adapter("csv_manifest").listing(tmp_path)["fault"][0]
    assert fault == f"malformed line: confidence is not a number: {cell!r}"


@pytest.mark.parametrize(
    ("cell", "value"), [("-3", -3.0), (".5", 0.5), ("6.25e1", 62.5), ("", None)]
)
def test_number_cell_is_read(cell: str, value: float | None, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,confidence\na.png,Fear,{cell}\n")
    assert get_adapter("csv_manifest").listing(tmp_path)["confidence"][0] == value


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ("0.25,sad", (0.25, "Sad", None)),
        (",", (None, None, None)),
        ("0,", (0.0, None, None)),
        ("-1,", (None, None, "malformed line: weight is below 0: '-1'")),
        ("1,fear", (None, None, "bad neg_label: 'fear' is the label itself")),
        ("1,contempt", (None, None, "bad neg_label: 'contempt' is no class")),
        ("1,hapy", (None, None, "bad neg_label: 'hapy' is no class")),
    ],
)
def test_weights_and_negative_labels_of_pseudo_labelled_rows(
    cells: str, found: tuple[float | None, str | None, str | None], tmp_path: Path
) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,weight,neg_label\na.png,Fear,{cells}\n")
    row = get_adapter("csv_manifest").listing(tmp_path).row(0, named=True)
    assert row["fault"] == found[2]
    if found[2] is None:
        assert (row["weight"], row["neg_label"]) == found[:2]
    else:
        assert row["label"] is None


@pytest.mark.parametrize("age", ["20-29", "70+", "0-2", "over 60", "", "<13"])
def test_groups_of_people_are_the_publishers_words(age: str, tmp_path: Path) -> None:
    text = f"file,label,sex,age\na.png,Fear,female,{age}\n"
    (tmp_path / "manifest.csv").write_text(text)
    row = get_adapter("csv_manifest").listing(tmp_path).row(0, named=True)
    assert (row["age"], row["sex"], row["ethnicity"]) == (age or None, "female", None)
    assert row["fault"] is None


@pytest.mark.parametrize("age", [" 20", "=1+1", "a" * 41, "20\u201329", "-"])
def test_what_is_no_name_of_a_group_is_a_fault(age: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,age\na.png,Fear,{age}\n", "utf-8")
    row = get_adapter("csv_manifest").listing(tmp_path).row(0, named=True)
    assert "age is no name of a group" in row["fault"]


def test_rafml_contradicting_partition_is_a_fault(make_tree: MakeTree) -> None:
    root = make_tree("rafml_argmax")
    with (root / "EmoLabel/partition_label.txt").open("a") as handle:
        handle.write("1.jpg 1\n")
    assert get_adapter("rafml_argmax").listing(root)["fault"][0] == "unknown split: '0' and '1'"


def test_manifest_may_have_another_name_and_no_split(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_text("file,label\na.png,Fear\n")
    frame = get_adapter("csv_manifest").listing(tmp_path, manifest="faces.csv")
    assert frame.select("file", "label", "split").rows() == [("a.png", "Fear", "unassigned")]


def test_manifest_with_two_file_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,image_path,label\na.png,b.png,Fear\n")
    with refused("ambiguous-image-column"):
        get_adapter("csv_manifest").listing(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/a.png",
        "../a.png",
        "x/../a.png",
        "x/..",
        "C:/a.png",
        r"\\host\a.png",
        r"x\..\a.png",
        r"\a.png",
        "a\0.png",
    ],
)
def test_path_that_could_leave_the_root_is_never_a_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label\n{path},Fear\n")
    row = get_adapter("csv_manifest").listing(tmp_path).row(0, named=True)
    assert (row["file"], row["label"]) == (None, None)
    assert row["fault"] == f"bad path: {path!r}"


def test_folders_may_be_separated_as_windows_does_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"file,label\r\nx\\y\\a.png,Fear\r\nx/b.png,Sad\r\n")
    rows = get_adapter("csv_manifest").listing(tmp_path).select("file", "label", "fault").rows()
    assert rows == [("x/y/a.png", "Fear", None), ("x/b.png", "Sad", None)]


@pytest.mark.parametrize("path", ["a..b.png", "..a.png", "x/a b,é.png", ".../a.png"])
def test_unusual_but_safe_path_is_kept(path: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f'file,label\n"{path}",Fear\n', encoding="utf-8")
    assert get_adapter("csv_manifest").listing(tmp_path)["file"].to_list() == [path]


def test_one_level_too_high_or_too_low_is_refused(
    tmp_path: Path, images: Callable[..., None]
) -> None:
    images(tmp_path, "set/train/Happy/a.png")
    for name, root in (
        ("split_folders", tmp_path),
        ("split_folders", tmp_path / "set/train"),
        ("class_folders", tmp_path / "set"),
        ("class_folders", tmp_path / "set/train/Happy"),
    ):
        with refused("unknown-folders"):
            get_adapter(name).listing(root)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train/Happy").mkdir(parents=True)
    with refused("no-images"):
        get_adapter("split_folders").listing(tmp_path)


@POSIX
def test_odd_entries_in_class_folders_are_rows(tmp_path: Path, images: Callable[..., None]) -> None:
    root = tmp_path / "root"
    images(root, "train/Happy/a.png", r"train/Happy/b\c.png")
    images(tmp_path, "disk/Sad/d.png")
    (root / "train/Happy/broken.png").symlink_to("absent.png")
    (root / "train/Happy/linked.png").symlink_to("a.png")
    (root / "train/Happy/loop").symlink_to(root)
    (root / "test").symlink_to(tmp_path / "disk")
    pipe(root / "train/Happy/pipe")
    with open(os.fsencode(root) + b"/train/Happy/\xff.png", "wb"):
        pass

    frame = get_adapter("split_folders").listing(root)

    odd = "bad path: not a regular file, or a link out of the dataset"
    assert frame.select("where", "file", "label", "fault").rows() == [
        ("test", None, None, f"{odd}: 'test'"),
        (r"train/Happy/\udcff.png", None, None, r"bad path: not UTF-8: 'train/Happy/\udcff.png'"),
        ("train/Happy/a.png", "train/Happy/a.png", "Happy", None),
        (r"train/Happy/b\c.png", None, None, r"bad path: 'train/Happy/b\\c.png'"),
        ("train/Happy/broken.png", None, None, f"{odd}: 'broken.png'"),
        ("train/Happy/linked.png", "train/Happy/linked.png", "Happy", None),
        ("train/Happy/loop", None, None, f"{odd}: 'loop'"),
        ("train/Happy/pipe", None, None, f"{odd}: 'pipe'"),
    ]


def test_a_column_for_each_class_is_told_from_a_label(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,Angry,happy,sadness\na.png,0,1,0\n")
    with refused("one-hot-labels") as caught:
        get_adapter("csv_manifest").listing(tmp_path)
    assert "'Angry', 'happy', 'sadness'" in caught.value.what
    assert "label" in str(caught.value.allowed)


LAYOUTS = sorted(set(adapters()) - {"rafdb_compound"})


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_known_at_a_glance_and_named_to_the_others(
    name: str, make_tree: MakeTree
) -> None:
    root = make_tree(name)
    get_adapter(name).check(root, {}, {})
    for other in LAYOUTS:
        if other == name or get_adapter(other).fits(root):
            continue
        try:
            # Split folders of images and labels are a layout, and none of their rows has a label.
            assert get_adapter(other).listing(root)["label"].drop_nulls().is_empty()
        except FerError as error:
            assert f"adapter {name}?" in str(error.fix)
        with refused("wrong-adapter") as caught:
            get_adapter(other).check(root, {}, {})
        assert f"adapter {name}?" in str(caught.value.fix)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_too_high_or_too_low_is_told(name: str, make_tree: MakeTree) -> None:
    root = make_tree(name)
    if not get_adapter(name).fits(root.parent):
        with refused("wrong-adapter") as caught:
            get_adapter(name).check(root.parent, {}, {})
        assert str(root) in str(caught.value.fix)
    (root / "empty").mkdir()
    with refused("wrong-adapter") as caught:
        get_adapter(name).check(root / "empty", {}, {})
    assert f"the folder may be {root}" in str(caught.value.fix)


@POSIX
@pytest.mark.parametrize("place", ["train/zzz", "zzz", "train/Happy/zzz", "train/Happy"])
@pytest.mark.parametrize("adapter", ["split_folders", "class_folders"])
@pytest.mark.threat(
    "a path leads out of its folder",
    "Absolute paths, `..` and links that leave the root are refused or reported in manifests, "
    "records, packed trainings and adopted folders.",
)
def test_a_link_out_of_the_dataset_is_not_walked(
    tmp_path: Path, images: Callable[..., None], place: str, adapter: str
) -> None:
    """Names of other people's files would stand in the quarantine; a link to / walks the disk."""
    root = tmp_path / "root"
    images(root, "train/Sad/a.png", "Sad/a.png")
    images(tmp_path, "secret/payroll.xls", "secret/Happy/payroll.xls", "secret/a/payroll.xls")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(tmp_path / "secret")
    frame = get_adapter(adapter).listing(root)
    assert not frame.filter(pl.any_horizontal(pl.all().cast(pl.String).str.contains("payroll")))[
        "where"
    ].to_list()
    odd = frame.filter(pl.col("where") == place)
    assert odd.height == 1 and odd["fault"][0].startswith("bad path")


@POSIX
def test_a_link_to_the_whole_disk_ends_at_once(tmp_path: Path, images: Callable[..., None]) -> None:
    images(tmp_path, "train/Happy/a.png")
    (tmp_path / "train/Sad").symlink_to("/")
    (tmp_path / "val").symlink_to("train")  # Inside it, which is a dataset's own affair.
    found = get_adapter("split_folders").listing(tmp_path)
    assert found["where"].to_list() == [
        "train/Happy/a.png",
        "train/Sad",
        "val/Happy/a.png",
        "val/Sad",
    ]


@POSIX
def test_an_index_behind_a_link_out_of_the_dataset_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "Image/aligned").mkdir(parents=True)
    (root / "EmoLabel").mkdir()
    (tmp_path / "passwd").write_text("root:x:0:0\n")
    (root / "list_patition_label.txt").symlink_to(tmp_path / "passwd")
    (root / "EmoLabel/list_patition_label.txt").symlink_to(tmp_path / "passwd")
    with refused("unknown-adapter") as told:
        get_adapter("rafdb").listing(root)
    assert "root:x" not in str(told.value)


@pytest.mark.parametrize("column", ["Split", " split", "SPLIT", "usage", "set"])
def test_splits_under_another_name_are_not_drawn_anew(column: str, tmp_path: Path) -> None:
    lines = f"file,label,{column}\na.png,Fear,train\nb.png,Happy,Test\n"
    (tmp_path / "manifest.csv").write_text(lines)
    with refused("misnamed-column") as caught:
        get_adapter("csv_manifest").listing(tmp_path)
    assert repr(column) in caught.value.what and "split" in str(caught.value.fix)


@pytest.mark.parametrize("column", ["Confidence", "Face ID", "BBox-Left", "Weight", "image path"])
def test_a_column_in_other_letters_is_not_left_alone(column: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,{column}\na.png,Fear,1\n")
    with refused("misnamed-column") as caught:
        get_adapter("csv_manifest").listing(tmp_path)
    assert repr(column) in caught.value.what


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    lines = "file,label,note,camera\na.png,Fear,train,1\nb.png,Happy,indoors,2\n"
    (tmp_path / "manifest.csv").write_text(lines)
    assert get_adapter("csv_manifest").listing(tmp_path)["split"].to_list() == ["unassigned"] * 2


@pytest.mark.parametrize("cell", ["file", "label", "note"])
def test_a_line_without_an_end_is_one_bad_row(cell: str, tmp_path: Path) -> None:
    cells = {"file": "b.png", "label": "Happy", "note": "x"} | {cell: "x" * MAX_LINE}
    text = f"file,label,note\na.png,Fear,x\n{','.join(cells.values())}\nc.png,Sad,x\n"
    (tmp_path / "manifest.csv").write_text(text)
    listing = get_adapter("csv_manifest").listing(tmp_path)
    assert listing["label"].to_list() == ["Fear", None, "Sad"]
    assert str(listing["fault"][1]).startswith("malformed line")
    assert listing["file"][1] is None and listing["native_label"][1] is None
