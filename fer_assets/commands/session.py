"""Run a session of the demo, with or without a window, and print its summary."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_assets.commands.common import console, styled

if TYPE_CHECKING:
    from demo_app.detection import Detector
    from demo_app.parameters import Parameters
    from demo_app.session import SessionSummary
    from fer_ml.bundles.bundle import Bundle


def run_shown(
    source: Path | int,
    student: "Bundle",
    detector: "Detector",
    parameters: "Parameters",
    out: Path | None,
    *,
    record: bool,
    headless: bool,
    max_frames: int | None,
) -> "SessionSummary":
    """Run a session, with or without a window, print its summary and return it."""
    from demo_app.session import run_session
    from fer_ml.base.settings import settings

    folder = out or settings().home / "demo" / time.strftime("%Y%m%dT%H%M%S")
    if headless:
        view: Any = nullcontext()
    else:
        from demo_app.window import Window

        view = Window()
    with view as shown:
        summary = run_session(
            source,
            student,
            detector,
            folder,
            parameters,
            max_frames=max_frames,
            view=shown,
            record=record,
        )
    _print_summary(summary)
    return summary


def _print_summary(summary: "SessionSummary") -> None:
    times = "too short to time"
    if summary.frame_ms_p50 is not None:
        times = f"{summary.frame_ms_p50:.1f} ms a frame"
    if summary.frame_ms_p95 is not None:
        times += f" (p95 {summary.frame_ms_p95:.1f})"
    console.print(
        f"{summary.frames} frames, {summary.faces} faces, {times}; detector {summary.detector}; "
        f"log in {summary.out}"
    )
    if summary.ended == "cut_short":
        stated = "" if summary.frames_stated is None else f" of the {summary.frames_stated} stated"
        console.print(
            styled(
                (f"{summary.input} ended early", "yellow"),
                f", after {summary.frames} frames{stated}: the camera went away, or the file is "
                "damaged; the log is complete up to there",
            )
        )


def compare_with_recording(session: Path, replay: Path) -> None:
    """Print the replay half of the dual gate if ``session`` is a recorded session."""
    from demo_app.kpis import compute_kpis
    from demo_app.logs import PER_FRAME_FILE
    from fer_assets.stages.demo_kpis import replay_gate

    if not (session / PER_FRAME_FILE).is_file():
        return
    now, before = (compute_kpis(folder / PER_FRAME_FILE, None) for folder in (replay, session))
    for outcome in replay_gate(now, before):
        marks = {True: ("ok", "green"), False: ("worse", "yellow"), None: ("-", "dim")}
        line = f" {outcome.rule}: {outcome.value} (limit {outcome.limit}; {outcome.detail})"
        console.print(styled(marks[outcome.passed], line))
