"""Faults planted one by one in a good manifest, each found by exactly the rule meant for it."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import encode_png
from fer_ml.recipes.profile import DRAWN_NEAR, SPLITS
from fer_ml.validation.report import validate_file
from tests.machine import CASE, pipe
from tests.refusals import refused

COLUMNS = ("image_path", "label", "split", "source")
BOX = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")


def face(seed: int, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


@dataclass
class Planted:
    """A good manifest to plant a fault in: rows as dicts, text written last, as bytes."""

    root: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    columns: tuple[str, ...] = COLUMNS
    edit: Callable[[bytes], bytes] = bytes

    def image(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def pillow(self, name: str, mode: str, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        Image.new(mode, (24, 24)).save(buffer, kind, **options)
        self.image(name, buffer.getvalue())

    def add(self, image: np.ndarray | None, **cells: Any) -> None:
        """One more row, with a file of its own unless ``image`` is None."""
        name = cells.get("image_path", f"s/extra{len(self.rows)}.png")
        if image is not None:
            self.image(name, encode_png(image))
        row = {"image_path": name, "label": "Happy", "split": "train", "source": "s"}
        self.rows.append(row | cells)
        self.columns = tuple(dict.fromkeys((*self.columns, *self.rows[-1])))

    def set(self, row: int = 1, **cells: Any) -> None:
        self.rows[row].update(cells)
        self.columns = tuple(dict.fromkeys((*self.columns, *cells)))

    def validate(self) -> dict[str, Any]:
        frame = pl.DataFrame(
            [{name: row.get(name) for name in self.columns} for row in self.rows],
            infer_schema_length=None,
            schema_overrides=dict.fromkeys(COLUMNS, pl.String),
        )
        csv = self.root.parent / "m.csv"
        csv.write_bytes(self.edit(frame.write_csv().encode()))
        return validate_file(csv, [self.root], self.root.parent / "cache", near=DRAWN_NEAR)


@pytest.fixture
def good(tmp_path: Path) -> Planted:
    """Every class in every split, one small image each."""
    planted = Planted(tmp_path / "images")
    for index, (split, label) in enumerate((s, c) for s in SPLITS for c in CLASSES):
        planted.add(face(index), image_path=f"s/{index}.png", split=split, label=label)
    return planted


def truncated_png(p: Planted) -> None:
    p.image("s/1.png", encode_png(face(1))[:-20])


def truncated_jpeg(p: Planted) -> None:
    data = cv2.imencode(".jpg", face(1, 64))[1].tobytes()
    p.image("s/1.jpg", data[: len(data) * 2 // 3])
    p.set(image_path="s/1.jpg")


def zero_bytes(p: Planted) -> None:
    p.image("s/1.png", b"")


def text_for_an_image(p: Planted) -> None:
    p.image("s/1.png", b"<html>404 not found</html>")


def one_flipped_byte(p: Planted) -> None:
    data = bytearray(encode_png(face(1)))
    data[len(data) // 2] ^= 1
    p.image("s/1.png", bytes(data))


def git_lfs_pointer(p: Planted) -> None:
    p.image("s/1.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def png_named_jpg(p: Planted) -> None:
    p.image("s/1.jpg", encode_png(face(1)))
    p.set(image_path="s/1.jpg")


def no_suffix(p: Planted) -> None:
    p.image("s/one", encode_png(face(1)))
    p.set(image_path="s/one")


def cmyk_jpeg(p: Planted) -> None:
    p.pillow("s/1.jpg", "CMYK", "JPEG")
    p.set(image_path="s/1.jpg")


def sixteen_bits(p: Planted) -> None:
    p.pillow("s/1.png", "I;16", "PNG")


def palette(p: Planted) -> None:
    p.pillow("s/1.png", "P", "PNG")


def alpha(p: Planted) -> None:
    p.pillow("s/1.png", "RGBA", "PNG")


def transparent_colour(p: Planted) -> None:
    p.pillow("s/1.png", "RGB", "PNG", transparency=(0, 0, 0))


def bilevel(p: Planted) -> None:
    p.pillow("s/1.png", "1", "PNG")


def animated_gif(p: Planted) -> None:
    frames = [Image.new("L", (24, 24), shade) for shade in (0, 200)]
    p.root.joinpath("s").mkdir(exist_ok=True)
    frames[0].save(p.root / "s/1.gif", save_all=True, append_images=frames[1:])
    p.set(image_path="s/1.gif")


def animated_png(p: Planted) -> None:
    frames = [Image.new("L", (24, 24), shade) for shade in (0, 200)]
    frames[0].save(p.root / "s/1.png", save_all=True, append_images=frames[1:])


def _png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def decompression_bomb(p: Planted) -> None:
    p.image("s/1.png", _png_of(100_000, 100_000, zlib.compress(bytes(10_000_000), 9)))


def bomb_as_gif(p: Planted) -> None:
    p.pillow("s/1.gif", "L", "GIF")
    data = bytearray((p.root / "s/1.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 65000, 65000)
    p.image("s/1.gif", bytes(data))
    p.set(image_path="s/1.gif")


def broken_link(p: Planted) -> None:
    (p.root / "s/1.png").unlink()
    (p.root / "s/1.png").symlink_to("nowhere.png")


def loop_of_links(p: Planted) -> None:
    (p.root / "s/1.png").unlink()
    (p.root / "s/1.png").symlink_to(p.root / "s/1.png")


def link_that_leaves_the_root(p: Planted) -> None:
    (p.root.parent / "secret.png").write_bytes(encode_png(face(99)))
    (p.root / "s/1.png").unlink()
    (p.root / "s/1.png").symlink_to(p.root.parent / "secret.png")


def folder_link_that_leaves_the_root(p: Planted) -> None:
    (p.root.parent / "outside").mkdir()
    (p.root.parent / "outside/1.png").write_bytes(encode_png(face(99)))
    (p.root / "out").symlink_to(p.root.parent / "outside")
    p.set(image_path="out/1.png")


def link_inside_the_root(p: Planted) -> None:
    (p.root / "s/1.png").rename(p.root / "real.png")
    (p.root / "s/1.png").symlink_to(p.root / "real.png")


def two_dots(p: Planted) -> None:
    (p.root.parent / "up.png").write_bytes(encode_png(face(99)))
    p.set(image_path="../up.png")


def two_dots_of_windows(p: Planted) -> None:
    p.set(image_path="s\\..\\..\\up.png")


def absolute_path(p: Planted) -> None:
    (p.root.parent / "up.png").write_bytes(encode_png(face(99)))
    p.set(image_path=str(p.root.parent / "up.png"))


def path_of_another_machine(p: Planted) -> None:
    p.set(image_path="C:\\faces\\nowhere\\1.png")


def network_share(p: Planted) -> None:
    p.set(image_path="\\\\host\\share\\1.png")


def nul_in_a_path(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png", b"s/1\0.png")


def not_utf8(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png", b"s/\xe9.png")


def name_too_long(p: Planted) -> None:
    p.set(image_path="s/" + "a" * 5000 + ".png")


def missing_file(p: Planted) -> None:
    (p.root / "s/1.png").unlink()


def folder_for_a_file(p: Planted) -> None:
    p.set(image_path="s")


def named_pipe(p: Planted) -> None:
    (p.root / "s/1.png").unlink()
    pipe(p.root / "s/1.png")


def byte_order_mark(p: Planted) -> None:
    p.edit = lambda data: b"\xef\xbb\xbf" + data


def crlf(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"\n", b"\r\n")


def empty_lines(p: Planted) -> None:
    p.edit = lambda data: data + b"\n\n"


def quoted_comma(p: Planted) -> None:
    (p.root / "s/1.png").rename(p.root / "s/a, b.png")
    p.set(image_path="s/a, b.png")


def a_field_too_many(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png,", b"s/1.png,,")


def a_field_too_few(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png,Disgust", b"s/1.png")


def stray_quote(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png", b'"s/1.png')


def quoted_line_break(p: Planted) -> None:
    p.edit = lambda data: data.replace(b"s/1.png,", b'"s/1\n.png",')


def label_and_split_swapped(p: Planted) -> None:
    p.set(label="train", split="Happy")


def empty_source(p: Planted) -> None:
    p.set(source=None)


def empty_label(p: Planted) -> None:
    p.set(label=None)


def empty_path(p: Planted) -> None:
    p.set(image_path=None)


def number_for_a_label(p: Planted) -> None:
    p.set(label="3")


def label_with_a_blank(p: Planted) -> None:
    p.set(label="Happy ")


def label_in_lower_case(p: Planted) -> None:
    p.set(label="happy")


def label_of_another_set(p: Planted) -> None:
    p.set(label="Contempt")


def look_alike_label(p: Planted) -> None:
    p.set(label="Нappy")  # The first letter is Cyrillic.


def unknown_split(p: Planted) -> None:
    p.set(split="validation")


def unassigned_split(p: Planted) -> None:
    p.set(split="unassigned")


def text_for_a_number(p: Planted) -> None:
    p.set(confidence="high")


def nan_for_a_number(p: Planted) -> None:
    p.set(confidence="nan")


def negative_box(p: Planted) -> None:
    p.set(**dict(zip(BOX, (-1, 2, 10, 12), strict=True)))


def swapped_box(p: Planted) -> None:
    p.set(**dict(zip(BOX, (10, 2, 4, 12), strict=True)))


def empty_box(p: Planted) -> None:
    p.set(**dict(zip(BOX, (4, 2, 4, 12), strict=True)))


def half_a_box(p: Planted) -> None:
    p.set(**dict(zip(BOX, (4, 2, 10, None), strict=True)))


def box_of_a_larger_photo(p: Planted) -> None:
    p.set(**dict(zip(BOX, (300, 80, 420, 200), strict=True)))


def box_of_another_frame(p: Planted) -> None:
    p.set(**dict(zip(BOX, (2, 2, 20, 20), strict=True)), bbox_frame="original")


def same_face_under_two_labels(p: Planted) -> None:
    p.add(face(1), label="Sad", source="t")


def same_face_twice_in_a_source(p: Planted) -> None:
    p.add(face(1), label="Disgust")


def same_row_twice(p: Planted) -> None:
    p.add(None, image_path="s/1.png", label="Disgust")


def exact_twin_in_test(p: Planted) -> None:
    p.add(face(1), label="Disgust", split="test", source="t")


def twin_in_another_format(p: Planted) -> None:
    p.image("s/twin.bmp", cv2.imencode(".bmp", face(1))[1].tobytes())
    p.add(None, image_path="s/twin.bmp", label="Disgust", split="test", source="t")


def twin_as_colour(p: Planted) -> None:
    p.add(cv2.cvtColor(face(1), cv2.COLOR_GRAY2RGB), label="Disgust", split="test", source="t")


def two_faces_of_one_photo(p: Planted) -> None:
    p.add(face(50, 60), **dict(zip(BOX, (0, 0, 30, 30), strict=True)), image_path="s/p.png")
    p.add(
        None,
        **dict(zip(BOX, (30, 30, 60, 60), strict=True)),
        image_path="s/p.png",
        split="test",
        label="Sad",
    )


def brighter_twin(p: Planted) -> None:
    p.add((face(1) * 0.6 + 70).astype(np.uint8), label="Disgust", split="test", source="t")


def larger_twin(p: Planted) -> None:
    twin = cv2.resize(face(1), (72, 72), interpolation=cv2.INTER_NEAREST)
    p.add(twin, label="Disgust", split="val", source="t")


def noisy_twin(p: Planted) -> None:
    noise = np.random.default_rng(7).normal(0, 8, (24, 24))
    twin = np.clip(face(1) + noise, 0, 255).astype(np.uint8)
    p.add(twin, label="Disgust", split="calib", source="t")


def crop_of_a_photo_in_test(p: Planted) -> None:
    photo = face(50, 80)
    p.add(photo, **dict(zip(BOX, (10, 20, 50, 60), strict=True)), image_path="s/p.png")
    p.add(photo[20:60, 10:50], split="test", source="t")


def mirrored_face(p: Planted) -> None:
    p.add(np.ascontiguousarray(face(1)[:, ::-1]), label="Disgust", split="test", source="t")


def names_that_differ_in_case(p: Planted) -> None:
    p.add(face(60), image_path="s/Face.png")
    p.add(face(61), image_path="s/face.png")


def names_that_differ_in_accents(p: Planted) -> None:
    p.add(face(60), image_path="s/e\u0301.png")
    p.add(face(61), image_path="s/\u00e9.png")


def wrong_sample_id(p: Planted) -> None:
    p.set(sample_id="0" * 32)


def size_of_another_image(p: Planted) -> None:
    p.set(width=48, height=48)


def class_without_rows(p: Planted) -> None:
    del p.rows[-1]


def long_tail(p: Planted) -> None:
    for index in range(101):
        p.add(face(1000 + index), image_path=f"s/tail{index}.png", label="Happy")


WANTED: dict[Callable[[Planted], None], set[str]] = {
    truncated_png: {"undecodable"},
    truncated_jpeg: {"undecodable"},
    zero_bytes: {"undecodable"},
    text_for_an_image: {"undecodable"},
    one_flipped_byte: {"undecodable"},
    git_lfs_pointer: {"undecodable"},
    png_named_jpg: {"suffixes"},
    no_suffix: {"suffixes"},
    cmyk_jpeg: {"image_modes"},
    sixteen_bits: {"image_modes"},
    palette: {"image_modes"},
    alpha: {"image_modes"},
    transparent_colour: {"image_modes"},
    bilevel: {"image_modes"},
    animated_gif: {"image_modes"},
    animated_png: {"image_modes"},
    decompression_bomb: {"oversized"},
    bomb_as_gif: {"oversized"},
    broken_link: {"missing_paths"},
    loop_of_links: {"missing_paths"},
    link_that_leaves_the_root: {"escaping_paths"},
    folder_link_that_leaves_the_root: {"escaping_paths"},
    link_inside_the_root: set(),
    two_dots: {"escaping_paths"},
    two_dots_of_windows: {"escaping_paths"},
    absolute_path: {"escaping_paths"},
    path_of_another_machine: {"escaping_paths"},
    network_share: {"escaping_paths"},
    nul_in_a_path: {"malformed_rows", "class_coverage"},
    not_utf8: {"malformed_rows", "class_coverage"},
    name_too_long: {"missing_paths"},
    missing_file: {"missing_paths"},
    folder_for_a_file: {"missing_paths"},
    named_pipe: {"missing_paths"},
    byte_order_mark: {"csv_dialect"},
    crlf: {"csv_dialect"},
    empty_lines: {"csv_dialect"},
    quoted_comma: set(),
    a_field_too_many: {"malformed_rows", "class_coverage"},
    a_field_too_few: {"malformed_rows", "class_coverage"},
    stray_quote: {"malformed_rows", "class_coverage"},
    # A record is one line: the first half is no row, the second one is a row with half a path.
    quoted_line_break: {"malformed_rows", "missing_paths"},
    label_and_split_swapped: {"bad_labels", "bad_splits", "class_coverage"},
    empty_source: {"schema"},
    empty_label: {"schema", "class_coverage"},
    empty_path: {"schema"},
    number_for_a_label: {"bad_labels", "class_coverage"},
    label_with_a_blank: {"bad_labels", "class_coverage"},
    label_in_lower_case: {"bad_labels", "class_coverage"},
    label_of_another_set: {"bad_labels", "class_coverage"},
    look_alike_label: {"bad_labels", "class_coverage"},
    unknown_split: {"bad_splits", "class_coverage"},
    unassigned_split: {"bad_splits", "class_coverage"},
    text_for_a_number: {"schema"},
    nan_for_a_number: {"schema"},
    negative_box: {"bad_boxes"},
    swapped_box: {"bad_boxes"},
    empty_box: {"bad_boxes"},
    half_a_box: {"bad_boxes"},
    box_of_a_larger_photo: {"bad_boxes"},
    box_of_another_frame: {"bad_boxes"},
    same_face_under_two_labels: {"label_conflicts"},
    same_face_twice_in_a_source: {"duplicates"},
    same_row_twice: {"duplicates"},
    exact_twin_in_test: {"leakage"},
    twin_in_another_format: {"leakage"},
    twin_as_colour: {"leakage"},
    two_faces_of_one_photo: {"leakage"},
    brighter_twin: {"near_leakage"},
    larger_twin: {"near_leakage"},
    noisy_twin: {"near_leakage"},
    crop_of_a_photo_in_test: {"near_leakage"},
    mirrored_face: {"near_leakage"},
    names_that_differ_in_case: {"case_collisions"},
    names_that_differ_in_accents: {"case_collisions"},
    wrong_sample_id: {"changed_pixels"},
    size_of_another_image: {"image_sizes"},
    class_without_rows: {"class_coverage"},
    long_tail: {"imbalance"},
}


def test_the_good_manifest_has_no_finding(good: Planted) -> None:
    report = good.validate()
    assert report["passed"]
    assert report["findings"] == []
    assert False not in [rule["passed"] for rule in report["rules"].values()]


@pytest.mark.parametrize(
    "plant",
    [pytest.param(p, marks=CASE if "differ" in p.__name__ else ()) for p in WANTED],
    ids=lambda plant: plant.__name__,
)
def test_each_fault_is_found_by_its_own_rule(
    good: Planted, plant: Callable[[Planted], None]
) -> None:
    rows = len(good.rows)
    plant(good)
    report = good.validate()
    found = {name for name, rule in report["rules"].items() if rule["passed"] is False}
    # A row that cannot be read takes its class out of its split: that follows from the fault.
    assert found == WANTED[plant]
    assert report["rows_total"] >= rows - (plant is class_without_rows)
    assert report["rows_valid"] <= report["rows_total"]
    assert report["passed"] == all(
        rule["passed"] is not False for rule in report["rules"].values() if rule["blocking"]
    )


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"image_path,label,split,source,label", "duplicate-column"),
        (b"image_path;label;split;source", "missing-column"),
        (b"path,label,split,source", "missing-column"),
        (b"\xff\xfei\0m\0a\0", "invalid-csv-header"),
    ],
)
def test_a_header_that_cannot_be_read_stops_everything(
    good: Planted, header: bytes, code: str
) -> None:
    good.edit = lambda data: header + data[data.index(b"\n") :]
    with refused(code):
        good.validate()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 27),
            st.sampled_from([*COLUMNS, *BOX, "width", "sample_id", "confidence"]),
            st.one_of(
                st.none(),
                st.text(max_size=6),
                st.sampled_from([*CLASSES, *SPLITS, "s/3.png", "-1", "9" * 20, "1.5", '"', "\n"]),
            ),
        ),
        max_size=8,
    ),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=4),
)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_never_crashes_and_no_row_is_lost(
    good: Planted, cells: list[tuple[int, str, str | None]], bytes_: list[tuple[int, int]]
) -> None:
    rows = [dict(row) for row in good.rows]
    for row, column, text in cells:
        good.set(row, **{column: text})
    start = len(",".join(good.columns)) + 1
    written: list[bytes] = []

    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, value in bytes_:
            if start + place < len(changed):
                changed[start + place] = value
        written.append(bytes(changed))
        return written[0]

    good.edit = damage
    try:
        report = good.validate()
    finally:
        good.rows, good.columns = rows, COLUMNS
    lines = [line for line in written[0].split(b"\n")[1:] if line not in (b"", b"\r")]
    assert report["rows_total"] == len(lines)
    faulty = {f["line"] for f in report["findings"] if report["rules"][f["rule"]]["blocking"]}
    assert report["rows_valid"] >= report["rows_total"] - len(faulty)
    counted = sum(report["counts"]["by_source_split_label"].values())
    malformed = report["rules"]["malformed_rows"]["value"]
    assert counted + malformed == report["rows_total"]
    assert sum(report["counts"]["by_source"].values()) == counted
