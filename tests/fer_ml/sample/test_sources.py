"""The raw sources: publishers' layouts, faults that are what the truth says, sound rows besides.

The layouts are read here by a reader of its own, which knows nothing of the adapters.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_ml.base.labels import (
    CLASSES,
    EXPW_IDS,
    FERPLUS_COLUMNS,
    RAFDB_BASIC_IDS,
    RAFDB_COMPOUND_IDS,
    RAFML_ORDER,
    label_of_word,
)
from fer_ml.sample.sources import RULES, SOURCES, draw_sources

SIZES = {
    "affectnet_full_balanced": (96, 96),
    "fer2013_uniform_7": (48, 48),
    "ferplus": (48, 48),
    "rafdb_basic": (100, 100),
    "rafdb_compound_mapped": (100, 100),
    "rafml_argmax": (100, 100),
    "expw_full": (240, 320),
}
INDEXES = {
    "ferplus": "fer2013new.csv",
    "rafdb_basic": "EmoLabel/list_patition_label.txt",
    "rafdb_compound_mapped": "EmoLabel/list_patition_label.txt",
    "rafml_argmax": "EmoLabel/distribution.txt",
    "expw_full": "label.lst",
}


@dataclass(frozen=True)
class Read:
    """One row as read: ``problem`` is what the text alone shows to be wrong."""

    where: str
    file: str
    split: str
    label: str | None = None
    excluded: str | None = None
    problem: str | None = None
    box: tuple[int, int, int, int] | None = None
    confidence: float = 100.0


def _read_folders(root: Path) -> Iterator[Read]:
    for path in sorted(root.glob("*/*/*")):
        file = path.relative_to(root).as_posix()
        split, word, _ = file.split("/")
        label, excluded = label_of_word(word)
        problem = None if label or excluded else "bad label"
        yield Read(file, file, split, label, excluded, problem)


def _read_ferplus(where: str, line: str) -> Read:
    usage, name, *votes = line.split(",")
    splits = {
        "Training": ("train", "FER2013Train"),
        "PublicTest": ("val", "FER2013Valid"),
        "PrivateTest": ("test", "FER2013Test"),
    }
    split, folder = splits[usage]
    counts = [int(vote) for vote in votes]
    assert sum(counts) == 10
    winners = [
        meaning
        for meaning, count in zip(FERPLUS_COLUMNS.values(), counts, strict=True)
        if count == max(counts)
    ]
    file = f"data/{folder}/{name}"
    if len(winners) > 1:
        return Read(where, file, split, excluded="tied votes")
    if winners[0] not in CLASSES:
        return Read(where, file, split, excluded=winners[0])
    return Read(where, file, split, winners[0])


def _read_raf(where: str, line: str, ids: dict[int, str]) -> Read:
    name, *number = line.split(" ")
    stem = name.removesuffix(".jpg")
    file, split = f"Image/aligned/aligned/{stem}_aligned.jpg", stem.split("_")[0]
    if len(number) != 1:
        return Read(where, file, split, problem="malformed line")
    label = ids.get(int(number[0]))
    return Read(where, file, split, label, problem=None if label else "bad label")


def _read_rafml(where: str, line: str, parts: dict[str, str]) -> Read:
    name, *shares = line.split(" ")
    file = f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg"
    split = {"0": "train", "1": "test"}[parts[name]]
    if len(shares) != 6:
        return Read(where, file, split, problem="malformed line")
    values = [float(share) for share in shares]
    assert sum(values) == pytest.approx(1)
    assert values.count(max(values)) == 1
    return Read(where, file, split, RAFML_ORDER[int(np.argmax(values))])


def _read_expw(where: str, line: str) -> Read:
    fields = line.split(" ")
    file = f"origin/{fields[0]}"
    if len(fields) != 8:
        return Read(where, file, "unassigned", problem="malformed line")
    top, left, right, bottom = (int(text) for text in fields[2:6])
    label = EXPW_IDS.get(int(fields[7]))
    problem = None if label else "bad label"
    if not (0 <= left < right <= 320 and 0 <= top < bottom <= 240):
        problem = "bad box"
    box = (left, top, right, bottom)
    return Read(where, file, "unassigned", label, None, problem, box, float(fields[6]))


def read(root: Path, source: str) -> list[Read]:
    """Every row of a source, in the publisher's order."""
    if source not in INDEXES:
        return list(_read_folders(root))
    index = INDEXES[source]
    lines = (root / index).read_text(encoding="utf-8").splitlines()
    numbered = [
        (f"{Path(index).name}:{number}", line) for number, line in enumerate(lines, start=1)
    ]
    if source == "ferplus":
        assert lines[0] == "Usage,Image name," + ",".join(FERPLUS_COLUMNS)
        return [_read_ferplus(*row) for row in numbered[1:]]
    if source == "rafml_argmax":
        text = (root / "EmoLabel/partition_label.txt").read_text(encoding="utf-8")
        parts = dict(line.split(" ") for line in text.splitlines())
        return [_read_rafml(*row, parts) for row in numbered]
    if source == "expw_full":
        return [_read_expw(*row) for row in numbered]
    ids = RAFDB_BASIC_IDS if source == "rafdb_basic" else RAFDB_COMPOUND_IDS
    return [_read_raf(*row, ids) for row in numbered]


@pytest.fixture(scope="session")
def truth(sample: Path) -> dict:
    return json.loads((sample / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def rows(sample: Path) -> dict[str, list[Read]]:
    return {source: read(sample / "raw" / source, source) for source in SOURCES}


def _pixels(path: Path) -> np.ndarray | None:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def test_the_sources_are_the_seven(sample: Path, truth: dict) -> None:
    assert sorted(path.name for path in (sample / "raw").iterdir()) == sorted(SOURCES)
    assert truth["schema"] == 1
    assert truth["seed"] == 11
    assert set(truth["rows"]) == set(truth["exclusions"]) == set(SOURCES)


def test_truth_adds_up(truth: dict, rows: dict[str, list[Read]]) -> None:
    for source in SOURCES:
        assert truth["rows"][source] == len(rows[source])
        excluded = Counter(row.excluded for row in rows[source] if row.excluded)
        assert truth["exclusions"][source] == dict(excluded)
    assert {fault["rule"] for fault in truth["faults"]} == set(RULES)


def test_no_row_is_faulty_twice(truth: dict, rows: dict[str, list[Read]]) -> None:
    places = [(fault["source"], fault["where"]) for fault in truth["faults"]]
    assert len(set(places)) == len(places)
    known = {(source, row.where): row for source in SOURCES for row in rows[source]}
    for fault, place in zip(truth["faults"], places, strict=True):
        assert known[place].file == fault["file"]
        assert known[place].excluded is None


def test_each_fault_is_the_one_named_and_no_other_row_has_one(
    sample: Path, truth: dict, rows: dict[str, list[Read]]
) -> None:
    named = {(fault["source"], fault["where"]): fault["rule"] for fault in truth["faults"]}
    for source in SOURCES:
        for row in rows[source]:
            found = [row.problem] if row.problem else []
            path = sample / "raw" / source / row.file
            if not path.exists():
                found.append("missing path")
            elif (image := _pixels(path)) is None:
                found.append("undecodable")
            else:
                sizes = {SIZES[source], (96, 96)} if source == "rafdb_basic" else {SIZES[source]}
                assert image.shape[:2] in sizes
            expected = named.get((source, row.where))
            assert found == ([] if expected in (None, "leakage") else [expected]), row


def _good_faces(
    sample: Path, truth: dict, rows: dict[str, list[Read]]
) -> Iterator[tuple[str, Read, str]]:
    """Each row without a fault (leaks among them), with a digest of its face's pixels."""
    bad = {(f["source"], f["where"]) for f in truth["faults"] if f["rule"] != "leakage"}
    for source in SOURCES:
        for row in rows[source]:
            if (source, row.where) in bad:
                continue
            image = _pixels(sample / "raw" / source / row.file)
            assert image is not None
            if row.box:
                left, top, right, bottom = row.box
                image = image[top:bottom, left:right]
            yield source, row, hashlib.sha256(image.tobytes()).hexdigest()


def test_only_the_leaks_named_show_the_same_pixels_twice(
    sample: Path, truth: dict, rows: dict[str, list[Read]]
) -> None:
    places = defaultdict(list)
    for source, row, digest in _good_faces(sample, truth, rows):
        places[digest].append((source, row))
    repeated = [found for found in places.values() if len(found) > 1]
    leaks = set()
    for found in repeated:
        assert sorted(row.split for _, row in found) == ["test", "train"]
        assert len({row.label for _, row in found}) == 1
        leaks |= {(source, row.where) for source, row in found if row.split == "train"}
    named = [(f["source"], f["where"]) for f in truth["faults"] if f["rule"] == "leakage"]
    assert leaks == set(named)
    assert len(named) == 5


def test_images_on_disk_are_all_listed(sample: Path, rows: dict[str, list[Read]]) -> None:
    for source in SOURCES:
        root = sample / "raw" / source
        images = {
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.suffix in {".jpg", ".png"}
        }
        assert images <= {row.file for row in rows[source]}


def test_grey_sources_are_grey_and_the_others_are_not(
    sample: Path, rows: dict[str, list[Read]]
) -> None:
    for source in SOURCES:
        row = next(row for row in rows[source] if row.label)
        image = cv2.imread(str(sample / "raw" / source / row.file), cv2.IMREAD_UNCHANGED)
        assert (image.ndim == 2) == (source in {"fer2013_uniform_7", "ferplus"})


def test_rare_classes_are_rarer_but_not_too_rare(rows: dict[str, list[Read]]) -> None:
    # A fifth of the full sample, where 50 is the least of any class.
    trained = Counter(
        row.label
        for source in ("affectnet_full_balanced", "ferplus", "rafdb_basic", "expw_full")
        for row in rows[source]
        if row.label and row.split in ("train", "unassigned") and row.confidence >= 60
    )
    assert set(trained) == set(CLASSES)
    assert min(trained.values()) >= 50 / 5
    assert max(trained["Disgust"], trained["Fear"]) < min(trained["Happy"], trained["Neutral"])


def test_two_thirds_of_expw_are_sure(rows: dict[str, list[Read]]) -> None:
    confidence = np.array([row.confidence for row in rows["expw_full"] if row.label])
    assert 20 <= confidence.min() <= confidence.max() <= 100
    assert 0.55 < (confidence >= 60).mean() < 0.8


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in "ab":
        draw_sources(tmp_path / name, 3, share=0.01)
        digest = hashlib.sha256()
        for path in sorted((tmp_path / name).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(tmp_path / name).as_posix().encode())
                digest.update(path.read_bytes())
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1]
