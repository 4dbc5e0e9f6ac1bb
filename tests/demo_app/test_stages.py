"""The replay half of the dual gate, and the charts."""

import io
from typing import Any

import pytest
from PIL import Image

from demo_app.kpis import LoggedFace, LoggedFrame, stage_timing, timing
from demo_app.plots import label_chart, latency_chart
from demo_app.stages import replay_gate


def kpis(macro_f1: float | None, flips: float) -> dict[str, Any]:
    return {
        "manual_macro_f1_present_stabilised": macro_f1,
        "manual_scored": 100,
        "flips_per_minute_stabilised": flips,
    }


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        (kpis(0.6, 10), kpis(0.5, 10), [True, True]),
        (kpis(0.5, 10), kpis(0.5, 10), [False, True]),
        (kpis(0.6, 11), kpis(0.5, 10), [True, True]),
        (kpis(0.6, 11.1), kpis(0.5, 10), [True, False]),
    ],
)
def test_a_replay_must_improve_and_stay_calm(
    now: dict[str, Any], before: dict[str, Any], passed: list[bool]
) -> None:
    assert [outcome.passed for outcome in replay_gate(now, before)] == passed


def test_without_labels_there_is_nothing_to_compare_and_that_is_said() -> None:
    for before in (None, kpis(None, 3)):
        for outcome in replay_gate(kpis(0.6, 10), before):
            assert outcome.passed and outcome.value == "nothing to compare"


def test_the_charts_are_pictures_also_without_a_face() -> None:
    frames = [LoggedFrame(i, i / 10, {"detect_ms": 4.0}, 9.0, None, None) for i in range(20)]
    figures = {**timing([frame.frame_ms for frame in frames]), **stage_timing(frames)}
    face = LoggedFace(0, 0.0, 0, (0, 0, 9, 9), "Happy", "Sad", "label")
    for data in (latency_chart(figures, 33.0), label_chart([face]), label_chart([])):
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG" and min(image.size) > 100
