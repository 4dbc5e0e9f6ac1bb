"""Each fault is found by exactly the rule meant for it, and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.gates import MANIFEST_GATES
from fer_ml.labels import CLASSES
from fer_ml.manifests.schema import SCHEMA
from fer_ml.profiles import SPLITS
from fer_ml.validation.rules import count_labels, escapes, judge_manifest, probe_images

Make = Callable[..., pl.DataFrame]
BOX = {"bbox_left": 2, "bbox_top": 3, "bbox_right": 20, "bbox_bottom": 22, "bbox_frame": "photo"}


def failed(frame: pl.DataFrame, root: Path) -> dict[str, tuple[float, tuple[str, ...]]]:
    outcomes = judge_manifest(frame, probe_images(frame, root))
    return {o.rule: (o.value, o.examples) for o in outcomes if not o.passed}


def change(frame: pl.DataFrame, row: int, **cells: Any) -> pl.DataFrame:
    rows = frame.to_dicts()
    rows[row].update(cells)
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.fixture
def good(make_manifest: Make) -> pl.DataFrame:
    """Six rows: five photos, one of them with a box, and a second face of that photo."""
    frame = make_manifest([{}, {"split": "val"}, {"split": "calib"}, {"split": "test"}, BOX])
    second = frame.row(4, named=True) | {"bbox_left": 0, "sample_id": "other", "face_id": 1}
    return pl.concat([frame, pl.DataFrame([second], schema=SCHEMA)])


def test_a_good_manifest_passes_every_declared_rule(good: pl.DataFrame, tmp_path: Path) -> None:
    outcomes = judge_manifest(good, probe_images(good, tmp_path))
    assert [o.rule for o in outcomes] == [gate.rule for gate in MANIFEST_GATES]
    assert all(o.passed and o.value == 0 and o.examples == () for o in outcomes)


@pytest.mark.parametrize(
    ("cells", "rule", "example"),
    [
        ({"label": "happy"}, "bad_labels", "cleaned/a/1.png: label 'happy'"),
        ({"label": "Happy "}, "bad_labels", "cleaned/a/1.png: label 'Happy '"),
        ({"label": "Contempt"}, "bad_labels", "cleaned/a/1.png: label 'Contempt'"),
        ({"split": "validation"}, "bad_splits", "cleaned/a/1.png: split 'validation'"),
        ({"split": "unassigned"}, "bad_splits", "cleaned/a/1.png: split 'unassigned'"),
        ({"image_path": "gone.png"}, "missing_paths", "gone.png: no such file"),
        ({"image_path": "/etc/hosts"}, "missing_paths", "/etc/hosts: absolute path"),
        ({"image_path": r"C:\faces\1.png"}, "missing_paths", r"C:\faces\1.png: absolute path"),
        ({"image_path": r"a\..\..\b"}, "missing_paths", r"a\..\..\b: '..' in the path"),
        ({"image_path": "../1.png"}, "missing_paths", "../1.png: '..' in the path"),
        ({"image_path": "cleaned/a"}, "missing_paths", "cleaned/a: no such file"),
        ({"image_path": "a\0b"}, "missing_paths", "a\0b: NUL in the path"),
        ({"source": None}, "schema", "row 3: source is empty"),
        ({"sample_id": None}, "schema", "row 3: sample_id is empty"),
        ({"width": None}, "schema", "row 3: width is empty"),
        (BOX | {"bbox_right": 25}, "bad_boxes", "cleaned/a/1.png: box (2, 3, 25, 22) in 24x24 px"),
        (BOX | {"bbox_left": -1}, "bad_boxes", "cleaned/a/1.png: box (-1, 3, 20, 22) in 24x24 px"),
        (BOX | {"bbox_right": 2}, "bad_boxes", "cleaned/a/1.png: box (2, 3, 2, 22) in 24x24 px"),
        (BOX | {"bbox_bottom": None}, "bad_boxes", "box (2, 3, 20, None)"),
    ],
)
def test_one_wrong_cell_is_found_by_its_own_rule(
    good: pl.DataFrame, tmp_path: Path, cells: dict[str, Any], rule: str, example: str
) -> None:
    found = failed(change(good, 1, **cells), tmp_path)
    assert list(found) == [rule]
    value, examples = found[rule]
    assert value == 1
    assert example in examples[0]


def test_a_wrong_group_is_changed_pixels(good: pl.DataFrame, tmp_path: Path) -> None:
    assert list(failed(change(good, 1, group_id="x"), tmp_path)) == ["changed_pixels"]


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n\0\0"])
def test_undecodable_images(good: pl.DataFrame, tmp_path: Path, data: bytes) -> None:
    (tmp_path / good["image_path"][2]).write_bytes(data)
    found = failed(good, tmp_path)
    assert list(found) == ["undecodable"]
    assert found["undecodable"][1][0].startswith("cleaned/a/2.png: image")


def test_swapped_images_are_changed_pixels(good: pl.DataFrame, tmp_path: Path) -> None:
    """Both files decode and both paths exist: only the pixels tell."""
    one, two = (tmp_path / good["image_path"][i] for i in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert {rule: value for rule, (value, _) in failed(good, tmp_path).items()} == {
        "changed_pixels": 2
    }


def test_one_missing_photo_counts_each_of_its_rows(good: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / good["image_path"][4]).unlink()
    assert failed(good, tmp_path)["missing_paths"][0] == 2


def test_a_group_in_two_splits_leaks(good: pl.DataFrame, tmp_path: Path) -> None:
    found = failed(change(good, 5, split="test"), tmp_path)
    assert list(found) == ["leakage"]
    assert found["leakage"] == (
        1,
        (f"cleaned/a/4.png: group {good['group_id'][4]} in test, train",),
    )


def test_one_face_with_two_labels_is_shown_and_does_not_block(
    good: pl.DataFrame, tmp_path: Path
) -> None:
    twin = change(good, 5, sample_id=good["sample_id"][4], label="Neutral")
    assert failed(twin, tmp_path) == {
        "label_conflicts": (1, (f"cleaned/a/4.png: Neutral and {CLASSES[4]}",))
        if CLASSES[4] > "Neutral"
        else (1, (f"cleaned/a/4.png: {CLASSES[4]} and Neutral",))
    }
    assert not next(g for g in MANIFEST_GATES if g.rule == "label_conflicts").blocking


def test_an_empty_label_is_bad_whatever_else_it_is(good: pl.DataFrame, tmp_path: Path) -> None:
    for column, rule in (("label", "bad_labels"), ("split", "bad_splits")):
        assert set(failed(change(good, 1, **{column: None}), tmp_path)) == {"schema", rule}


@given(
    st.sets(st.sampled_from(["label", "split", "image_path", "group_id", "box"]), min_size=1),
    st.integers(0, 4),
    st.text(min_size=1, max_size=8),
)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    # The frame and its files are only read, so they need no renewal.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_mixture_of_faults_in_a_row_is_all_found(
    good: pl.DataFrame, tmp_path: Path, columns: set[str], row: int, text: str
) -> None:
    good = good[:5]
    cells: dict[str, Any] = {}
    if "label" in columns:
        cells["label"] = text + "?"
    if "split" in columns:
        cells["split"] = text + "?"
    if "group_id" in columns:
        cells["group_id"] = text + "?"
    if "box" in columns:
        cells |= BOX | {"bbox_bottom": 25}
    if "image_path" in columns:
        cells["image_path"] = text.replace("/", "") + "?"
    wanted = {
        {
            "label": "bad_labels",
            "split": "bad_splits",
            "image_path": "missing_paths",
            "group_id": "changed_pixels",
            "box": "bad_boxes",
        }[column]
        for column in columns
    }
    if "image_path" in columns:
        wanted -= {"changed_pixels", "bad_boxes"}  # There are no pixels to judge by.
    assert set(failed(change(good, row, **cells), tmp_path)) == wanted


@pytest.mark.parametrize("name", ["a.png", "a/b..c.png", "a/...png", ".hidden", "ä/é.png"])
def test_paths_below_the_root(name: str) -> None:
    assert escapes(name) is None


def test_counts_add_up(good: pl.DataFrame) -> None:
    counts = count_labels(good)
    assert counts["a|train|Angry"] == 1
    assert sum(counts.values()) == good.height
    assert {key.split("|")[1] for key in counts} == set(SPLITS)
