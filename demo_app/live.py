"""Figures of the last minute for viewers of the demo; key figures are computed from the log."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from demo_app.faces import FrameResult
from demo_app.kpis import LoggedFace, flips
from demo_app.parameters import Parameters
from demo_app.stabilisation import step_response_s

WINDOW_S = 60.0
LINE_S = 10.0
#: The figures are summed up anew after so many seconds.
EVERY_S = 0.5


@dataclass(frozen=True)
class Figures:
    """The figures beside the picture; None while a figure is unknown.

    ``fps`` is computed from the times of the frames. ``frame_ms`` is the median of about the last
    second. Flips are label changes a minute in the last minute. ``delay_s`` is the delay of
    smoothing with the current parameters (``step_response_s``).
    """

    fps: float | None = None
    frame_ms: float | None = None
    flips_raw: float | None = None
    flips_shown: float | None = None
    delay_s: float | None = None


class Live:
    """Keeps the last minute of a stream and computes its figures twice a second."""

    def __init__(self) -> None:
        self._faces: deque[LoggedFace] = deque()
        self._times: deque[tuple[float, float]] = deque()
        self._line: deque[tuple[float, float | None]] = deque()
        self._figures = Figures()
        self._next_s = 0.0
        self._parameters: Parameters | None = None
        self._delay_s: float | None = None

    def see(self, frame: FrameResult) -> Figures:
        """Add one frame, and return the current figures."""
        now = frame.time_s
        self._times.append((now, frame.times_ms.frame))
        main = frame.main
        self._line.append((now, None if main is None else main.state.confidence))
        self._faces.extend(
            LoggedFace(
                frame.index,
                now,
                face.track_id,
                face.box_xyxy_px,
                face.raw_label,
                face.state.label if face.state.status == "label" else None,
                face.state.status,
            )
            for face in frame.faces
        )
        while self._times and self._times[0][0] < now - 1:
            self._times.popleft()
        while self._line and self._line[0][0] < now - LINE_S:
            self._line.popleft()
        while self._faces and self._faces[0].time_s < now - WINDOW_S:
            self._faces.popleft()
        if frame.parameters != self._parameters:
            self._parameters = frame.parameters
            self._delay_s = step_response_s(frame.parameters)
        if now >= self._next_s:
            self._next_s = now + EVERY_S
            self._figures = self._sum_up()
        return self._figures

    def line(self, now_s: float) -> list[tuple[float, float | None]]:
        """Return the main face's confidence in the last ``LINE_S``: (seconds before now, 0..1)."""
        return [(now_s - time_s, value) for time_s, value in self._line]

    def _sum_up(self) -> Figures:
        span = self._times[-1][0] - self._times[0][0]
        counted = flips(list(self._faces))
        return Figures(
            fps=(len(self._times) - 1) / span if span > 0 else None,
            frame_ms=float(np.median([ms for _, ms in self._times])),
            flips_raw=counted["flips_per_minute_raw"],
            flips_shown=counted["flips_per_minute_stabilised"],
            delay_s=self._delay_s,
        )
