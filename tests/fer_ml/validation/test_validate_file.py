"""``fer validate``: any CSV and any folder get one clear answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.errors import FerError
from fer_ml.manifests.schema import write_manifest
from fer_ml.validation.report import validate_file

Make = Callable[..., pl.DataFrame]
NEEDED = ["image_path", "label", "split", "source"]


@pytest.fixture
def good(make_manifest: Make) -> pl.DataFrame:
    return make_manifest([{}, {"split": "val"}, {"split": "test"}, {}])


def validate(frame: pl.DataFrame, root: Path) -> dict[str, Any]:
    path = root / "manifest.csv"
    frame.write_csv(path)
    return validate_file(path, root)


def found(report: dict[str, Any]) -> dict[str, int]:
    return {rule: r["value"] for rule, r in report["rules"].items() if not r["passed"]}


def test_a_platform_manifest_passes(good: pl.DataFrame, tmp_path: Path) -> None:
    write_manifest(good, tmp_path / "m.csv")
    report = validate_file(tmp_path / "m.csv", tmp_path)
    assert report["passed"]
    assert report["rows_total"] == report["rows_valid"] == 4
    assert report["decode"] == {"attempted": 4, "ok": 4, "fail": 0}
    assert report["counts"]["by_source"] == {"a": 4}


def test_four_columns_are_enough(good: pl.DataFrame, tmp_path: Path) -> None:
    assert validate(good.select(NEEDED), tmp_path)["passed"]


def test_leakage_is_found_from_pixels_alone(good: pl.DataFrame, tmp_path: Path) -> None:
    """A manifest without identities: the copy of a training image under another name."""
    (tmp_path / "copy.png").write_bytes((tmp_path / good["image_path"][0]).read_bytes())
    copy = good[:1].with_columns(image_path=pl.lit("copy.png"), split=pl.lit("test"))
    report = validate(pl.concat([good, copy]).select(NEEDED), tmp_path)
    assert found(report) == {"leakage": 1}
    assert not report["passed"]


@pytest.mark.parametrize("label", ["happy", "Happy ", "HAPPY", "3", "Contempt"])
def test_labels_are_compared_exactly(good: pl.DataFrame, tmp_path: Path, label: str) -> None:
    report = validate(good.with_columns(label=pl.lit(label)).select(NEEDED), tmp_path)
    assert found(report) == {"bad_labels": 4}
    assert report["bad_labels"] == 4
    assert report["rows_valid"] == 0


@pytest.mark.parametrize(
    "path", [r"C:\data\a.png", "D:/data/a.png", "/data/a.png", "../a.png", r"\\host\share\a.png"]
)
def test_paths_of_another_machine_are_missing(
    good: pl.DataFrame, tmp_path: Path, path: str
) -> None:
    names = pl.Series([f"{path}{i}" for i in range(4)])
    report = validate(good.with_columns(image_path=names).select(NEEDED), tmp_path)
    assert found(report) == {"missing_paths": 4}


def test_a_wrong_root_reports_every_row(good: pl.DataFrame, tmp_path: Path) -> None:
    good.select(NEEDED).write_csv(tmp_path / "m.csv")
    (tmp_path / "elsewhere").mkdir()
    report = validate_file(tmp_path / "m.csv", tmp_path / "elsewhere")
    assert found(report) == {"missing_paths": 4}
    assert report["rows_valid"] == 0
    assert not report["passed"]
    assert report["decode"] == {"attempted": 0, "ok": 0, "fail": 0}


@pytest.mark.parametrize("column", NEEDED)
def test_a_missing_column_is_named(good: pl.DataFrame, tmp_path: Path, column: str) -> None:
    with pytest.raises(FerError, match=f"lacks the column {column}"):
        validate(good.drop(column), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable CSV"),
        (b"image_path,label,split,source\n", "no rows"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\0\0", "manifest"),
        (b'image_path,label,split,source\n"a.png,Happy,train,a\n', "CSV|column|row"),
        (b"image_path;label;split;source\na.png;Happy;train;a\n", "lacks the column"),
        (b"image_path,label,split,source,width\na.png,Happy,train,a,wide\n", "another type"),
        (b"image_path,label,split,source\na.png,Happy,train,a,extra,cells\n", "CSV"),
        (b"image_path,label,split,source\n\xff\xfe.png,Happy,train,a\n", "CSV"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(FerError, match=message) as caught:
        validate_file(path, tmp_path)
    assert caught.value.where == str(path)


def test_no_file_and_no_root(good: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(FerError, match="no such manifest"):
        validate_file(tmp_path / "no.csv", tmp_path)
    good.write_csv(tmp_path / "m.csv")
    with pytest.raises(FerError, match="no such folder"):
        validate_file(tmp_path / "m.csv", tmp_path / "no")


def test_an_own_box_is_judged_without_identities(good: pl.DataFrame, tmp_path: Path) -> None:
    rows = good.select(NEEDED).with_columns(
        bbox_left=0, bbox_top=0, bbox_right=pl.Series([24, 24, 24, 25]), bbox_bottom=24
    )
    assert found(validate(rows, tmp_path)) == {"bad_boxes": 1}


def test_valid_rows_are_those_without_a_fault(good: pl.DataFrame, tmp_path: Path) -> None:
    report = validate(
        good.with_columns(image_path=pl.lit("gone.png"), label=pl.lit("happy")).select(NEEDED),
        tmp_path,
    )
    assert report["rows_valid"] == 0


def test_decode_counts_images(good: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    report = validate(good.with_columns(image_path=pl.lit("bad.png")).select(NEEDED), tmp_path)
    assert report["decode"] == {"attempted": 1, "ok": 0, "fail": 1}


def test_half_a_box_is_a_bad_box(good: pl.DataFrame, tmp_path: Path) -> None:
    rows = good.select(NEEDED).with_columns(
        pl.lit(None).cast(pl.Int64).alias("bbox_left"), bbox_top=0, bbox_right=24, bbox_bottom=24
    )
    assert found(validate(rows, tmp_path)) == {"bad_boxes": 4}


def test_two_faces_of_one_photo_are_no_conflict(good: pl.DataFrame, tmp_path: Path) -> None:
    two = pl.concat([good[:1], good[:1].with_columns(label=pl.lit("Sad"))]).select(NEEDED)
    rows = two.with_columns(
        bbox_left=pl.Series([0, 12]), bbox_top=0, bbox_right=pl.Series([12, 24]), bbox_bottom=24
    )
    assert found(validate(rows, tmp_path)) == {}


def test_a_path_that_no_file_can_have_is_missing(good: pl.DataFrame, tmp_path: Path) -> None:
    rows = good[:1].with_columns(image_path=pl.lit("a" * 5000)).select(NEEDED)
    assert found(validate(rows, tmp_path)) == {"missing_paths": 1}
