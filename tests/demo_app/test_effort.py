"""A frame does no more than it did: counted in calls, see tests/test_effort.py."""

from typing import Any

import numpy as np

from demo_app.detection import Detection
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control, Pipeline
from demo_app.sources import Frame
from fer_ml.bundles.bundle import Bundle
from tests.effort import calls


def test_a_frame_of_the_demo(bundle: Bundle, scripted: Any) -> None:
    image = np.full((120, 160, 3), 90, np.uint8)

    def play(count: int) -> int:
        seen = [[Detection((40, 30, 90, 90), 0.9)] for _ in range(count)]
        pipeline, control = Pipeline(bundle, scripted(seen)), Control(parameters_for(bundle.card))
        frames = [Frame(i, i / 30, image) for i in range(count)]
        return calls(lambda: [pipeline.process(frame, control) for frame in frames])

    play(5)
    assert (play(60) - play(20)) / 40 < 230
