"""Contact sheets: what is on them, and that no manifest can make them read what it should not."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_ml.base.labels import CLASSES
from fer_ml.images import pixels as images
from fer_ml.images.pixels import encode_png
from fer_ml.manifests.schema import BOX, SCHEMA
from fer_ml.validation import contact_sheets as sheets
from fer_ml.validation.contact_sheets import (
    CLASS_SIDE,
    FINDING_SIDE,
    Tile,
    class_sheet,
    contact_sheet,
    findings_sheet,
    fit,
    read_face,
    read_tile,
)
from tests.machine import pipe
from tests.refusals import refused

MARK = (0xB3, 0x26, 0x1E)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels that are nearly of this colour: a palette moves them a little."""
    return int((np.abs(image - colour).max(axis=-1) <= 6).sum())


def plain(colour: tuple[int, int, int], height: int = 10, width: int = 10) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def write(root: Path, name: str, image: np.ndarray) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
    return name


def bomb() -> bytes:
    """A small PNG that says of itself that it has 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def test_a_contact_sheet_has_its_tiles_in_rows() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    sheet = pixels(contact_sheet([Tile(plain(c)) for c in colours], columns=2, side=40))
    assert sheet.shape[0] > 80 and 80 <= sheet.shape[1] < 110
    half = sheet.shape[1] // 2
    for colour, part in zip(
        colours, (sheet[:40, :half], sheet[:40, half:], sheet[48:, :half]), strict=True
    ):
        assert count(part, colour) > 1000
        assert count(sheet, colour) == 40 * 40, "nowhere else"


def test_captions_stay_below_their_own_tile() -> None:
    long = "Wide words " * 30 + "W" * 300
    sheet = pixels(contact_sheet([Tile(plain((0, 200, 0))), Tile(plain((0, 0, 200)), long)]))
    below = sheet[FINDING_SIDE + 4 :]
    left, right = np.split(below, 2, axis=1)
    assert (left[:, :FINDING_SIDE] == 255).all()
    assert (right < 128).any()
    assert below.shape[0] < 80


def test_an_unreadable_picture_is_a_marked_tile() -> None:
    seen, unseen = (contact_sheet([Tile(i, "caption")]) for i in (plain((9, 9, 9)), None))
    assert count(pixels(seen), MARK) == 0
    assert count(pixels(unseen), MARK) > 4 * FINDING_SIDE
    assert contact_sheet([])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
@settings(max_examples=50)
def test_fit_keeps_the_proportions(height: int, width: int, side: int) -> None:
    fitted = fit(np.zeros((height, width, 3), np.uint8), side)
    assert max(fitted.shape[:2]) == side
    scale = side / max(height, width)
    assert abs(fitted.shape[0] - height * scale) <= 1 and abs(fitted.shape[1] - width * scale) <= 1


def test_a_face_is_cut_by_its_box(tmp_path: Path) -> None:
    image = plain((0, 0, 0), 20, 30)
    image[5:9, 10:17] = (200, 100, 50)
    write(tmp_path, "a/photo.png", image)
    face = read_face(tmp_path, "a/photo.png", (10, 5, 17, 9))
    assert face.shape == (4, 7, 3) and (face == (200, 100, 50)).all()
    assert read_face(tmp_path, "a/photo.png", None).shape == (20, 30, 3)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A root with files that must not be read, beside a readable file outside of it."""
    root = tmp_path / "root"
    write(tmp_path, "outside.png", plain((1, 2, 3)))
    write(root, "good.png", plain((1, 2, 3)))
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("no image")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:-20])
    (root / "bomb.png").write_bytes(bomb())
    (root / "folder.png").mkdir()
    (root / "link.png").symlink_to("../outside.png")
    (root / "up").symlink_to("..")
    (root / "loop.png").symlink_to("loop.png")
    (root / "inner.png").symlink_to("good.png")
    pipe(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (None, "missing-image-path"),
        ("", "missing-image-path"),
        ("empty.png", "empty-image"),
        ("text.png", "undecodable-image"),
        ("cut.png", "undecodable-image"),
        ("bomb.png", "oversized-image"),
        ("folder.png", "not-regular-file"),
        (".", "not-regular-file"),
        ("pipe.png", "not-regular-file"),
        ("link.png", "path-leaves-root"),
        ("up/outside.png", "path-leaves-root"),
        ("../outside.png", "path-leaves-root"),
        ("../../../../../../../etc/passwd", "path-leaves-root"),
        ("/etc/passwd", "path-leaves-root"),
        ("none.png", "missing-image"),
        ("good.png/x", "missing-image"),
        ("a\0b", "invalid-path"),
        ("x" * 5000, "invalid-path"),
    ],
)
def test_what_cannot_be_shown_says_why(hostile: Path, path: str | None, code: str) -> None:
    with refused(code) as caught:
        read_face(hostile, path, None)
    image, caption = read_tile(hostile, path, None)
    assert image is None and caption == caught.value.what


def test_links_are_followed_inside_the_root_only(hostile: Path, tmp_path: Path) -> None:
    assert read_face(hostile, "inner.png", None).shape == (10, 10, 3)
    assert read_tile(hostile, "loop.png", None).image is None
    (tmp_path / "alias").symlink_to("root")
    assert read_face(tmp_path / "alias", "good.png", None).shape == (10, 10, 3)


def test_files_of_absurd_size_are_not_read(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with refused("file-too-large", allowed="at most 10"):
        read_face(hostile, "good.png", None)


@pytest.mark.parametrize("box", [(0, 0, 11, 5), (5, 5, 5, 9), (-1, 0, 4, 4), (1, None, 4, 4)])
def test_a_box_outside_its_picture_is_a_marked_tile(
    hostile: Path, box: tuple[int, int, int, int]
) -> None:
    image, caption = read_tile(hostile, "good.png", box)
    assert image is None and caption.startswith("box")


Make = Callable[..., pl.DataFrame]


@pytest.fixture
def faces(make_manifest: Make) -> pl.DataFrame:
    """60 faces of two sources: a has five classes, b has all."""
    return make_manifest(
        [{"source": "ab"[i // 30], "label": CLASSES[i % (5 + 2 * (i // 30))]} for i in range(60)]
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths that a sheet reads."""
    read: list[Path] = []

    def spy(path: Path) -> np.ndarray:
        read.append(path)
        return plain((7, 7, 7))

    monkeypatch.setattr(sheets, "read_image", spy)
    return read


def test_a_class_sheet_reads_only_what_it_shows(
    faces: pl.DataFrame, tmp_path: Path, reads: list[Path]
) -> None:
    class_sheet(faces, tmp_path, per_cell=2)
    by_path = {
        tmp_path / p: (s, c)
        for p, s, c in faces.select("image_path", "source", "label").iter_rows()
    }
    shown = [by_path[path] for path in reads]
    assert len(set(reads)) == len(reads)
    assert {cell: shown.count(cell) for cell in set(shown)} == {
        **{("a", label): 2 for label in CLASSES[:5]},
        **{("b", label): 2 for label in CLASSES},
    }


def test_the_choice_follows_the_seed_and_not_the_rows(
    faces: pl.DataFrame, tmp_path: Path, reads: list[Path]
) -> None:
    def chosen(frame: pl.DataFrame, seed: int) -> set[Path]:
        reads.clear()
        class_sheet(frame, tmp_path, per_cell=2, seed=seed)
        return set(reads)

    first = chosen(faces, 0)
    assert all(chosen(faces.sample(fraction=1, shuffle=True, seed=i), 0) == first for i in range(5))
    assert len({frozenset(chosen(faces, seed)) for seed in range(5)}) == 5
    rest = faces.filter(~pl.Series([tmp_path / p in first for p in faces["image_path"]]))
    kept = faces.filter(~pl.col("image_path").is_in(rest["image_path"].head(9).implode()))
    assert chosen(kept, 0) == first, "rows that were not chosen do not matter"
    assert chosen(pl.concat([faces, faces]), 0) == first, "a face is shown once"


def test_equal_manifests_give_equal_bytes(faces: pl.DataFrame, tmp_path: Path) -> None:
    png = class_sheet(faces, tmp_path)
    assert png == class_sheet(faces.reverse(), tmp_path)
    assert png != class_sheet(faces, tmp_path, seed=1)


def test_a_class_sheet_shows_faces_by_class_and_source(make_manifest: Make, tmp_path: Path) -> None:
    frame = make_manifest(
        [
            {"source": "a", "label": "Angry"},
            {"source": "b", "label": "Neutral"},
            {"source": "b", "label": "Fear"},
        ]
    )
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for path, colour in zip(frame["image_path"], colours, strict=True):
        write(tmp_path, path, plain(colour))
    sheet = pixels(class_sheet(frame, tmp_path, per_cell=1))
    places = [np.argwhere(np.abs(sheet - c).max(axis=-1) <= 6).mean(axis=0) for c in colours]
    assert all(count(sheet, c) == CLASS_SIDE**2 for c in colours)
    (y_a, angry), (y_b, neutral), (y_c, fear) = places
    assert y_a < y_b == y_c
    pitch = (fear - angry) / 2
    assert neutral - angry == pytest.approx(6 * pitch)


def test_a_class_sheet_survives_what_it_cannot_show(hostile: Path) -> None:
    rows = [
        {
            "image_path": path,
            "label": CLASSES[i % 7],
            "source": "日本 $x$\n" * 9,
            "sample_id": f"{i}",
        }
        for i, path in enumerate(
            ["bomb.png", "pipe.png", "../outside.png", "good.png", "a\0b", "loop.png", "cut.png"]
        )
    ]
    rows += [{"image_path": "good.png", "label": "hapy", "source": None, "sample_id": "x"}]
    rows += [{"image_path": "good.png", "label": "Sad", "source": None, "sample_id": None}]
    frame = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA)
    sheet = pixels(class_sheet(frame, hostile))
    assert count(sheet, MARK) > 6 * 4 * CLASS_SIDE
    assert class_sheet(frame.clear(), hostile)


def findings(*rows: tuple[str, str | None, str | None]) -> pl.DataFrame:
    schema = {"rule": pl.String, "image_path": pl.String, "detail": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.lit(None, pl.Int64).alias(name) for name in BOX)


def test_without_pictures_there_is_no_sheet_of_findings(tmp_path: Path) -> None:
    assert findings_sheet(findings(), tmp_path) is None
    assert findings_sheet(findings(("malformed_rows", None, "5 of 8 fields")), tmp_path) is None


def test_findings_are_grouped_by_rule_and_limited(tmp_path: Path, reads: list[Path]) -> None:
    names = [write(tmp_path, f"{i}.png", plain((0, 0, 0))) for i in range(9)]
    rows = [(rule, name, "detail") for name in names for rule in ("one", "two", "two")]
    one_row = pixels(findings_sheet(findings(*rows[:1]), tmp_path) or b"")
    reads.clear()
    sheet = pixels(findings_sheet(findings(*rows), tmp_path, limit=4) or b"")
    assert [path.name for path in reads] == [f"{i}.png" for i in range(4)] * 2
    assert sheet.shape[0] == 2 * one_row.shape[0]
    assert count(sheet, (7, 7, 7)) >= 8 * FINDING_SIDE**2


def test_findings_that_cannot_be_read_are_marked(hostile: Path) -> None:
    unread = findings_sheet(findings(("undecodable", "bomb.png", "x")), hostile)
    read = findings_sheet(findings(("undecodable", "good.png", "x")), hostile)
    assert unread and count(pixels(unread), MARK) > 4 * FINDING_SIDE
    assert read and count(pixels(read), MARK) == 0


def test_a_picture_with_a_wrong_box_is_shown_whole(tmp_path: Path) -> None:
    write(tmp_path, "a.png", plain((0, 0, 250)))
    frame = findings(("bad_boxes", "a.png", "x")).with_columns(
        bbox_left=1, bbox_top=1, bbox_right=99, bbox_bottom=5
    )
    sheet = pixels(findings_sheet(frame, tmp_path) or b"")
    assert count(sheet, (0, 0, 250)) == FINDING_SIDE**2
    assert count(sheet, MARK) == 0


@given(st.lists(st.tuples(st.text(), st.none() | st.text(), st.none() | st.text()), max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_can_be_a_finding(
    hostile: Path, rows: list[tuple[str, str | None, str | None]]
) -> None:
    png = findings_sheet(findings(*rows), hostile)
    assert (png is None) == all(path is None for _, path, _ in rows)


def test_a_sheet_takes_less_than_a_byte_a_pixel(faces: pl.DataFrame, tmp_path: Path) -> None:
    """The faces are coloured noise, which nothing else compresses."""
    png = class_sheet(faces, tmp_path)
    assert len(png) < pixels(png)[..., 0].size
