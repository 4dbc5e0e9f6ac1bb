"""Manifests by this platform's rules; validation reports by their sums and by the manifest."""

from pathlib import Path
from typing import Any

import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import encode_png
from tests.conftest import noise
from tests.fer_ml.adoption import first_pipeline as old
from tests.fer_ml.adoption.conftest import Adopt, failed
from tests.refusals import refused


def test_a_manifest_without_its_images(tmp_path: Path, adopt: Adopt) -> None:
    artifact = adopt(old.manifest(tmp_path / "m.csv"))
    assert failed(artifact) == set()
    summary = artifact.record.summary
    assert [summary[key] for key in ("rows", "train", "val", "test")] == [21, 7, 7, 7]
    assert "its images: not looked at" in artifact.read_json("adoption.json")["unverified"][0]


@pytest.mark.parametrize(
    ("row", "check"),
    [
        ("a.png,happy,train,x", "manifest_bad_labels"),
        ("a.png,Happy,training,x", "manifest_bad_splits"),
        ("../../etc/passwd,Happy,train,x", "manifest_escaping_paths"),
        ("ferplus/val/Angry/0.png,Angry,test,ferplus", "manifest_leakage"),
        ("a.png,Happy", "manifest_malformed_rows"),
        (",Happy,train,x", "manifest_schema"),
    ],
)
def test_a_faulty_row(tmp_path: Path, adopt: Adopt, row: str, check: str) -> None:
    assert failed(adopt(old.manifest(tmp_path / "m.csv", row))) == {check}


def test_images_are_looked_at_where_their_folder_is_named(tmp_path: Path, adopt: Adopt) -> None:
    csv = old.manifest(tmp_path / "m.csv")
    root = tmp_path / "images"
    for number, line in enumerate(csv.read_text().splitlines()[1:]):
        image = root / line.split(",")[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(encode_png(noise(number)))
    sound = adopt(csv, roots=[root])
    assert failed(sound) == set()
    assert "its images" not in str(sound.read_json("adoption.json")["unverified"])
    (root / "ferplus" / "train" / "Angry" / "0.png").unlink()
    assert failed(adopt(csv, roots=[root])) == {"manifest_missing_paths"}


def test_a_report_beside_its_manifest(tmp_path: Path, adopt: Adopt) -> None:
    folder = tmp_path / "m"
    old.manifest(folder / "m.csv")
    old.report(folder / "manifest_validation.json")
    assert failed(adopt(folder)) == set()
    old.report(folder / "manifest_validation.json", rows_total=22, bad_labels=1)
    assert failed(adopt(folder)) == {"report_rows_total", "report_bad_labels"}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"rows_valid": 22}, "rows_add_up"),
        ({"decode": {"attempted": 5, "ok": 3, "fail": 1}}, "decode_adds_up"),
        ({"rows_total": 30, "rows_valid": 25}, "sources_add_up"),
        (
            {"counts": {"by_source": {"a": 21}, "by_source_split_label": {"a|train|Fear": 20}}},
            "labels_add_up",
        ),
        ({"canonical": list(reversed(CLASSES))}, "class_order_of_validation"),
    ],
)
def test_a_report_that_does_not_add_up(
    tmp_path: Path, adopt: Adopt, changes: dict[str, Any], check: str
) -> None:
    path = old.report(tmp_path / "manifest_validation.json", **changes)
    assert failed(adopt(path)) == {check}


def test_a_report_without_its_keys_is_refused(tmp_path: Path, adopt: Adopt) -> None:
    old.write(tmp_path / "v.json", {"rows_total": 3})
    with refused("unexpected-content"):
        adopt(tmp_path / "v.json")
