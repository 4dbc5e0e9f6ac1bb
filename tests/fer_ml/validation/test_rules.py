"""What rules count and show, and the rules that compare a manifest with something else.

That each fault is found by its own rule is tested in ``test_planted_faults``.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.images.identity import sample_hash
from fer_ml.manifests.inspection import probe
from fer_ml.manifests.schema import SCHEMA
from fer_ml.recipes.profile import DRAWN_NEAR, SPLITS
from fer_ml.storage.gates import Outcome
from fer_ml.validation.gates import MANIFEST_GATES, TRAINING_MANIFEST_GATES
from fer_ml.validation.judging import Verdict, judge_manifest
from fer_ml.validation.measures import Reference, count_labels, count_rows
from fer_ml.validation.report import gather_evidence
from fer_ml.validation.table import read_table

Make = Callable[..., pl.DataFrame]
BOX = {"bbox_left": 2, "bbox_top": 3, "bbox_right": 20, "bbox_bottom": 22, "bbox_frame": "photo"}


def judged(frame: pl.DataFrame, root: Path, reference: Reference | None = None) -> Verdict:
    """Written as a csv, read again, looked at and judged."""
    csv = root / "judged.csv"
    frame.write_csv(csv)
    table = read_table(csv)
    looks = probe(lambda: [table.frame], root, root / "cache/probe", rows=table.frame.height)
    evidence = gather_evidence(
        lambda: [(table, looks.looks())],
        looks.faces,
        looks.thumbs,
        root / "cache/near",
        DRAWN_NEAR,
    )
    return judge_manifest(evidence, "any_manifest", root / "cache", reference=reference)


def outcome(verdict: Verdict, rule: str) -> Outcome:
    return next(o for o in verdict.outcomes if o.rule == rule)


def change(frame: pl.DataFrame, row: int, **cells: Any) -> pl.DataFrame:
    rows = frame.to_dicts()
    rows[row].update(cells)
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.fixture
def good(make_manifest: Make) -> pl.DataFrame:
    """Six rows: five photos, one of them with a box, and a second face of that photo."""
    frame = make_manifest([{}, {"split": "val"}, {"split": "calib"}, {"split": "test"}, BOX])
    second = frame.row(4, named=True) | {"bbox_left": 0, "face_id": 1}
    second["sample_id"] = sample_hash(frame["group_id"][4], (0, 3, 20, 22))
    return pl.concat([frame, pl.DataFrame([second], schema=SCHEMA)])


def test_every_declared_gate_is_judged_in_its_order(make_manifest: Make, tmp_path: Path) -> None:
    every = [{"split": split, "label": label} for split in SPLITS for label in CLASSES]
    outcomes = judged(make_manifest(every), tmp_path).outcomes
    assert [o.rule for o in outcomes] == [gate.rule for gate in MANIFEST_GATES]
    alone = {o.rule for o in outcomes if o.passed is None}
    assert alone == {"sources_present", "reconciled", "drift"}, "nothing to compare a file with"
    assert all(o.passed and o.examples == () for o in outcomes if o.rule not in alone)


def test_only_a_training_manifest_must_have_every_class() -> None:
    differ = [
        (one.rule, one.blocking, two.blocking)
        for one, two in zip(MANIFEST_GATES, TRAINING_MANIFEST_GATES, strict=True)
        if one != two
    ]
    assert differ == [("class_coverage", False, True)]


def test_all_gates_but_these_block() -> None:
    assert {gate.rule for gate in MANIFEST_GATES if not gate.blocking} == {
        "csv_dialect",
        "suffixes",
        "duplicates",
        "label_conflicts",
        "class_coverage",
        "imbalance",
        "drift",
    }


@pytest.mark.parametrize(
    ("cells", "rule", "example"),
    [
        ({"label": "happy"}, "bad_labels", "line 3: cleaned/a/1.png: label 'happy'"),
        ({"split": "dev"}, "bad_splits", "line 3: cleaned/a/1.png: split 'dev'"),
        ({"image_path": "gone.png"}, "missing_paths", "line 3: gone.png: no such file"),
        ({"source": None}, "schema", "line 3: cleaned/a/1.png: source is empty"),
        (
            BOX | {"bbox_right": 25},
            "bad_boxes",
            "line 3: cleaned/a/1.png: box (2, 3, 25, 22) lies outside its image of 24x24 px",
        ),
        (
            BOX | {"bbox_left": None},
            "bad_boxes",
            "line 3: cleaned/a/1.png: box (-, 3, 20, 22) has an empty edge",
        ),
        (
            {"width": 30},
            "image_sizes",
            "line 3: cleaned/a/1.png: 24x24 px, not 30x24",
        ),
    ],
)
def test_examples_say_where_and_what(
    good: pl.DataFrame, tmp_path: Path, cells: dict[str, Any], rule: str, example: str
) -> None:
    found = outcome(judged(change(good, 1, **cells), tmp_path), rule)
    assert (found.value, found.limit, found.examples) == (1, 0, (example,))


@pytest.mark.parametrize(
    ("edges", "detail"),
    [
        ((0, 0, 24, 24), None),
        ((23, 23, 24, 24), None),
        ((-1, 3, 20, 22), "outside"),
        ((2, -1, 20, 22), "outside"),
        ((2, 3, 25, 22), "outside"),
        ((2, 3, 20, 25), "outside"),
        ((20, 3, 20, 22), "no area"),
        ((2, 22, 20, 22), "no area"),
        ((20, 3, 2, 22), "no area"),
    ],
)
def test_a_box_has_an_area_inside_its_image(
    good: pl.DataFrame, tmp_path: Path, edges: tuple[int, ...], detail: str | None
) -> None:
    cells = dict(zip(BOX, (*edges, "photo"), strict=True))
    found = outcome(judged(change(good, 1, **cells), tmp_path), "bad_boxes")
    assert found.value == (0 if detail is None else 1)
    assert detail is None or detail in found.examples[0]


def test_one_missing_photo_counts_each_of_its_rows(good: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / good["image_path"][4]).unlink()
    assert outcome(judged(good, tmp_path), "missing_paths").value == 2


def test_swapped_images_are_changed_pixels(good: pl.DataFrame, tmp_path: Path) -> None:
    """Both files decode and both paths exist: only the pixels tell."""
    one, two = (tmp_path / good["image_path"][i] for i in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert outcome(judged(good, tmp_path), "changed_pixels").value == 2


def test_a_group_in_two_splits_is_one_leak(good: pl.DataFrame, tmp_path: Path) -> None:
    found = outcome(judged(change(good, 5, split="test"), tmp_path), "leakage")
    group = good["group_id"][4]
    assert found.examples == (f"line 6: cleaned/a/4.png: group {group} in test, train",)


def test_a_group_that_was_joined_by_hand_leaks_too(good: pl.DataFrame, tmp_path: Path) -> None:
    """The manifest says that two photos belong together: it is believed."""
    joined = change(good, 1, group_id=good["group_id"][0])
    assert outcome(judged(joined, tmp_path), "leakage").value == 1


def test_findings_hold_everything_and_outcomes_five_examples(
    make_manifest: Make, tmp_path: Path
) -> None:
    frame = make_manifest(9).with_columns(label=pl.lit("?"))
    verdict = judged(frame, tmp_path)
    assert outcome(verdict, "bad_labels").value == 9
    assert len(outcome(verdict, "bad_labels").examples) == 5
    assert verdict.findings.filter(pl.col("rule") == "bad_labels").height == 9
    assert verdict.faulty_lines == 9


def test_a_row_with_several_faults_is_one_faulty_line(good: pl.DataFrame, tmp_path: Path) -> None:
    verdict = judged(change(good, 1, label="x", split="y", image_path="gone.png"), tmp_path)
    assert verdict.faulty_lines == 1


def test_sources_that_a_recipe_names_must_have_rows(good: pl.DataFrame, tmp_path: Path) -> None:
    found = outcome(judged(good, tmp_path, Reference(sources=("a", "vanished"))), "sources_present")
    assert (found.passed, found.value, found.examples) == (False, 1, ("vanished",))
    assert outcome(judged(good, tmp_path), "sources_present").passed is None


def test_lost_rows_are_counted(good: pl.DataFrame, tmp_path: Path) -> None:
    assert outcome(judged(good, tmp_path, Reference(lost=3)), "reconciled").value == 3
    assert outcome(judged(good, tmp_path, Reference(lost=0)), "reconciled").passed
    assert outcome(judged(good, tmp_path, Reference(lost=math.inf)), "reconciled").passed is False


def test_drift_names_what_moved(make_manifest: Make, tmp_path: Path) -> None:
    frame = make_manifest(14).with_columns(brightness=pl.lit(120.0))
    same = outcome(judged(frame, tmp_path, Reference(accepted=count_rows([frame]))), "drift")
    assert same.passed
    darker = frame.with_columns(brightness=pl.lit(131.0))
    found = outcome(judged(frame, tmp_path, Reference(accepted=count_rows([darker]))), "drift")
    assert found.examples == ("brightness by 11.000 (limit 5.0)",)
    fewer = frame.filter(pl.col("label") != "Happy")
    found = outcome(judged(frame, tmp_path, Reference(accepted=count_rows([fewer]))), "drift")
    # 12 rows become 14; of the shares, 2/14 is new: half of the sum of all differences.
    assert found.examples == (
        "rows by 0.167 (limit 0.1)",
        "class shares by 0.143 (limit 0.05)",
    )


@pytest.mark.parametrize(
    ("column", "by", "drifts"),
    [
        ("brightness", 4.9, False),
        ("brightness", 5.1, True),
        ("width", 2, False),
        ("width", 3, True),
    ],
)
def test_drift_begins_beyond_its_limit(
    make_manifest: Make, tmp_path: Path, column: str, by: float, drifts: bool
) -> None:
    """Of images that are 24 px wide, 2 px are 8% and 3 px are 13%."""
    frame = make_manifest(7).with_columns(brightness=pl.lit(120.0))
    for sign in (1, -1):
        before = frame.with_columns(pl.col(column) + sign * by)
        found = outcome(judged(frame, tmp_path, Reference(accepted=count_rows([before]))), "drift")
        assert found.value == int(drifts)


@pytest.mark.parametrize(("happy", "passed"), [(100, True), (101, False)])
def test_a_hundred_to_one_is_the_most(
    make_manifest: Make, tmp_path: Path, happy: int, passed: bool
) -> None:
    rows = make_manifest([{"label": "Happy"}] * happy + [{"label": "Sad"}])
    found = outcome(judged(rows, tmp_path), "imbalance")
    assert (found.value, found.passed) == (happy, passed)


def test_imbalance_is_a_ratio_of_training_rows(make_manifest: Make, tmp_path: Path) -> None:
    rows = [{"label": "Happy"}] * 6 + [{"label": "Sad"}] * 2 + [{"label": "Fear", "split": "test"}]
    found = outcome(judged(make_manifest(rows), tmp_path), "imbalance")
    assert (found.value, found.detail) == (3.0, "6 Happy, 2 Sad")
    tied = [{"label": label} for label in ("Sad", "Fear", "Happy", "Angry") * 2]
    assert outcome(judged(make_manifest(tied), tmp_path), "imbalance").detail == "2 Sad, 2 Angry"


def test_counts_add_up(good: pl.DataFrame) -> None:
    counts = count_labels(count_rows([good]))
    assert counts["a|train|Angry"] == 1
    assert sum(counts.values()) == good.height
    assert {key.split("|")[1] for key in counts} == set(SPLITS)
