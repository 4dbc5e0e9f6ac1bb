"""Charts as PNG bytes in one common style, drawn without a display."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.groups import FAIRNESS_METRICS, Fairness
from fer_ml.metrics.resampling import Interval
from fer_ml.metrics.risk import RiskCoverage
from fer_ml.recipes.profile import SPLITS

# Agg needs no display, and Figure without pyplot keeps no global state between assets.
matplotlib.use("Agg")

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#999999")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    # A palette takes a third of the bytes, and small plots are shown in place.
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


#: Sources with a row of their own in a heatmap; the smallest ones share the row after these.
MAX_SOURCE_ROWS = 20
_GAP = 0.3


def class_source_heatmap(frame: pl.DataFrame) -> bytes:
    """Draw a heat map of the rows by source and class, with counts and a logarithmic colour scale.

    ``frame`` has columns source, label and optionally split; and ``rows``, where each of its rows
    stands for several. Totals stand behind and below the cells, those of each split behind these.
    A source without any row of a class is hatched. Unknown labels and splits are counted as
    'other'.
    """
    rows = frame.with_columns(pl.col("source").fill_null("(none)"))
    if "rows" not in frame.columns:
        rows = rows.with_columns(pl.lit(1, pl.Int64).alias("rows"))
    sizes = rows.group_by("source").agg(pl.col("rows").sum())
    sizes = sizes.sort(["rows", "source"], descending=[True, False])
    sources = sorted(sizes["source"].head(MAX_SOURCE_ROWS))
    classes, cells = _count(rows, sources, "label", CLASSES)
    names, side = ["total"], cells.sum(axis=1, keepdims=True)
    if "split" in frame.columns:
        splits, by_split = _count(rows, sources, "split", (*SPLITS, "unassigned"))
        names, side = [*names, *splits], np.hstack([side, by_split])
    if len(cells) > len(sources):
        sources.append(f"{sizes.height - MAX_SOURCE_ROWS:,} more")

    last, right = len(sources) + _GAP, len(classes) + _GAP + np.arange(len(names))
    figure = Figure(figsize=(0.72 * (len(classes) + len(names)), 0.36 * (last + 1)))
    axes = figure.subplots()
    _draw_cells(axes, cells)
    for x, count in enumerate(cells.sum(axis=0)):
        _write(axes, x, last, count)
    down = [*range(len(sources)), last]
    for y, counts in zip(down, np.vstack([side, side.sum(axis=0)]), strict=True):
        for x, count in zip(right, counts, strict=True):
            _write(axes, x, y, count)
    axes.set_xticks([*range(len(classes)), *right], [*classes, *names], fontsize=8)
    axes.set_yticks(down, [*map(shorten, sources), "total"], fontsize=8)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, right[-1] + 0.5), ylim=(last + 0.5, -0.5), aspect="auto")
    axes.spines[:].set_visible(False)
    return _png(figure)


def _count(
    rows: pl.DataFrame, sources: list[str], column: str, known: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Count rows by source and value of ``column``: the values' names and ``[sources, names]``.

    Rows of none of ``sources`` or ``known`` are counted in a last row or column. These are left out
    if empty, and so is any empty column that is not a class.
    """
    row_of = {name: index for index, name in enumerate(sources)}
    column_of = {name: index for index, name in enumerate(known)}
    counts = np.zeros((len(sources) + 1, len(known) + 1), np.int64)
    sums = rows.group_by("source", column).agg(pl.col("rows").sum())
    for source, value, count in sums.iter_rows():
        counts[row_of.get(source, -1), column_of.get(value, -1)] += count
    if not counts[-1].any():
        counts = counts[:-1]
    shown = np.asarray(counts.any(axis=0))
    shown[:-1] |= column == "label"
    return list(np.array([*known, "other"])[shown]), counts[:, shown]


def _draw_cells(axes: Axes, cells: np.ndarray) -> None:
    norm = LogNorm(1, max(10, cells.max(initial=0)))
    x_edges, y_edges = (np.arange(n + 1) - 0.5 for n in cells.shape[::-1])
    shades = np.ma.masked_equal(cells, 0)
    axes.pcolormesh(x_edges, y_edges, shades, cmap="Blues", norm=norm, ec="white", lw=1)
    for (y, x), count in np.ndenumerate(cells):
        if count == 0:
            corner = (x - 0.5, y - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", ec="#BBBBBB", lw=0))
        _write(axes, x, y, count, "white" if count and norm(count) > 0.65 else "black")


def _write(axes: Axes, x: float, y: float, count: int, colour: str = "#555555") -> None:
    axes.text(x, y, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)


def shorten(name: str, longest: int = 28) -> str:
    """Return ``name`` in letters of the font, cut in its middle if longer than ``longest``.

    >>> shorten("affectnet_full_balanced_2021_release", 20)
    'affectnet_…1_release'
    """
    name = "".join(ch if ch.isprintable() and ch < "\u0250" else "?" for ch in name)
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2]}…{name[len(name) - longest + longest // 2 + 1 :]}"


def curves_chart(history: Sequence[dict[str, Any]], best_epoch: int) -> bytes:
    """Draw training loss and validation macro-F1 by epoch; the chosen epoch is marked."""
    figure = Figure(figsize=(6.4, 2.8))
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train"]["loss"] for row in history], color=COLOURS[0])
    left.set(xlabel="epoch", title="training loss")
    right.plot(epochs, [row["val"]["macro_f1"] for row in history], color=COLOURS[2])
    right.axvline(best_epoch, color="#999999", linestyle=":", linewidth=1)
    right.set(xlabel="epoch", title="val macro-F1")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _png(figure)


def confusion_chart(matrix: np.ndarray, title: str) -> bytes:
    """Draw a confusion matrix ``[C, C]`` (rows are the truth), coloured by row share."""
    figure = Figure(figsize=(4.6, 4.2))
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=8)
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            axes.text(
                column,
                row,
                str(int(matrix[row, column])),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return _png(figure)


def reliability_chart(
    before: Sequence[dict[str, float]], after: Sequence[dict[str, float]], title: str
) -> bytes:
    """Draw a reliability diagram: accuracy by confidence bin, raw and temperature-scaled.

    Bins are ``{"confidence", "accuracy", "count"}`` as returned by ``metrics.reliability_bins``.
    """
    figure = Figure(figsize=(3.8, 3.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
    for bins, label, colour in ((before, "raw", COLOURS[1]), (after, "scaled", COLOURS[0])):
        filled = [b for b in bins if b["count"]]
        axes.plot(
            [b["confidence"] for b in filled],
            [b["accuracy"] for b in filled],
            marker="o",
            markersize=3,
            label=label,
            color=colour,
        )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    axes.legend(frameon=False)
    return _png(figure)


#: Where members of a search with all the weight stand: an equilateral triangle.
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def weight_search_chart(
    members: Sequence[str],
    candidates: np.ndarray,
    losses: np.ndarray,
    marks: Mapping[str, Sequence[float]],
) -> bytes:
    """Draw the NLL (nats) of every candidate ``[S, 3]`` on the triangle of three members' weights.

    ``losses [S]``; ``marks`` are named weights to be highlighted, such as the chosen ones.
    """
    if len(members) != 3:
        raise FerError(
            f"the chart of weights shows three members, not {len(members)}",
            code="wrong-member-count",
            allowed=3,
        )
    figure = Figure(figsize=(4.8, 4.0))
    axes = figure.subplots()
    axes.plot(*np.vstack([_CORNERS, _CORNERS[:1]]).T, color="#999999", linewidth=1, zorder=0)
    # A few members alone are far worse than any mixture: a linear scale would show only them.
    norm = LogNorm(*_spread(losses - losses.min()))
    excess = np.clip(losses - losses.min(), norm.vmin, None)
    across, up = (candidates @ _CORNERS).T
    dots = axes.scatter(across, up, s=55, c=excess, cmap="viridis_r", norm=norm, marker="h")
    figure.colorbar(dots, label="NLL above the least (nats)", shrink=0.7)
    for index, (name, weights) in enumerate(marks.items()):
        x, y = np.asarray(weights) @ _CORNERS
        text = " / ".join(f"{weight:.2f}" for weight in weights)
        axes.scatter(
            x,
            y,
            marker="*X"[index % 2],
            s=110,
            color=COLOURS[1 + index % 6],
            edgecolor="black",
            linewidth=0.5,
            label=f"{shorten(name)}: {text}",
        )
    for name, (x, y) in zip(members, _CORNERS, strict=True):
        axes.annotate(
            shorten(name),
            (x, y),
            (0, 6 if y else -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_aspect("equal")
    axes.set_axis_off()
    if marks:
        axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    return _png(figure)


def _spread(excess: np.ndarray) -> tuple[float, float]:
    """Return bounds of a logarithmic scale from the smallest excess over zero to the largest."""
    above = excess[excess > 0]
    return (above.min(), above.max() * 1.001) if len(above) else (1e-6, 1.0)


def risk_coverage_chart(curves: Mapping[str, RiskCoverage], title: str = "") -> bytes:
    """Draw risk (share of errors) among the accepted rows by coverage, a line for each model."""
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        colour, style = COLOURS[index % 7], ("-", "--", ":")[index // 7 % 3]
        label = shorten(name)
        axes.step(curve.coverage, curve.risk, where="post", color=colour, ls=style, label=label)
    axes.set(xlabel="coverage", ylabel="risk", xlim=(0, 1), ylim=(0, None))
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return _png(figure)


def fairness_chart(tables: Mapping[str, Fairness], column: str, title: str = "") -> bytes:
    """Draw accuracy, macro-F1 and ECE by value of a column, with intervals, a colour per model.

    Values without an interval are hollow. For a single model each title states the largest gap with
    its interval over all pairs. All tables are of the same rows.
    """
    rows = next(iter(tables.values())).rows
    place = len(tables) / 2 + 0.5
    figure = Figure(figsize=(8.4, 0.9 + 0.13 * len(rows) * (len(tables) + 1.3)))
    panels = figure.subplots(1, len(FAIRNESS_METRICS), sharey=True)
    for axes, metric in zip(panels, FAIRNESS_METRICS, strict=True):
        for index, (name, table) in enumerate(tables.items()):
            colour = COLOURS[index % 7]
            for number, row in enumerate(table.rows):
                y = number + (index - (len(tables) - 1) / 2) / (2 * place)
                label = "" if number else shorten(name)
                _dot(axes, y, row.metrics[metric], row.intervals.get(metric), colour, label)
        heading = metric
        if len(tables) == 1 and metric in table.gaps:
            gap = table.gaps[metric].difference
            heading += f"\ngap {gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}]"
        axes.set_title(heading, fontsize=8)
    names = [f"{shorten(row.value)} (n={row.n:,})" for row in rows]
    _name_rows(panels, names)
    panels[0].set_ylabel(shorten(column), fontsize=8, parse_math=False)
    figure.suptitle(title, fontsize=9, parse_math=False)
    if len(tables) > 1:
        panels[-1].legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.tight_layout()
    return _png(figure)


def _dot(
    axes: Axes, y: float, value: float, bounds: Interval | None, colour: str, label: str = ""
) -> None:
    """Draw a figure as a dot with its interval; hollow where it has none."""
    fill = colour if bounds else "white"
    axes.plot(value, y, "o", markersize=5, color=colour, markerfacecolor=fill, label=label or None)
    if bounds:
        axes.plot([bounds.low, bounds.high], [y, y], color=colour, zorder=0)


def _name_rows(panels: Sequence[Axes], names: Sequence[str]) -> None:
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for text in panels[0].get_yticklabels():
        text.set_parse_math(False)
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def strengths_chart(models: Mapping[str, Mapping[str, Mapping[float, float]]], title: str) -> bytes:
    """Draw accuracy by strength: a panel for each kind of corruption, a line for each model.

    ``models`` is keyed by model, kind and strength (0..1); all models have the same kinds.
    """
    kinds = list(next(iter(models.values())))
    across = min(4, len(kinds))
    down = -(-len(kinds) // across)
    figure = Figure(figsize=(2.3 * across, 2.0 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    figure.suptitle(title, fontsize=9, parse_math=False)
    for axes, kind in zip(panels, kinds, strict=False):
        for index, (name, curves) in enumerate(models.items()):
            colour, style = COLOURS[index % 7], ("-", "--", ":")[index // 7 % 3]
            points = curves[kind]
            axes.plot(list(points), list(points.values()), style, color=colour, label=shorten(name))
        axes.set_title(kind, fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(kinds) - across) : len(kinds)]:
        axes.set_xlabel("strength", fontsize=8)
        axes.tick_params(labelbottom=True)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, frameon=False, loc="outside lower center", ncols=4)
    figure.supylabel("accuracy", fontsize=8)
    return _png(figure)


def figures_chart(
    tables: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    metrics: Sequence[str],
    zero: Collection[str] = (),
) -> bytes:
    """Draw figures with their intervals: a row of panels per table, a dot per name.

    ``tables`` is keyed by title, name, metric. A title stands above its panels and states what its
    numbers are of. In tables of ``zero`` a line marks no difference.
    """
    heights = [1.35 + 0.26 * len(table) for table in tables.values()]
    figure = Figure(figsize=(3.0 * len(metrics), sum(heights)))
    parts = figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights).ravel()
    for part, height, (title, table) in zip(parts, heights, tables.items(), strict=True):
        panels = list(part.subplots(1, len(metrics), sharey=True, squeeze=False).ravel())
        part.suptitle(title, y=1 - 0.15 / height, fontsize=9, fontweight="bold", parse_math=False)
        for axes, metric in zip(panels, metrics, strict=True):
            for number, figures in enumerate(table.values()):
                bounds = figures[metric]
                _dot(axes, number, bounds.value, bounds, COLOURS[number % 7])
            if title in zero:
                axes.axvline(0, color="#999999", linestyle=":", linewidth=1)
            axes.set_title(metric, fontsize=8)
        _name_rows(panels, [shorten(name) for name in table])
        part.subplots_adjust(top=1 - 0.7 / height, bottom=0.45 / height)
    return _png(figure)


def reliability_grid(
    models: Mapping[str, Mapping[str, Sequence[dict[str, float]]]], title: str
) -> bytes:
    """Draw a reliability diagram for each model, with a line for each scaling.

    ``models`` is keyed by model and scaling (``raw``, ``temperature``, ``vector``); bins are as
    returned by ``metrics.reliability_bins``.
    """
    across = min(4, len(models))
    down = -(-len(models) // across)
    figure = Figure(figsize=(2.5 * across, 2.5 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    figure.suptitle(title, fontsize=9, parse_math=False)
    for axes, (name, scalings) in zip(panels, models.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
        for colour, (label, bins) in zip((1, 0, 2), scalings.items(), strict=False):
            filled = [b for b in bins if b["count"]]
            axes.plot(
                [b["confidence"] for b in filled],
                [b["accuracy"] for b in filled],
                marker="o",
                markersize=3,
                label=label,
                color=COLOURS[colour],
            )
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_title(shorten(name), fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    return _png(figure)
