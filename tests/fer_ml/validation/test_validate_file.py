"""``fer validate``: any CSV and any folder get one clear answer."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.images.pixels import encode_png
from fer_ml.manifests.schema import write_manifest
from fer_ml.validation.report import validate_file
from tests.refusals import refused

Make = Callable[..., pl.DataFrame]
NEEDED = ["image_path", "label", "split", "source"]


@pytest.fixture
def good(make_manifest: Make) -> pl.DataFrame:
    return make_manifest([{}, {"split": "val"}, {"split": "test"}, {}])


def validate(frame: pl.DataFrame, *roots: Path, since: float = 0.0) -> dict[str, Any]:
    path = roots[0] / "manifest.csv"
    frame.write_csv(path)
    return validate_file(path, roots, roots[0] / "cache", since=since)


def found(report: dict[str, Any]) -> dict[str, int]:
    """What failed, but for the rule that so few rows cannot pass."""
    rules = report["rules"].items()
    return {n: r["value"] for n, r in rules if r["passed"] is False and n != "class_coverage"}


def test_a_platform_manifest_passes(good: pl.DataFrame, tmp_path: Path) -> None:
    write_manifest(good, tmp_path / "m.csv")
    report = validate_file(tmp_path / "m.csv", [tmp_path], tmp_path / "cache")
    assert report["passed"]
    assert report["rows_total"] == report["rows_valid"] == 4
    assert report["decode"] == {"attempted": 4, "ok": 4, "fail": 0}
    assert report["counts"]["by_source"] == {"a": 4}
    assert report["checked"] == {"decoded": 4, "unchanged": 0, "unchanged_since": None}


def test_four_columns_are_enough(good: pl.DataFrame, tmp_path: Path) -> None:
    assert validate(good.select(NEEDED), tmp_path)["passed"]


def test_what_did_not_change_is_not_decoded_again(good: pl.DataFrame, tmp_path: Path) -> None:
    first = validate(good, tmp_path)
    (tmp_path / good["image_path"][0]).write_bytes(b"now it is text")
    second = validate(good, tmp_path)
    assert second["checked"]["decoded"] == 1
    assert second["checked"]["unchanged"] == 3
    assert found(first) == {}
    assert found(second) == {"undecodable": 1}


def test_a_full_pass_decodes_everything(good: pl.DataFrame, tmp_path: Path) -> None:
    validate(good, tmp_path)
    assert validate(good, tmp_path, since=time.time())["checked"]["decoded"] == 4


def test_a_change_that_keeps_size_and_time_is_seen_by_the_full_pass_only(
    good: pl.DataFrame, tmp_path: Path
) -> None:
    """What the incremental look cannot see, and why the full one exists."""
    import os

    path = tmp_path / good["image_path"][0]
    validate(good, tmp_path)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert found(validate(good, tmp_path)) == {}
    assert found(validate(good, tmp_path, since=time.time())) == {"undecodable": 1}


def test_test_rows_with_a_twin_are_counted(good: pl.DataFrame, tmp_path: Path) -> None:
    """Official against de-duplicated: one of two test rows is a copy of a training image."""
    (tmp_path / "copy.png").write_bytes((tmp_path / good["image_path"][0]).read_bytes())
    copy = good[:1].with_columns(image_path=pl.lit("copy.png"), split=pl.lit("test"))
    report = validate(pl.concat([good, copy]).select(NEEDED), tmp_path)
    assert found(report) == {"leakage": 1, "duplicates": 1}
    assert report["test_twins"] == {"a": {"test_rows": 2, "with_twin": 1}}
    assert not report["passed"]


@pytest.mark.parametrize("label", ["happy", "Happy ", "HAPPY", "3", "Contempt"])
def test_labels_are_compared_exactly(good: pl.DataFrame, tmp_path: Path, label: str) -> None:
    report = validate(good.with_columns(label=pl.lit(label)).select(NEEDED), tmp_path)
    assert found(report) == {"bad_labels": 4}
    assert report["bad_labels"] == 4
    assert report["rows_valid"] == 0


def test_a_wrong_root_reports_every_row(good: pl.DataFrame, tmp_path: Path) -> None:
    good.select(NEEDED).write_csv(tmp_path / "m.csv")
    (tmp_path / "elsewhere").mkdir()
    report = validate_file(tmp_path / "m.csv", [tmp_path / "elsewhere"], tmp_path / "cache")
    assert found(report) == {"missing_paths": 4}
    assert report["rows_valid"] == 0
    assert not report["passed"]
    assert report["decode"] == {"attempted": 0, "ok": 0, "fail": 0}
    assert report["bases"] == [{"start": "cleaned/", "root": None, "cut": 0, "rows": 4}]


def test_a_file_without_rows_or_folder(good: pl.DataFrame, tmp_path: Path) -> None:
    with refused("missing-manifest"):
        validate_file(tmp_path / "no.csv", [tmp_path], tmp_path)
    good.write_csv(tmp_path / "m.csv")
    with refused("missing-folder"):
        validate_file(tmp_path / "m.csv", [tmp_path / "no"], tmp_path)
    (tmp_path / "empty.csv").write_text(",".join(NEEDED) + "\n")
    with refused("no-rows"):
        validate_file(tmp_path / "empty.csv", [tmp_path], tmp_path)


def test_a_manifest_of_nothing_but_malformed_lines_is_judged(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('image_path,label,split,source\na,b\n"c\n')
    report = validate_file(tmp_path / "m.csv", [tmp_path], tmp_path / "cache")
    assert (report["rows_total"], report["rows_valid"], report["passed"]) == (2, 0, False)


def test_an_own_box_is_judged_without_identities(good: pl.DataFrame, tmp_path: Path) -> None:
    rows = good.select(NEEDED).with_columns(
        bbox_left=0, bbox_top=0, bbox_right=pl.Series([24, 24, 24, 25]), bbox_bottom=24
    )
    assert found(validate(rows, tmp_path)) == {"bad_boxes": 1}


def test_two_faces_of_one_photo_are_no_conflict(good: pl.DataFrame, tmp_path: Path) -> None:
    two = pl.concat([good[:1], good[:1].with_columns(label=pl.lit("Sad"))]).select(NEEDED)
    rows = two.with_columns(
        bbox_left=pl.Series([0, 12]), bbox_top=0, bbox_right=pl.Series([12, 24]), bbox_bottom=24
    )
    assert found(validate(rows, tmp_path)) == {}


class TestBases:
    """The first pipeline's files: three path bases, and absolute paths of a Windows machine."""

    @pytest.fixture
    def paths(self, tmp_path: Path) -> list[str]:
        for name in ("cleaned/ferplus/train/Happy/a.png", "raw/ExpW set/origin/b.png", "buf/c.png"):
            (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
            image = encode_png(_noise(len(name)))
            (tmp_path / "repo" / name).write_bytes(image)
        return [
            "ferplus/train/Happy/a.png",
            "C:\\Users\\me\\raw\\ExpW set\\origin\\b.png",
            "repo/buf/c.png",
        ]

    def write(self, tmp_path: Path, paths: list[str]) -> Path:
        rows = [f'"{path}",Happy,train,s' for path in paths]
        csv = tmp_path / "classification_manifest.csv"
        csv.write_text("\n".join([",".join(NEEDED), *rows]) + "\n", newline="\n")
        return csv

    def test_each_base_is_found_and_told(self, tmp_path: Path, paths: list[str]) -> None:
        csv = self.write(tmp_path, paths)
        repo = tmp_path / "repo"
        report = validate_file(csv, [repo], tmp_path / "cache")
        assert found(report) == {}
        assert report["bases"] == [
            {"start": "ferplus/", "root": str(repo / "cleaned"), "cut": 0, "rows": 1},
            {
                "start": "C:/Users/me/raw/ExpW set/origin/",
                "root": str(repo),
                "cut": 3,
                "rows": 1,
            },
            {"start": "repo/", "root": str(repo), "cut": 1, "rows": 1},
        ]

    def test_several_roots(self, tmp_path: Path, paths: list[str]) -> None:
        csv = self.write(tmp_path, paths)
        roots = [tmp_path / "repo/cleaned", tmp_path / "repo/raw", tmp_path]
        report = validate_file(csv, roots, tmp_path / "cache")
        assert found(report) == {}
        assert [base["root"] for base in report["bases"]] == [str(root) for root in roots]

    def test_a_base_never_lets_a_path_climb(self, tmp_path: Path, paths: list[str]) -> None:
        (tmp_path / "out.png").write_bytes(encode_png(_noise(1)))
        csv = self.write(tmp_path, ["x/../../out.png", "/x/../../out.png"])
        report = validate_file(csv, [tmp_path / "repo"], tmp_path / "cache")
        assert found(report) == {"escaping_paths": 2}


def _noise(seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
