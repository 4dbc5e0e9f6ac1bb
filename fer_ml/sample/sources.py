"""Seven raw sources of drawn faces, laid out as their publishers lay out the real ones.

A few faults are planted in them on purpose. ``truth.json`` lists each one, so that tests can
measure how many a validator finds.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import (
    CLASSES,
    FERPLUS_COLUMNS,
    RAFDB_BASIC_IDS,
    RAFDB_COMPOUND_IDS,
    RAFML_ORDER,
)
from fer_ml.base.reading import read_file
from fer_ml.images.pixels import encode_png
from fer_ml.sample import DRAWING_VERSION, TRUTH_SCHEMA
from fer_ml.sample.drawn_source import TAIL, DrawnSource, Fault, Row, cut_short, encode_jpeg
from fer_ml.sample.expw import draw_expw
from fer_ml.sample.faces import OCCLUSIONS
from fer_ml.sample.pictures import draw_background, draw_face, expose
from fer_ml.sample.styles import between, random_camera, random_face

RULES: tuple[str, ...] = (
    "undecodable",
    "missing path",
    "bad label",
    "bad box",
    "malformed line",
    "leakage",
)

_AFFECTNET_WORDS = {name: name for name in CLASSES} | {"Angry": "Anger"}
_RAFDB_IDS = {label: number for number, label in RAFDB_BASIC_IDS.items()}
_FERPLUS_USAGES = {
    "train": ("Training", "FER2013Train"),
    "val": ("PublicTest", "FER2013Valid"),
    "test": ("PrivateTest", "FER2013Test"),
}
#: The second emotion in each of RAF-DB's compound classes; the first is in ``RAFDB_COMPOUND_IDS``.
_COMPOUND_SECOND = {
    1: "Surprise",
    2: "Disgust",
    3: "Fear",
    4: "Angry",
    5: "Surprise",
    6: "Disgust",
    7: "Angry",
    8: "Surprise",
    9: "Surprise",
    10: "Disgust",
    11: "Surprise",
}
_EVEN = dict.fromkeys(CLASSES, 1 / len(CLASSES))
_TEXT_FILE = b"404: the file that you asked for is not here\n"


def _grey_png(image: np.ndarray) -> bytes:
    return encode_png(np.ascontiguousarray(image[..., 0]))


def _draw_affectnet(source: DrawnSource) -> None:
    rows: list[Row] = []
    numbers = iter(range(1, 1_000_000))

    def add(split: str, word: str, data: bytes, **rest: str) -> None:
        row = Row(f"{split}/{word}/image{next(numbers):07d}.jpg", split, **rest)
        source.write(row.file, data)
        rows.append(row)

    for split, total in (("train", 350), ("test", 70)):
        for label in source.labels(total, _EVEN):
            data = encode_jpeg(source.face(label, 96))
            add(split, _AFFECTNET_WORDS[label], data, label=label)
    for _ in range(8):
        add("train", "Contempt", encode_jpeg(source.contempt(96)), excluded="contempt")
    for _ in range(2):
        data = encode_jpeg(source.face("Neutral", 96))
        add("train", "Bored", data, rule="bad label", detail="no class is called 'Bored'")
    broken = cut_short(encode_jpeg(source.face("Happy", 96)))
    add("train", "Happy", broken, rule="undecodable", detail="the JPEG ends after its headers")
    add("test", "Sad", _TEXT_FILE, rule="undecodable", detail="a text file named .jpg")
    source.record_folders(rows)


def _draw_fer2013(source: DrawnSource) -> None:
    rows = []
    for split, total in (("train", 350), ("val", 49), ("test", 56)):
        for number, label in enumerate(source.labels(total, _EVEN)):
            row = Row(f"{split}/{label.lower()}/{split}_{number:05d}.png", split, label)
            source.write(row.file, _grey_png(source.face(label, 48)))
            rows.append(row)
    for split, word in (("train", "fear"), ("val", "happy")):
        row = Row(
            f"{split}/{word}/{split}_09999.png", split, rule="undecodable", detail="an empty file"
        )
        source.write(row.file, b"")
        rows.append(row)
    source.record_folders(rows)


def _votes(rng: np.random.Generator, label: str) -> list[int]:
    """Draw ten annotators' votes over ``FERPLUS_COLUMNS``; ``label`` has most, without a tie."""
    names = list(FERPLUS_COLUMNS.values())
    agreement = rng.uniform(0.55, 0.95)
    doubt = np.full(len(names), 0.5)
    doubt[names.index(str(rng.choice(CLASSES)))] += 5
    doubt[names.index("Neutral")] += 3
    doubt[-2:] = 0.2
    chances = (1 - agreement) * doubt / doubt.sum()
    chances[names.index(label)] += agreement
    while True:
        votes = rng.multinomial(10, chances)
        others = np.delete(votes, names.index(label))
        if votes[names.index(label)] > others.max():
            return [int(vote) for vote in votes]


def _set_votes(counts: dict[str, int]) -> list[int]:
    """Return votes in the order of ``FERPLUS_COLUMNS``; columns not in ``counts`` get 0."""
    return [counts.get(column, 0) for column in FERPLUS_COLUMNS]


#: Rows of FER+ that no single class wins, and why each is left out.
_FERPLUS_EXCLUDED: tuple[tuple[str, dict[str, int]], ...] = (
    ("contempt", {"contempt": 7, "neutral": 2, "happiness": 1}),
    ("contempt", {"contempt": 6, "neutral": 3, "disgust": 1}),
    ("unknown", {"unknown": 6, "neutral": 2, "sadness": 2}),
    ("unknown", {"unknown": 7, "fear": 3}),
    ("not a face", {"NF": 10}),
    ("not a face", {"NF": 8, "unknown": 2}),
    ("tied votes", {"sadness": 5, "neutral": 5}),
    ("tied votes", {"anger": 4, "disgust": 4, "neutral": 2}),
    ("tied votes", {"fear": 5, "surprise": 5}),
)


def _excluded_image(source: DrawnSource, reason: str) -> np.ndarray:
    """Draw an image that is excluded for ``reason``, ``[48, 48, 3] uint8 RGB``."""
    camera = random_camera(source.rng, source.style)
    if reason == "not a face":
        return expose(draw_background(48, 48, replace(camera, clutter=1.0)), camera)
    if reason == "contempt":
        return source.contempt(48)
    person = random_face(source.rng, {"Sad": 0.4, "Angry": 0.3}, source.style)
    hidden = "hand" if reason == "unknown" else OCCLUSIONS[0]
    return draw_face(person, replace(camera, occlusion=hidden), 48)


def _draw_ferplus(source: DrawnSource) -> None:
    rows: list[Row] = []
    numbers = iter(range(1_000_000))

    def add(split: str, votes: list[int], image: np.ndarray | None, **rest: str) -> None:
        usage, folder = _FERPLUS_USAGES[split]
        name = f"fer{next(numbers):07d}.png"
        text = ",".join([usage, name, *map(str, votes)])
        rows.append(Row(f"data/{folder}/{name}", split, text=text, **rest))
        if image is not None:
            source.write(rows[-1].file, _grey_png(image))

    for split, total in (("train", 300), ("val", 42), ("test", 63)):
        for label in source.labels(total, TAIL):
            add(split, _votes(source.rng, label), source.face(label, 48), label=label)
        if split == "train":
            for reason, counts in _FERPLUS_EXCLUDED:
                add(split, _set_votes(counts), _excluded_image(source, reason), excluded=reason)
            for label in ("Happy", "Sad"):
                votes = _votes(source.rng, label)
                add(split, votes, None, rule="missing path", detail="no such file")
    header = ",".join(["Usage", "Image name", *FERPLUS_COLUMNS])
    source.write_index("fer2013new.csv", rows, header)


_RAF_INDEX = "EmoLabel/list_patition_label.txt"


class _RafRows:
    """A maker of rows of a RAF-DB list, which numbers and writes the images of each split."""

    def __init__(self, source: DrawnSource) -> None:
        self.source = source
        self.numbers: Counter[str] = Counter()

    def make(self, split: str, number: int | str, data: bytes | None, **rest: str) -> Row:
        """Make a row with the publisher's class ``number``; ``data`` None writes no image."""
        self.numbers[split] += 1
        stem = f"{split}_{self.numbers[split]:05d}"
        file = f"Image/aligned/aligned/{stem}_aligned.jpg"
        if data is not None:
            self.source.write(file, data)
        return Row(file, split, text=f"{stem}.jpg {number}".rstrip(), **rest)


def _draw_rafdb_basic(source: DrawnSource) -> None:
    raf = _RafRows(source)

    def image(label: str) -> bytes:
        return encode_jpeg(source.face(label, 100))

    rows = [
        raf.make(split, _RAFDB_IDS[label], image(label), label=label)
        for split, total in (("train", 240), ("test", 63))
        for label in source.labels(total, TAIL)
    ]
    unknown = {"rule": "bad label", "detail": "class ids are 1 to 7, this is 9"}
    malformed = {"rule": "malformed line", "detail": "1 of 2 fields"}
    empty = {"rule": "undecodable", "detail": "an empty file"}
    missing = {"rule": "missing path", "detail": "no such file"}
    extra = [
        raf.make("train", 9, image("Neutral"), **unknown),
        raf.make("test", 9, image("Happy"), **unknown),
        raf.make("train", "", image("Sad"), **malformed),
        raf.make("train", 4, b"", **empty),
        raf.make("train", 7, None, **missing),
        raf.make("test", 5, None, **missing),
    ]
    source.scatter(rows, extra)
    source.write_index(_RAF_INDEX, rows)


def _draw_rafdb_compound(source: DrawnSource) -> None:
    raf = _RafRows(source)

    def image(number: int) -> bytes:
        strength = between(source.rng, source.style.strength)
        second = strength * between(source.rng, (0.35, 0.65))
        weights = {RAFDB_COMPOUND_IDS[number]: strength, _COMPOUND_SECOND[number]: second}
        return encode_jpeg(source.blend(weights, 100))

    rows = []
    for split, each in (("train", 5.5), ("test", 2)):
        for number, primary in RAFDB_COMPOUND_IDS.items():
            for _ in range(max(1, round(each * source.share))):
                rows.append(raf.make(split, number, image(number), label=primary))
    unknown = {"rule": "bad label", "detail": "class ids are 1 to 11, this is 12"}
    source.scatter(rows, [raf.make("train", 12, image(5), **unknown)])
    source.write_index(_RAF_INDEX, rows)


def _rafml_shares(rng: np.random.Generator, label: str) -> list[float]:
    """Draw shares of ``RAFML_ORDER`` in hundredths that sum to 1; ``label`` has the largest."""
    first = int(rng.integers(50, 81))
    second = int(rng.integers((100 - first) // 2, 100 - first + 1))
    second = min(second, first - 10)
    others = [name for name in RAFML_ORDER if name != label]
    two, three = rng.choice(len(others), 2, replace=False)
    hundredths = {label: first, others[two]: second, others[three]: 100 - first - second}
    return [hundredths.get(name, 0) / 100 for name in RAFML_ORDER]


def _draw_rafml(source: DrawnSource) -> None:
    rows: list[Row] = []
    numbers = iter(range(1, 10_000))

    def make(split: str, main: str, *, fields: int = 6, drawn: bool = True, **rest: str) -> Row:
        stem = f"{next(numbers):04d}"
        shares = _rafml_shares(source.rng, main)
        text = " ".join([f"{stem}.jpg", *(f"{share:.2f}" for share in shares[:fields])])
        row = Row(f"Image/aligned/{stem}_aligned.jpg", split, text=text, **rest)
        if drawn:
            strength = between(source.rng, source.style.strength)
            # Annotators' shares are not muscle strengths: a face shown by 6 in 10 is a clear one.
            weights = {
                name: strength * min(1.0, 1.35 * share)
                for name, share in zip(RAFML_ORDER, shares, strict=True)
            }
            source.write(row.file, encode_jpeg(source.blend(weights, 100)))
        return row

    for split, each in (("train", 10), ("test", 4)):
        for label in RAFML_ORDER:
            for _ in range(max(1, round(each * source.share))):
                rows.append(make(split, label, label=label))
    short = make("train", "Sad", fields=5, rule="malformed line", detail="5 of 6 shares")
    gone = make("test", "Happy", drawn=False, rule="missing path", detail="no such file")
    source.scatter(rows, [short, gone])
    source.write_index("EmoLabel/distribution.txt", rows)
    partition = [f"{row.text.split()[0]} {int(row.split == 'test')}" for row in rows]
    source.write("EmoLabel/partition_label.txt", ("\n".join(partition) + "\n").encode())


_DRAW: dict[str, Callable[[DrawnSource], None]] = {
    "affectnet_full_balanced": _draw_affectnet,
    "fer2013_uniform_7": _draw_fer2013,
    "ferplus": _draw_ferplus,
    "rafdb_basic": _draw_rafdb_basic,
    "rafdb_compound_mapped": _draw_rafdb_compound,
    "rafml_argmax": _draw_rafml,
    "expw_full": draw_expw,
}
SOURCES: tuple[str, ...] = tuple(_DRAW)

#: Train source, test source, class, and whether the very bytes are repeated or only the pixels.
_LEAKS: tuple[tuple[str, str, str, bool], ...] = (
    ("affectnet_full_balanced", "rafdb_basic", "Happy", True),
    ("affectnet_full_balanced", "affectnet_full_balanced", "Neutral", True),
    ("fer2013_uniform_7", "fer2013_uniform_7", "Angry", True),
    ("ferplus", "ferplus", "Surprise", True),
    ("ferplus", "fer2013_uniform_7", "Happy", False),
)


def _plant_leaks(sources: dict[str, DrawnSource]) -> None:
    """Plant leaks: repeat training images as test images; the training row is the faulty one."""
    for train_name, test_name, label, same_bytes in _LEAKS:
        train, test = sources[train_name], sources[test_name]
        where, seen = _take_good(train, "train", label)
        again_where, again = _take_good(test, "test", label)
        data = read_file(train.root / seen.file)
        if not same_bytes:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
            assert pixels is not None, "a good row's image decodes"
            _, packed = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
            data = packed.tobytes()
        (test.root / again.file).write_bytes(data)
        same = "bytes" if same_bytes else "pixels"
        detail = f"same {same} as the test row {test_name} {again_where}"
        train.faults.append(Fault(train_name, where, seen.file, "leakage", detail))


def _take_good(source: DrawnSource, split: str, label: str) -> tuple[str, Row]:
    """Remove and return the first good row of a split and class, so it gets no second fault."""
    for index, (_, row) in enumerate(source.good):
        if row.split == split and row.label == label:
            return source.good.pop(index)
    raise FerError(
        f"no good {split} row of {label} to repeat", code="missing-row", where=source.name
    )


def draw_source(root: Path, seed: int, name: str, share: float = 1.0) -> DrawnSource:
    """Draw one source under ``root/raw``; equal seed and share give equal bytes.

    ``share`` scales the number of good faces (1 draws about 2,100); the faults do not scale.
    """
    rng = np.random.default_rng([seed, SOURCES.index(name)])
    source = DrawnSource(name, root / "raw" / name, rng, share)
    _DRAW[name](source)
    return source


def finish_sources(root: Path, seed: int, drawn: Iterable[DrawnSource]) -> None:
    """Plant the leaks between all seven sources, and write ``root/truth.json`` about all faults."""
    named = {source.name: source for source in drawn}
    sources = {name: named[name] for name in SOURCES}
    _plant_leaks(sources)
    truth = {
        "schema": TRUTH_SCHEMA,
        "drawing_version": DRAWING_VERSION,
        "seed": seed,
        "rows": {name: source.rows for name, source in sources.items()},
        "exclusions": {name: dict(source.exclusions) for name, source in sources.items()},
        "faults": [asdict(fault) for source in sources.values() for fault in source.faults],
    }
    (root / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")


def draw_sources(root: Path, seed: int, *, share: float = 1.0) -> None:
    """Draw all seven sources in this process, with ``truth.json``; see ``draw_source``."""
    finish_sources(root, seed, [draw_source(root, seed, name, share) for name in SOURCES])
