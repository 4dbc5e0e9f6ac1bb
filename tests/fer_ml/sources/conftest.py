"""Tiny datasets in the layout of each publisher, written by hand."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

FERPLUS_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
GREY_48 = " ".join(["7"] * 2303 + ["255"])


def write_images(root: Path, *names: str, width: int = 2, height: int = 2) -> None:
    ok, png = cv2.imencode(".png", np.zeros((height, width), np.uint8))
    assert ok
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png.tobytes())


def write_lines(path: Path, *lines: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in raw))


def split_folders(root: Path) -> None:
    write_images(
        root,
        "train/Happy/b.png",
        "train/Happy/a.png",
        "train/Bored/c.png",
        "train/contempt/d.png",
        "train/loose.png",
        "train/Happy/deep/e.png",
        "valid/suprise/f.png",
        "validation/SAD/g.png",
        "test/neutral/notes.txt",
        "fold/fear/h.png",
        "stray.png",
    )
    write_images(root, ".git/x", "train/.hidden.png", "train/Happy/Thumbs.db")
    write_lines(root / "README.md", "about")
    write_lines(root / "train/labels.csv", "about")


def class_folders(root: Path) -> None:
    write_images(root, "anger/a.jpg", "non-face/b.jpg", "Bored/c.jpg", "stray.jpg")
    write_images(root, "anger/sub/d.jpg")
    write_lines(root / "data.json", "{}")


def ferplus_votes(root: Path) -> None:
    (root / "data/FER2013Train").mkdir(parents=True)
    write_lines(
        root / "fer2013new.csv",
        b"\xef\xbb\xbf" + FERPLUS_HEADER.encode(),
        "Training,a.png,1,2,0,0,4,0,3,0,0,0\r",
        "PublicTest,b.png,0,0,0,0,0,0,4,6,0,0",
        "PrivateTest,c.png,5,5,0,0,0,0,0,0,0,0",
        "Training,d.png,2,0,0,0,0,0,0,0,8,0",
        "Training,,0,0,0,0,0,0,0,0,0,10",
        "Training,,10,0,0,0,0,0,0,0,0,0",
        "Training,e.png,1,2,3",
        "Training,../f.png,9,0,0,0,0,0,0,0,0,1",
        "Holdout,g.png,9,0,0,0,0,0,0,0,0,1",
        "Training,h.png,9,0,0,0,0,0,-1,0,0,1",
        b"Training,\xff.png,9,0,0,0,0,0,0,0,0,1",
    )


def fer2013_csv(root: Path) -> None:
    write_lines(
        root / "fer2013.csv",
        "emotion,pixels,Usage",
        f"3,{GREY_48},Training",
        f'6,"{GREY_48}",PublicTest\r',
        f"0,{GREY_48},PrivateTest",
        f"7,{GREY_48},Training",
        f"1,{GREY_48[2:]},Training",
        f"1,{GREY_48[:-3]}256,Training",
        f"1,{GREY_48},Holdout",
        "1",
    )


def _rafdb(root: Path, index: str) -> None:
    write_images(root, "Image/aligned/aligned/train_1_aligned.jpg", "Image/original/test_2.jpg")
    write_lines(
        root / "EmoLabel" / index,
        "train_1.jpg 1",
        "test_2.jpg 5",
        "train_3.jpg 11",
        "train_4.jpg 12",
        "fold_5.jpg 1",
        "train_6.jpg",
        "/etc/train_7.jpg 1",
    )


def rafdb_basic(root: Path) -> None:
    _rafdb(root, "list_patition_label.txt")


def rafdb_compound(root: Path) -> None:
    _rafdb(root, "list_partition_label.txt")


def rafml_argmax(root: Path) -> None:
    write_images(root, "Image/aligned/1_aligned.jpg")
    write_lines(
        root / "EmoLabel/distribution.txt",
        "1.jpg 0.1 0 0 0.7 0.2 0",
        "2.jpg 0.5 0.5 0 0 0 0",
        "3.jpg 0.5 0.5 0 0 0",
        "4.jpg 0 0 0 0 0 1",
        "5.jpg 0 0 0 0 0 1",
        "6.jpg 0 0 0 0 nan 1",
    )
    write_lines(
        root / "EmoLabel/partition_label.txt",
        *("1.jpg 0", "2.jpg 1", "3.jpg 0", "4.jpg 2", "6.jpg 0", "7.jpg 1", "8.jpg"),
    )


def expw(root: Path) -> None:
    (root / "origin/origin").mkdir(parents=True)
    write_lines(
        root / "label.lst",
        "a.jpg 0 10 20 60 70 62.5 3",
        "a.jpg 1 -4 90 30 8 1 6",
        "b.jpg 0 10 20 60 70 62.5 7",
        "c.jpg 0 10 20 60 70",
        "d.jpg 0 10 20 60 7.5 62.5 3",
        "../e.jpg 0 10 20 60 70 62.5 3",
        "",
    )


def affectnet_yolo(root: Path) -> None:
    write_lines(root / "data.yaml", "names: [Anger, Contempt, Happy, Bored]", "nc: 4")
    write_images(root, "train/images/a.png", width=10, height=20)
    write_lines(
        root / "train/labels/a.txt",
        "0 0.5 0.5 1 1",
        "1 0.25 0.25 0.3 0.25\r",
        "2 0.9 0.5 0.4 0.5",
        "3 0.5 0.5 1 1",
        "4 0.5 0.5 1 1",
        "02 0.5 0.5 1 1",
        "0 0.5 0.5 1",
        "0 0.5 0.5 1 nan",
        "0 0.5 0.5 1e300 1",
        b"0 0.5 0.5 1 \xff",
    )
    write_images(root, "train/images/b.png", "train/images/c.png", "train/images/c.jpg")
    write_images(root, "train/images/d.png", "train/images/deep/e.png")
    write_lines(root / "train/labels/c.txt", "0 0.5 0.5 1 1")
    write_lines(root / "train/labels/d.txt")
    write_lines(root / "train/labels/z.txt", "0 0.5 0.5 1 1")
    write_lines(root / "valid/images/f.png", "no image")
    write_lines(root / "valid/labels/f.txt", "0 0.5 0.5 1 1")
    write_images(root, "fold/images/g.png", "images/Val/h.png", "stray.png")
    write_lines(root / "fold/labels/g.txt", "0 0.5 0.5 1 1")
    write_lines(root / "labels/Val/h.txt", "2 0.5 0.5 0.5 0.5")
    write_images(root, ".git/x", "train/images/.hidden.png", "train/labels/Thumbs.db")
    write_lines(root / "train/labels.cache", "about")


def csv_manifest(root: Path) -> None:
    write_lines(
        root / "manifest.csv",
        "image_path,label,split,confidence,face_id,bbox_left,bbox_top,bbox_right,bbox_bottom,note",
        "a.jpg,happy,train,0.5,2,1,2,3,4,x",
        '"b,1.jpg",Non-Face,unassigned,,,,,,,"say ""x"""',
        "c.jpg,Happy ,val,,,,,,,",
        "d.jpg,3,test,,,,,,,",
        "e.jpg,sad,fold,,,,,,,",
        "f.jpg,sad,val,,,1,2,,4,",
        r"C:\faces\g.jpg,sad,val,,,,,,,",
        "h.jpg,sad",
        '"i.jpg,sad,val,,,,,,,',
        ",sad,val,,,,,,,",
    )


TREES: dict[str, Callable[[Path], None]] = {
    "split_folders": split_folders,
    "class_folders": class_folders,
    "ferplus_votes": ferplus_votes,
    "fer2013_csv": fer2013_csv,
    "rafdb_basic": rafdb_basic,
    "rafdb_compound": rafdb_compound,
    "rafml_argmax": rafml_argmax,
    "expw": expw,
    "affectnet_yolo": affectnet_yolo,
    "csv_manifest": csv_manifest,
}


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[[str], Path]:
    """Write the tiny dataset of the adapter called so, and return its root."""

    def make(adapter: str) -> Path:
        root = tmp_path / adapter
        root.mkdir()
        TREES[adapter](root)
        return root

    return make


@pytest.fixture
def images() -> Callable[..., None]:
    """Write images: ``images(root, *names, width=2, height=2)``."""
    return write_images
