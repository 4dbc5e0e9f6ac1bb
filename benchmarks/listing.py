"""Seven raw layouts of full size, and a plain loop over them, for ``unify.py``.

The layouts are synthetic: index files of the publishers' sizes, and empty image files. Listing
opens no image; the plain loop calls ``os.path.isfile`` for each on request.
"""

import csv
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fer_ml.base.labels import (
    CLASSES,
    EXPW_IDS,
    FERPLUS_COLUMNS,
    RAFDB_BASIC_IDS,
    RAFDB_COMPOUND_IDS,
    RAFML_ORDER,
    label_of_word,
)

#: Adapter and number of rows of each source: 466,284 in all.
SOURCES: dict[str, tuple[str, int]] = {
    "fer2013_uniform_7": ("split_folders", 140_000),
    "ferplus": ("ferplus_votes", 138_526),
    "expw_full": ("expw", 91_793),
    "affectnet_full_balanced": ("split_folders", 71_764),
    "rafdb_basic": ("rafdb_basic", 15_339),
    "rafml_argmax": ("rafml_argmax", 4_908),
    "rafdb_compound_mapped": ("rafdb_compound", 3_954),
}
FERPLUS_FOLDERS = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("val", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
#: File systems limit how many names one file may have.
_MOST_LINKS = 30_000


def write_layouts(folder: Path, scale: float = 1.0) -> dict[str, int]:
    """Write all sources below ``folder``, each as its publisher lays it out; returns their rows."""
    writers: dict[str, Callable[[Path, int, random.Random], None]] = {
        "split_folders": _write_split_folders,
        "ferplus_votes": _write_ferplus,
        "expw": _write_expw,
        "rafdb_basic": _write_rafdb,
        "rafdb_compound": _write_rafdb,
        "rafml_argmax": _write_rafml,
    }
    rows = {name: max(1, round(rows * scale)) for name, (_, rows) in SOURCES.items()}
    for name, (adapter, _) in SOURCES.items():
        writers[adapter](folder / name, rows[name], random.Random(name))
    return rows


def _write_images(root: Path, names: list[str]) -> None:
    for parent in {name.rpartition("/")[0] for name in names}:
        (root / parent).mkdir(parents=True, exist_ok=True)
    for start in range(0, len(names), _MOST_LINKS):
        first, *others = (f"{root}/{name}" for name in names[start : start + _MOST_LINKS])
        Path(first).touch()
        for other in others:
            os.link(first, other)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_split_folders(root: Path, rows: int, draw: random.Random) -> None:
    splits = draw.choices(("train", "val", "test"), (8, 1, 1), k=rows)
    words = draw.choices(CLASSES, k=rows)
    names = [f"{s}/{w}/{w}_{i:06d}.png" for i, (s, w) in enumerate(zip(splits, words, strict=True))]
    _write_images(root, names)


def _write_ferplus(root: Path, rows: int, draw: random.Random) -> None:
    lines, names = [f"Usage,Image name,{','.join(FERPLUS_COLUMNS)}"], []
    for index in range(rows):
        usage = draw.choices(tuple(FERPLUS_FOLDERS), (8, 1, 1))[0]
        counts = [0] * len(FERPLUS_COLUMNS)
        for voted in draw.choices(range(10), (30, 25, 12, 12, 10, 3, 4, 2, 1, 1), k=10):
            counts[voted] += 1
        name = f"fer{index:07d}.png"
        lines.append(f"{usage},{name},{','.join(map(str, counts))}")
        names.append(f"data/{FERPLUS_FOLDERS[usage][1]}/{name}")
    _write_lines(root / "fer2013new.csv", lines)
    _write_images(root, names)


def _write_expw(root: Path, rows: int, draw: random.Random) -> None:
    lines: list[str] = []
    names: list[str] = []
    while len(lines) < rows:
        name = f"{draw.choice(CLASSES).lower()}_actor_{len(names)}.jpg"
        names.append(f"origin/{name}")
        for face in range(min(draw.choices((1, 2, 3), (75, 18, 7))[0], rows - len(lines))):
            top, left, side = draw.randrange(200), draw.randrange(200), draw.randrange(40, 200)
            lines.append(
                f"{name} {face} {top} {left} {left + side} {top + side}"
                f" {draw.uniform(5, 100):.4f} {draw.randrange(7)}"
            )
    _write_lines(root / "label.lst", lines)
    _write_images(root, names)


def _write_rafdb(root: Path, rows: int, draw: random.Random) -> None:
    stems = [f"{draw.choices(('train', 'test'), (4, 1))[0]}_{i:05d}" for i in range(rows)]
    lines = [f"{stem}.jpg {draw.randint(1, 7)}" for stem in stems]
    _write_lines(root / "EmoLabel/list_patition_label.txt", lines)
    _write_images(root, [f"Image/aligned/{stem}_aligned.jpg" for stem in stems])


def _write_rafml(root: Path, rows: int, draw: random.Random) -> None:
    shares, parts = [], []
    for index in range(rows):
        drawn = [draw.random() ** 2 for _ in RAFML_ORDER]
        numbers = " ".join(f"{share / sum(drawn):.6f}" for share in drawn)
        shares.append(f"{index:04d}.jpg {numbers}")
        parts.append(f"{index:04d}.jpg {draw.choices((0, 1), (4, 1))[0]}")
    _write_lines(root / "EmoLabel/distribution.txt", shares)
    _write_lines(root / "EmoLabel/partition_label.txt", parts)
    _write_images(root, [f"Image/aligned/{index:04d}_aligned.jpg" for index in range(rows)])


def plain_rows(folder: Path, *, look: bool = True) -> Iterator[dict[str, Any]]:
    """Yield all rows of ``write_layouts``, read by plain loops over lines and files.

    Each row is a dictionary with ``source`` and the listing's columns that it has. ``look`` calls
    ``os.path.isfile`` for each image; a row without an image has a fault.
    """
    for name in SOURCES:
        for row in plain_source(folder, name):
            if look and not os.path.isfile(f"{folder}/{name}/{row['file']}"):  # noqa: PTH113
                row["fault"] = "missing path"
            yield row


def plain_source(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one source, by a plain loop."""
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        "split_folders": _plain_folders,
        "ferplus_votes": _plain_ferplus,
        "expw": _plain_expw,
        "rafdb_basic": lambda root: _plain_rafdb(root, RAFDB_BASIC_IDS),
        "rafdb_compound": lambda root: _plain_rafdb(root, RAFDB_COMPOUND_IDS),
        "rafml_argmax": _plain_rafml,
    }
    for row in readers[SOURCES[name][0]](folder / name):
        row["source"] = name
        yield row


def _plain_folders(root: Path) -> Iterator[dict[str, Any]]:
    for path, _, files in os.walk(root):
        parts = Path(path).relative_to(root).parts
        if len(parts) != 2:
            continue
        split, word = parts
        label, excluded = label_of_word(word)
        for name in sorted(files):
            yield {
                "file": f"{split}/{word}/{name}",
                "native_label": word,
                "label": label,
                "excluded": excluded,
                "split": split,
            }


def _plain_ferplus(root: Path) -> Iterator[dict[str, Any]]:
    columns = list(FERPLUS_COLUMNS)
    with (root / "fer2013new.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            votes = {column: int(line[column]) for column in columns}
            if min(votes.values()) < 0:
                raise ValueError(line)
            most = max(votes.values())
            winners = [column for column, count in votes.items() if count == most]
            meaning = FERPLUS_COLUMNS[winners[0]] if len(winners) == 1 else "tied votes"
            split, folder = FERPLUS_FOLDERS[line["Usage"]]
            by_class = {FERPLUS_COLUMNS[column]: count for column, count in votes.items()}
            yield {
                "file": f"data/{folder}/{line['Image name']}",
                "native_label": "|".join(winners),
                "label": meaning if meaning in CLASSES else None,
                "excluded": None if meaning in CLASSES else meaning,
                "split": split,
                "votes": [float(by_class[label]) for label in CLASSES],
            }


def _plain_expw(root: Path) -> Iterator[dict[str, Any]]:
    with (root / "label.lst").open(newline="") as file:
        for line in csv.reader(file, delimiter=" "):
            name, face, top, left, right, bottom, confidence, label = line
            yield {
                "file": f"origin/{name}",
                "native_label": label,
                "label": EXPW_IDS[int(label)],
                "split": "unassigned",
                "confidence": float(confidence),
                "face_id": int(face),
                "bbox_left": int(left),
                "bbox_top": int(top),
                "bbox_right": int(right),
                "bbox_bottom": int(bottom),
            }


def _plain_rafdb(root: Path, labels: dict[int, str]) -> Iterator[dict[str, Any]]:
    with (root / "EmoLabel/list_patition_label.txt").open(newline="") as file:
        for name, number in csv.reader(file, delimiter=" "):
            split = name.partition("_")[0]
            if split not in ("train", "test"):
                raise ValueError(name)
            yield {
                "file": f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg",
                "native_label": number,
                "label": labels[int(number)],
                "split": split,
            }


def _plain_rafml(root: Path) -> Iterator[dict[str, Any]]:
    with (root / "EmoLabel/partition_label.txt").open(newline="") as file:
        parts = dict(csv.reader(file, delimiter=" "))
    with (root / "EmoLabel/distribution.txt").open(newline="") as file:
        for name, *texts in csv.reader(file, delimiter=" "):
            shares = dict(zip(RAFML_ORDER, map(float, texts), strict=True))
            most = max(shares.values())
            winners = [label for label, share in shares.items() if share == most]
            yield {
                "file": f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg",
                "native_label": "|".join(winners),
                "label": winners[0] if len(winners) == 1 else None,
                "excluded": None if len(winners) == 1 else "tied votes",
                "split": ("train", "test")[int(parts[name])],
                "votes": [shares.get(label, 0.0) for label in CLASSES],
            }
