"""Curation takes exactly what it names, and refuses a filter that takes nothing."""

import polars as pl
import pytest

from fer_ml.manifests.curation import curate
from fer_ml.manifests.schema import SCHEMA
from fer_ml.recipes.profile import Curation
from tests.refusals import refused


def frame(*rows: dict[str, object]) -> pl.DataFrame:
    full = [
        {**dict.fromkeys(SCHEMA), "image_path": f"{i}.png", "sample_id": f"s{i}", **row}
        for i, row in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=SCHEMA)


ROWS = frame(
    {"source": "b", "split": "train", "confidence": 59.9},
    {"source": "b", "split": "test", "confidence": 60.0},
    {"source": "b", "split": "test"},
    {"source": "a", "split": "train"},
    {"source": "a", "split": "test", "sample_id": "s1", "label": "Sad"},
    {"source": "c", "split": "test"},
)


def paths(rows: pl.DataFrame) -> list[str]:
    return [path.removesuffix(".png") for path in rows["image_path"]]


def test_sources_and_splits() -> None:
    assert paths(curate(ROWS, Curation(sources=("b", "a")), "x")) == ["3", "4", "0", "1", "2"]
    assert paths(curate(ROWS, Curation(sources=("a", "c"), splits=("test",)), "x")) == ["4", "5"]


def test_minimum_confidence_is_of_its_source_and_needs_a_figure() -> None:
    recipe = Curation(sources=("a", "b"), min_confidence={"b": 60.0})
    assert paths(curate(ROWS, recipe, "x")) == ["3", "4", "1"]


def test_one_row_a_sample_is_that_of_the_first_named_source() -> None:
    for sources, wanted in ((("a", "b"), {"4"}), (("b", "a"), {"1"})):
        rows = curate(ROWS, Curation(sources=sources, one_per="sample"), "x")
        assert set(paths(rows.filter(pl.col("sample_id") == "s1"))) == wanted
        assert rows["sample_id"].is_unique().all()


@pytest.mark.parametrize(
    "recipe",
    [
        Curation(sources=("a", "expw_hq")),
        Curation(sources=("a", "c"), splits=("train",)),
    ],
)
def test_a_source_that_matches_nothing_is_refused_by_name(recipe: Curation) -> None:
    with refused("source-without-rows") as caught:
        curate(ROWS, recipe, "hq_train")
    assert repr(recipe.sources[-1]) in caught.value.what
    assert "a, b, c" in caught.value.allowed


def test_the_result_does_not_depend_on_the_order_of_rows() -> None:
    recipe = Curation(sources=("b", "a", "c"))
    assert curate(ROWS, recipe, "x").equals(curate(ROWS[::-1], recipe, "x"))


FACES = frame(
    {"source": "a", "split": "train", "label": "Happy", "width": 48, "height": 60, "group_id": "g"},
    {"source": "a", "split": "test", "label": "Sad", "width": 30, "height": 60, "group_id": "g"},
    {
        "source": "a",
        "split": "test",
        "label": "Sad",
        "width": 500,
        "height": 500,
        "bbox_left": 10,
        "bbox_right": 50,
        "bbox_top": 0,
        "bbox_bottom": 40,
        "group_id": "h",
        "twin_in": "train",
    },
)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"labels": ("Sad",)}, ["1", "2"]),
        ({"min_side": 40}, ["0", "2"]),
        ({"min_side": 41}, ["0"]),
        ({"drop_twins": True}, ["0", "1"]),
        ({"one_per": "group"}, ["0", "2"]),
        ({"labels": ("Sad",), "min_side": 35}, ["2"]),
    ],
)
def test_filters(filters: dict[str, object], wanted: list[str]) -> None:
    assert paths(curate(FACES, Curation(sources=("a",), **filters), "x")) == wanted


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"labels": ("Fear",)}, "labels ['Fear']"),
        ({"min_side": 501}, "min_side 501"),
        ({"min_confidence": {"a": 0.1}}, "min_confidence 0.1"),
        ({"drop_twins": True, "labels": ("Sad",), "min_side": 35}, "drop_twins"),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(filters: dict[str, object], named: str) -> None:
    with refused("filter-without-rows") as caught:
        curate(FACES, Curation(sources=("a",), **filters), "x")
    assert named in caught.value.what and "'a'" in caught.value.what


def test_a_recipe_names_known_classes() -> None:
    with pytest.raises(ValueError, match="Hapy"):
        Curation(sources=("a",), labels=("Hapy",))
