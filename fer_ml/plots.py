"""Plots as PNG bytes, drawn without a display. One look for all of them."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from fer_ml.labels import CLASSES

# Agg needs no display, and Figure without pyplot keeps no global state between assets.
matplotlib.use("Agg")

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#999999")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight", metadata={"Software": ""})
    return buffer.getvalue()


def class_chart(frame: pl.DataFrame) -> bytes:
    """Rows by class, stacked by source. ``frame`` has columns label and source."""
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    bottom = np.zeros(len(CLASSES))
    for index, source in enumerate(sorted(frame["source"].unique())):
        counts = dict(frame.filter(pl.col("source") == source).group_by("label").len().iter_rows())
        heights = np.array([counts.get(name, 0) for name in CLASSES])
        axes.bar(CLASSES, heights, bottom=bottom, label=source, color=COLOURS[index % 7])
        bottom += heights
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return _png(figure)


def curves_chart(history: Sequence[dict[str, Any]], best_epoch: int) -> bytes:
    """Training loss and validation macro-F1 by epoch; the chosen epoch is marked."""
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
    """Confusion matrix ``[C, C]`` (rows are the truth), coloured by row share."""
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
    """Reliability diagram: accuracy against confidence by bin, raw and temperature-scaled.

    Bins are ``{"confidence", "accuracy", "count"}`` as ``metrics.reliability_bins`` gives them.
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
