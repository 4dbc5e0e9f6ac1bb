"""Curation takes exactly what it names, and refuses a filter that takes nothing."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fer_ml.base import buckets
from fer_ml.base.labels import CLASSES
from fer_ml.manifests.curation import LOOKED_AT, ORDER, add_votes, looked_at, taken, votes_of
from fer_ml.manifests.schema import SCHEMA
from fer_ml.manifests.sorting import sorted_parts
from fer_ml.packed.packing import vote_shares
from fer_ml.recipes.profile import Curation
from tests.refusals import refused


def curate(frame: pl.DataFrame, recipe: Curation, name: str, at_once: int = 99) -> pl.DataFrame:
    """The rows taken, in parts of a third and runs of ``at_once`` rows."""
    third = frame.height // 3 + 1
    with tempfile.TemporaryDirectory() as folder:
        rows = taken(lambda: frame.iter_slices(third), recipe, name, Path(folder), frame.height)
        return pl.concat(sorted_parts(rows, ORDER, Path(folder), at_once))


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


TWO = frame(
    {"source": "a", "split": "test", "sample_id": "s", "label": "Sad", "votes": "0;0;1;0;7;0;2"},
    {"source": "a", "split": "test", "sample_id": "t", "label": "Sad", "votes": "0;0;0;0;9;0;0"},
    {"source": "a", "split": "test", "sample_id": "u", "label": "Fear"},
    {"source": "a", "split": "test", "sample_id": "v", "label": "Fear", "votes": "1;0;5;0;0;0;0"},
    {"source": "b", "split": "test", "sample_id": "s", "label": "Sad"},
    {"source": "b", "split": "test", "sample_id": "t", "label": "Neutral"},
    {"source": "b", "split": "test", "sample_id": "u", "label": "Fear"},
    # An annotator who gave one face two labels agrees with none of them.
    {"source": "b", "split": "test", "sample_id": "v", "label": "Fear"},
    {"source": "b", "split": "test", "sample_id": "v", "label": "Happy"},
    # What a third one says of a face says nothing about the second.
    {"source": "c", "split": "test", "sample_id": "s", "label": "Happy"},
)


def test_faces_on_which_two_sources_agree() -> None:
    recipe = Curation(sources=("a",), agree_with=("b",))
    assert curate(TWO, recipe, "x")["sample_id"].to_list() == ["s", "u"]
    asked = Curation(sources=("a",), agree_with=("b",), votes_added={"c": 3})
    assert curate(TWO, asked, "x")["sample_id"].to_list() == ["s", "u"]
    with refused("filter-without-rows"):
        curate(TWO, Curation(sources=("a",), labels=("Neutral",), agree_with=("b",)), "x")
    with refused("filter-without-rows"):
        curate(ROWS, Curation(sources=("b",), agree_with=("c",)), "x")


def test_a_second_annotator_adds_votes_to_those_that_are_there() -> None:
    rows = curate(TWO, Curation(sources=("a",), votes_added={"b": 3}), "x")
    assert rows["votes"].to_list() == [
        "0;0;1;0;10;0;2",
        "0;0;0;0;9;0;3",
        None,  # A row without votes keeps its label, as one vote of its own source.
        "1;0;6.5;1.5;0;0;0",
    ]
    assert rows.drop("votes").equals(curate(TWO, Curation(sources=("a",)), "x").drop("votes"))
    with refused("filter-without-rows"):
        curate(TWO, Curation(sources=("b",), votes_added={"a": 3}), "x")


@given(
    votes=st.lists(st.integers(0, 10), min_size=7, max_size=7).filter(any),
    label=st.sampled_from(CLASSES),
    count=st.floats(0.01, 1000),
)
def test_the_share_of_the_second_annotator_is_k_of_all_votes(
    votes: list[int], label: str, count: float
) -> None:
    """The target is a mixture of both: (1 - w) votes / sum + w one-hot, w = k / (sum + k)."""
    rows = frame({"source": "a", "label": "Sad", "votes": ";".join(map(str, votes))})
    second = frame({"source": "b", "label": label})
    y = np.array([4])
    before = vote_shares(rows, y)[0]
    (after,) = vote_shares(add_votes(rows, votes_of(second, count))[0], y)
    weight = count / (sum(votes) + count)
    one_hot = np.eye(7)[CLASSES.index(label)]
    np.testing.assert_allclose(after, (1 - weight) * before + weight * one_hot, atol=1e-6)


def in_memory(frame: pl.DataFrame, recipe: Curation) -> pl.DataFrame:
    """What is taken, as it is done with all rows at hand."""
    key = {"row": None, "sample": "sample_id", "group": "group_id"}[recipe.one_per]
    parts = [
        frame.filter(pl.col("source") == source, pl.col("split").is_in(list(recipe.splits)))
        for source in recipe.sources
    ]
    rows = pl.concat(parts)
    if key:
        rows = rows.unique(key, keep="first", maintain_order=True)
    return rows.sort(ORDER, maintain_order=True)


@st.composite
def many_rows(draw: st.DrawFn) -> pl.DataFrame:
    few = st.sampled_from
    drawn = st.lists(
        st.fixed_dictionaries(
            {
                "image_path": few(["x/0.png", "x/1.png", "x0.png", "\u00e9.png", "z.png"]),
                "source": few(["b", "a", "ab"]),
                "split": few(["train", "val", "test"]),
                "sample_id": few(["s0", "s1", "s2", "s3"]),
                "group_id": few(["g0", "g1"]),
            }
        ),
        min_size=1,
        max_size=30,
    )
    every = [{"source": source, "split": "train"} for source in ("b", "a", "ab")]
    rows = frame(*every, *draw(drawn))
    return rows.with_columns(pl.int_range(pl.len()).alias("brightness").cast(pl.Float64))


@given(many_rows(), st.sampled_from(["row", "sample", "group"]), st.integers(1, 40))
@settings(max_examples=120)
def test_parts_runs_and_buckets_do_not_show(rows: pl.DataFrame, one_per, at_once: int) -> None:
    recipe = Curation(sources=("b", "a", "ab"), one_per=one_per)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "ROWS_A_BUCKET", 4)
        patch.setattr(buckets, "_HELD_BYTES", 64)
        assert_frame_equal(curate(rows, recipe, "x", at_once), in_memory(rows, recipe))


def test_colours_are_looked_at_in_a_sample_of_each_source() -> None:
    """The rows that polars itself draws from all training rows of a source, by source."""
    every = {"a": 3 * LOOKED_AT, **dict.fromkeys("bcdefgh", 5)}
    rows = frame(
        *({"source": s, "split": p} for s, n in every.items() for p in ["train", "val"] * n)
    )

    def parts() -> Iterator[pl.DataFrame]:
        return rows.iter_slices(17)

    found = list(looked_at(parts))
    assert [(source, count) for source, count, _ in found] == list(every.items())
    for source, count, seen in found:
        train = rows.filter(pl.col("source") == source, pl.col("split") == "train")
        wanted = train.sample(min(LOOKED_AT, count), shuffle=True, seed=0)
        assert seen["image_path"].to_list() == wanted["image_path"].to_list()
