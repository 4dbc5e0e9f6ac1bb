"""Boxes in fractions become the pixels that they were made of, and data.yaml is read exactly."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_ml.base.errors import FerError
from fer_ml.images.pixels import read_image
from fer_ml.sources import get_adapter, listing_schema
from fer_ml.sources.affectnet_yolo import class_names
from tests.machine import POSIX
from tests.refusals import refused

Images = Callable[..., None]
BOX = ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom")
QUICK = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def listing(root: Path, *lines: str) -> pl.DataFrame:
    """Of ``train/images/a.*`` with these lines."""
    (root / "data.yaml").write_text("names: [Happy, Sad]\n")
    (root / "train/labels").mkdir(parents=True, exist_ok=True)
    (root / "train/labels/a.txt").write_text("".join(f"{line}\n" for line in lines))
    return get_adapter("affectnet_yolo").listing(root)


def boxes(frame: pl.DataFrame) -> list[tuple[int, ...]]:
    return frame.select(BOX).rows()


@QUICK
@given(data=st.data())
def test_whole_pixels_come_back(data: st.DataObject, tmp_path: Path, images: Images) -> None:
    width, height = (data.draw(st.integers(2, 6000)) for _ in range(2))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    with Image.new("1", (width, height)) as image:
        (tmp_path / "train/images").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "train/images/a.png", compress_level=1)

    centre = f"{(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f}"
    size = f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}"
    frame = listing(tmp_path, f"1 {centre} {size}")

    assert boxes(frame) == [(left, top, right, bottom)]
    assert frame["label"].to_list() == ["Sad"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0.5 0.5 1 1", (0, 0, 100, 40)),
        # 10.2 to 30.2 and 9.98 to 30.02 px: every pixel that the box touches.
        ("0.202 0.5 0.2 0.501", (10, 9, 31, 31)),
        # Within a hundredth of a pixel.
        ("0.20005 0.5 0.2 0.5", (10, 10, 30, 30)),
        # Outside of the image, and inverted.
        ("-0.5 0.5 0.2 0.5", (-60, 10, -40, 30)),
        ("1 1 1 1", (50, 20, 150, 60)),
        ("0.5 0.5 -0.2 0.5", (60, 10, 40, 30)),
    ],
)
def test_box_is_kept_wherever_it_lies(
    line: str, expected: tuple[int, ...], tmp_path: Path, images: Images
) -> None:
    images(tmp_path, "train/images/a.png", width=100, height=40)
    assert boxes(listing(tmp_path, f"0 {line}")) == [expected]


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_box_is_in_the_image_as_it_is_decoded(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "train/images/a.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    height, width = read_image(path).shape[:2]
    assert boxes(listing(tmp_path, "0 0.5 0.5 1 1")) == [(0, 0, width, height)]


def test_size_needs_the_header_only(tmp_path: Path, images: Images) -> None:
    images(tmp_path, "train/images/a.png", width=100, height=40)
    path = tmp_path / "train/images/a.png"
    path.write_bytes(path.read_bytes()[:50])
    assert boxes(listing(tmp_path, "0 0.5 0.5 1 1")) == [(0, 0, 100, 40)]


@pytest.mark.parametrize(("side", "edge"), [(12_000, 12_000), (20_000, None)])
def test_very_large_image_is_not_decoded(side: int, edge: int | None, tmp_path: Path) -> None:
    head = b"IHDR" + side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    chunk = b"\0\0\0\r" + head + zlib.crc32(head).to_bytes(4, "big")
    path = tmp_path / "train/images/a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")
    frame = listing(tmp_path, "0 0.5 0.5 1 1")
    assert frame["bbox_right"].to_list() == [edge]
    assert frame["fault"].str.starts_with("undecodable: ").to_list() == [None if edge else True]


@pytest.mark.parametrize(
    "text",
    [
        "names: [Happy, Sad]",
        "names: [Happy, Sad]\nnc: 2",
        "names:\n- Happy\n- Sad",
        "names: {0: Happy, 1: Sad}",
        "names: {1: Sad, 0: Happy}\npath: ../elsewhere",
    ],
)
def test_class_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert class_names(tmp_path / "data.yaml") == {"0": "Happy", "1": "Sad"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nc: 2", "invalid-class-names"),
        ("names: 2", "invalid-class-names"),
        ("names: []", "invalid-class-names"),
        ("names: [Happy, [no]]", "invalid-class-names"),
        ("names: [Happy, null]", "invalid-class-names"),
        ("names: {1: Happy, 2: Sad}", "invalid-class-names"),
        ("- names", "invalid-class-names"),
        ("names: [Happy, Sad]\nnc: 3", "class-count-mismatch"),
        ("names: [Happy, Sad]\nnc: two", "class-count-mismatch"),
        ("names: [Happy", "invalid-yaml"),
        ("names: &a [Happy]\nmore: *a", "invalid-yaml"),
        ("[" * 5000, "invalid-yaml"),
        ("!!python/object:os.system {}", "invalid-yaml"),
    ],
)
def test_class_names_that_are_not_clear_are_refused(text: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with refused(code, where=tmp_path / "data.yaml"):
        class_names(tmp_path / "data.yaml")


@QUICK
@given(data=st.binary(max_size=60) | st.text("names:[]{}&*!0 \n-'\"a", max_size=60).map(str.encode))
def test_any_data_yaml_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes(data)
    try:
        names = class_names(tmp_path / "data.yaml")
    except FerError:
        return
    assert list(names) == [str(place) for place in range(len(names))]


@QUICK
@given(data=st.binary(max_size=60) | st.text("01.5 -e9x\n\r\t\0", max_size=60).map(str.encode))
def test_any_label_file_gives_its_lines(data: bytes, tmp_path: Path, images: Images) -> None:
    images(tmp_path, "train/images/a.png")
    listing(tmp_path)
    (tmp_path / "train/labels/a.txt").write_bytes(data)
    frame = get_adapter("affectnet_yolo").listing(tmp_path)
    assert dict(frame.schema) == listing_schema()
    assert frame.height == max(1, data.count(b"\n") + (data[-1:] not in (b"", b"\n")))
    outcomes = [pl.col(column).is_not_null() for column in ("label", "excluded", "fault")]
    assert frame.select(pl.sum_horizontal(outcomes) == 1).to_series().all()


def test_root_without_images_and_labels_is_refused(tmp_path: Path, images: Images) -> None:
    images(tmp_path, "train/Happy/a.png")
    (tmp_path / "data.yaml").write_text("names: [Happy]")
    with refused("missing-image-folder"):
        get_adapter("affectnet_yolo").listing(tmp_path)


def test_folders_without_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("names: [Happy]")
    with refused("no-images"):
        get_adapter("affectnet_yolo").listing(tmp_path)


@POSIX
def test_odd_names_are_rows(tmp_path: Path, images: Images) -> None:
    images(tmp_path, r"train/images/b\c.png", "train/images/.png")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/images/broken.png").symlink_to("absent.png")
    np.array([0]).tofile(tmp_path / "train/labels/classes.txt")
    (tmp_path / "data.yaml").write_text("names: [Happy]")
    frame = get_adapter("affectnet_yolo").listing(tmp_path)
    assert frame.select("where", "fault").rows() == [
        (r"train/images/b\c.png", r"bad path: 'train/images/b\\c.png'"),
        (
            "train/images/broken.png",
            "bad path: not a regular file, or a link out of the dataset: 'broken.png'",
        ),
        ("train/labels/classes.txt", "bad label: no image belongs to this file"),
    ]
