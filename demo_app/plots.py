"""Charts of a session as PNG bytes, drawn without a display."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from demo_app.kpis import LoggedFace
from demo_app.logs import STAGE_COLUMNS
from fer_ml.base.labels import CLASSES

matplotlib.use("Agg")

RAW, SHOWN, LIMIT = "#BBBBBB", "#228833", "#EE6677"


def latency_chart(kpis: dict[str, Any], limit_ms: float) -> bytes:
    """Draw median and p95 in ms, for each step of a frame and for the whole frame.

    A line marks ``limit_ms``, the limit of the p95 of the whole frame.
    """
    figure = Figure(figsize=(6.4, 2.8))
    axes = figure.subplots()
    names = [name for name in (*STAGE_COLUMNS, "frame_ms") if kpis[f"{name}_p50"] is not None]
    rows = range(len(names))
    # Without enough frames for a p95 there is no bar of it.
    high = [kpis[f"{name}_p95"] or 0.0 for name in names]
    axes.barh(rows, high, color=RAW, label="p95")
    axes.barh(rows, [kpis[f"{name}_p50"] for name in names], color=SHOWN, label="median")
    axes.axvline(limit_ms, color=LIMIT, linestyle=":", linewidth=1, label="limit of a frame's p95")
    axes.set_yticks(rows, [name.removesuffix("_ms") for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return _png(figure)


def label_chart(faces: Sequence[LoggedFace]) -> bytes:
    """Draw the labels of the longest track over time: raw as dots, shown as squares."""
    figure = Figure(figsize=(6.4, 2.8))
    axes = figure.subplots()
    ids = [face.track_id for face in faces]
    longest = max(sorted(set(ids)), key=ids.count, default=None)
    track = [face for face in faces if face.track_id == longest]
    rows = {name: index for index, name in enumerate(CLASSES)}
    shown = [(face.time_s, rows[face.shown]) for face in track if face.shown]
    if track:
        axes.scatter(
            [time_s for time_s, _ in shown],
            [row for _, row in shown],
            marker="s",
            s=22,
            color=SHOWN,
            label="shown",
        )
        axes.scatter(
            [face.time_s for face in track],
            [rows[face.raw] for face in track],
            s=5,
            color="black",
            label="raw",
        )
        axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=8)
    axes.set(xlabel="s", ylim=(len(CLASSES) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return buffer.getvalue()
