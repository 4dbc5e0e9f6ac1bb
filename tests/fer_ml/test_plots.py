"""Plots: the numbers in them are the frame's, and they stay small enough to be shown in place."""

import io
from collections import Counter
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fer_ml import plots
from fer_ml.labels import CLASSES

#: What the asset's page shows in place.
MAX_INLINE_BYTES = 60_000
SPLITS = ("train", "val", "calib", "test")
LONG = [
    "affectnet_full_balanced_2021_release_v3",
    "a_source_with_quite_a_long_name_indeed",
    *(f"source_{i}" for i in range(7)),
]


def draw(sources: list[str], rows: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "source": rng.choice(sources, rows),
            "label": rng.choice(CLASSES, rows, p=rng.dirichlet(np.ones(7))),
            "split": rng.choice(SPLITS, rows, p=[0.7, 0.1, 0.1, 0.1]),
        }
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Figures in place of bytes."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_png", lambda figure: figures.append(figure) or b"")
    yield figures


def grid(figure: Figure) -> dict[tuple[str, str], int]:
    """``{(row's name, column's name): number}`` of the texts of a heatmap."""
    axes = figure.axes[0]
    columns = {
        x: t.get_text() for x, t in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    rows = {y: t.get_text() for y, t in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    return {
        (rows[t.get_position()[1]], columns[t.get_position()[0]]): int(
            t.get_text().replace(",", "")
        )
        for t in axes.texts
    }


def hatched(figure: Figure) -> set[tuple[int, int]]:
    patches = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_hatch()]
    return {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in patches}


@pytest.mark.parametrize("sources", [LONG[:2], LONG], ids=["2", "9"])
@pytest.mark.parametrize("with_split", [True, False])
def test_a_heatmap_is_small_enough_to_be_shown_in_place(
    sources: list[str], with_split: bool
) -> None:
    frame = draw(sources, 50_000)
    png = plots.class_source_heatmap(frame if with_split else frame.drop("split"))
    assert len(png) < MAX_INLINE_BYTES
    width, height = Image.open(io.BytesIO(png)).size
    assert width < 1000 and height < 500


def test_a_heatmap_has_every_count_and_total(drawn: list[Figure]) -> None:
    frame = draw(["a", "b", "c"], 5_000)
    plots.class_source_heatmap(frame)
    cells = Counter(frame.select("source", "label").iter_rows())
    expected = {(s, c): cells[s, c] for s in "abc" for c in CLASSES}
    expected |= {("total", c): n for c, n in Counter(frame["label"]).items()}
    expected |= {(s, "total"): n for s, n in Counter(frame["source"]).items()}
    expected |= Counter(frame.select("source", "split").iter_rows())
    expected |= {("total", s): n for s, n in Counter(frame["split"]).items()}
    expected["total", "total"] = 5_000
    assert grid(drawn[0]) == expected


def test_absent_cells_are_hatched_and_unknown_values_are_counted(drawn: list[Figure]) -> None:
    frame = pl.DataFrame(
        {
            "source": ["b", "a", None, "a"],
            "label": ["Happy", None, "Angry", "hapy"],
            "split": ["train", "val", "unassigned", "val"],
        }
    )
    plots.class_source_heatmap(frame)
    assert {key: n for key, n in grid(drawn[0]).items() if n and "total" not in key} == {
        ("(none)", "Angry"): 1,
        ("(none)", "unassigned"): 1,
        ("a", "other"): 2,
        ("a", "val"): 2,
        ("b", "Happy"): 1,
        ("b", "train"): 1,
    }
    filled = {(0, 0), (1, 7), (2, 3)}
    assert hatched(drawn[0]) == {(y, x) for y in range(3) for x in range(8)} - filled

    plots.class_source_heatmap(frame.with_columns(label=pl.lit("Sad"), split=pl.lit("dev")))
    assert grid(drawn[1])["total", "other"] == 4


def test_of_many_sources_the_smallest_share_a_row(drawn: list[Figure]) -> None:
    sources = [f"s{i:02}" for i in range(30) for _ in range(1 + (i >= 10))]
    plots.class_source_heatmap(pl.DataFrame({"source": sources, "label": "Sad"}))
    cells = grid(drawn[0])
    rows = {row for row, _ in cells}
    assert rows == {*(f"s{i:02}" for i in range(10, 30)), "10 more", "total"}
    assert cells["10 more", "Sad"] == 10 and cells["total", "Sad"] == 50


def test_an_empty_frame_has_a_heatmap() -> None:
    schema = dict.fromkeys(("source", "label", "split"), pl.String)
    assert plots.class_source_heatmap(pl.DataFrame(schema=schema))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
@hypothesis_settings(max_examples=15, deadline=None, derandomize=True)
def test_any_name_of_a_source_can_be_drawn(names: list[str]) -> None:
    # '$' starts a formula in matplotlib, and letters that the font lacks are a warning.
    frame = pl.DataFrame({"source": [*names, "x$y$z", "$\\frac{$", "日本\n"], "label": "Happy"})
    assert plots.class_source_heatmap(frame)


@given(st.text(max_size=60), st.integers(3, 30))
@hypothesis_settings(derandomize=True)
def test_shortened_names_keep_both_ends(name: str, longest: int) -> None:
    short = plots.shorten(name, longest)
    assert len(short) == min(len(name), longest)
    assert short.isprintable()
    plain = "abcdefghij" * 4
    cut = plots.shorten(plain, longest)
    start, _, end = cut.partition("…")
    assert plain.startswith(start) and plain.endswith(end)


def test_the_other_charts_are_small_too() -> None:
    rng = np.random.default_rng(0)
    epochs = [{"epoch": i, "train": {"loss": 1 / i}, "val": {"macro_f1": i / 9}} for i in (1, 2, 3)]
    bins = [{"confidence": 0.5, "accuracy": 0.4, "count": 3}]
    for png in (
        plots.class_chart(draw(LONG, 1_000)),
        plots.curves_chart(epochs, 2),
        plots.confusion_chart(rng.integers(0, 900, (7, 7)), "a title"),
        plots.reliability_chart(bins, bins, "a title"),
    ):
        assert len(png) < MAX_INLINE_BYTES
        assert Image.open(io.BytesIO(png)).width > 300
