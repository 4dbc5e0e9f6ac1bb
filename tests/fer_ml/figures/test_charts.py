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

from fer_ml.base.labels import CLASSES
from fer_ml.figures import charts as plots
from fer_ml.metrics.classification import reliability_bins, softmax
from fer_ml.metrics.groups import fairness_table
from fer_ml.metrics.resampling import Interval
from fer_ml.metrics.risk import risk_coverage
from tests.refusals import refused

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
@hypothesis_settings(max_examples=15)
def test_any_name_of_a_source_can_be_drawn(names: list[str]) -> None:
    # '$' starts a formula in matplotlib, and letters that the font lacks are a warning.
    frame = pl.DataFrame({"source": [*names, "x$y$z", "$\\frac{$", "日本\n"], "label": "Happy"})
    assert plots.class_source_heatmap(frame)


@given(st.text(max_size=60), st.integers(3, 30))
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
        plots.curves_chart(epochs, 2),
        plots.confusion_chart(rng.integers(0, 900, (7, 7)), "a title"),
        plots.reliability_chart(bins, bins, "a title"),
    ):
        assert len(png) < MAX_INLINE_BYTES
        assert Image.open(io.BytesIO(png)).width > 300


def test_a_weight_search_has_every_candidate_in_its_place(drawn: list[Figure]) -> None:
    candidates = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.4, 0.4, 0.2]])
    losses = np.array([1.0, 0.9, 1.2, 0.5, 0.4])
    plots.weight_search_chart(["A", "B", "C"], candidates, losses, {"chosen": (0.45, 0.35, 0.2)})
    dots, mark = drawn[0].axes[0].collections
    height = np.sqrt(3) / 2
    places = [[0, 0], [1, 0], [0.5, height], [0.5, 0], [0.5, 0.2 * height]]
    np.testing.assert_allclose(dots.get_offsets(), places, atol=1e-12)
    np.testing.assert_allclose(dots.get_array(), [0.6, 0.5, 0.8, 0.1, 0.1])
    np.testing.assert_allclose(mark.get_offsets(), [[0.45, 0.2 * height]])
    (text,) = drawn[0].axes[0].get_legend().get_texts()
    assert text.get_text() == "chosen: 0.45 / 0.35 / 0.20"


def test_a_weight_search_of_equal_losses_can_be_drawn() -> None:
    assert plots.weight_search_chart(["A", "B", "C"], np.eye(3), np.ones(3), {})
    with refused("wrong-member-count"):
        plots.weight_search_chart(["A", "B"], np.eye(2), np.ones(2), {})


def test_risk_and_fairness_charts_hold_their_numbers_and_are_small(drawn: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    y, logits = rng.integers(0, 7, 3000), rng.normal(size=(3000, 7))
    curve = risk_coverage(logits.max(axis=1), logits.argmax(axis=1) == y)
    values = np.where(np.arange(3000) < 30, "few $x$", np.where(np.arange(3000) % 2, "a", "b"))
    table = fairness_table(y, logits, values, np.arange(3000), resamples=20)
    plots.risk_coverage_chart({"one": curve, "two": curve})
    plots.fairness_chart({"m": table}, "age $y$")
    lines = drawn[0].axes[0].lines
    assert len(lines) == 2
    assert (lines[0].get_xdata() == curve.coverage).all()
    assert (lines[0].get_ydata() == curve.risk).all()
    panel = drawn[1].axes[0]
    dots = [line for line in panel.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [row.metrics["accuracy"] for row in table.rows]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, False, True]
    assert f"gap {table.gaps['accuracy'].difference.value:.3f}" in panel.get_title()
    assert [text.get_text() for text in panel.get_yticklabels()][2] == "few $x$ (n=30)"


def test_the_charts_of_evaluation_are_small_too() -> None:
    rng = np.random.default_rng(1)
    y, logits = rng.integers(0, 7, 18_000), rng.normal(size=(18_000, 7))
    curve = risk_coverage(logits.max(axis=1), logits.argmax(axis=1) == y)
    values = rng.choice([f"value {i}" for i in range(12)], 18_000)
    bins, some = reliability_bins(y, softmax(logits)), Interval(0.5, 0.4, 0.7)
    for png in (
        plots.weight_search_chart(
            ["RN18", "B3", "CNXT"], rng.dirichlet(np.ones(3), 231), rng.random(231), {}
        ),
        plots.risk_coverage_chart({f"model {i}": curve for i in range(10)}),
        plots.fairness_chart(
            {
                f"model {i}": fairness_table(y, logits, values, np.arange(18_000), resamples=5)
                for i in range(2)
            },
            "x",
        ),
        plots.reliability_grid({f"m{i}": {"raw": bins, "scaled": bins} for i in range(10)}, "t"),
        plots.figures_chart(
            {f"set {i}": {f"model {k}": {"a": some, "b": some} for k in range(10)} for i in "abcd"},
            ("a", "b"),
        ),
    ):
        assert len(png) < MAX_INLINE_BYTES
        assert Image.open(io.BytesIO(png)).width > 300


def test_figures_stand_in_the_order_and_place_of_their_table(drawn: list[Figure]) -> None:
    table = {"one": {"f": Interval(0.5, 0.4, 0.7)}, "two": {"f": Interval(-0.1, -0.2, 0.1)}}
    plots.figures_chart({"arms": table, "gaps": table}, ("f",), zero=("gaps",))
    arms, gaps = (part.axes[0] for part in drawn[0].subfigs)
    assert [part._suptitle.get_text() for part in drawn[0].subfigs] == ["arms", "gaps"]
    dots = [line for line in arms.lines if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(0.5, 0), (-0.1, 1)]
    bars = [tuple(line.get_xdata()) for line in arms.lines if line.get_marker() != "o"]
    assert bars == [(0.4, 0.7), (-0.2, 0.1)]
    assert len(gaps.lines) == len(arms.lines) + 1, "a line at zero"
