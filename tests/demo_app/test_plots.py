"""The charts of a session."""

import io

from PIL import Image

from demo_app.kpis import LoggedFace, LoggedFrame, stage_timing, timing
from demo_app.plots import label_chart, latency_chart


def test_the_charts_are_pictures_also_without_a_face() -> None:
    frames = [LoggedFrame(i, i / 10, {"detect_ms": 4.0}, 9.0, None, None) for i in range(20)]
    figures = {
        **timing([frame.frame_ms for frame in frames], [0.0] * len(frames)),
        **stage_timing(frames),
    }
    face = LoggedFace(0, 0.0, 0, (0, 0, 9, 9), "Happy", "Sad", "label")
    for data in (latency_chart(figures, 33.0), label_chart([face]), label_chart([])):
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG" and min(image.size) > 100
