"""The desktop window: boxes on the picture; beside it bars, a line chart, figures and keys."""

import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from demo_app.detection import HaarDetector
from demo_app.faces import Face, FrameResult, number_of
from demo_app.live import LINE_S, Figures, Live
from demo_app.pipeline import Control, press
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES

TITLE = "Facial expressions (q quits)"
SURE_RGB = (40, 200, 80)
UNSURE_RGB = (240, 180, 40)
DARK_RGB = (20, 20, 20)
TEXT_RGB = (225, 225, 225)
QUIET_RGB = (140, 140, 140)
FONT = cv2.FONT_HERSHEY_SIMPLEX

PANEL_PX = 260
ROW_PX = 24
TOP_PX = 34
#: The panel is as high as the picture, and at least so high that all of it fits.
PANEL_MIN_PX = 480
KEYS = (
    "1-7 or click: label   c: none",
    "[ ] average   - = hysteresis",
    "v b vote s    n m vote share",
    "k l unsure    o panel   q quit",
)


def annotate(image: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """Return a copy of ``image [H, W, 3] uint8 RGB`` with box, caption and bar for each face.

    The caption is the stabilised label or the state, with the average confidence. The bar under the
    box is as long as that confidence (0..1) times the box's width.
    """
    drawn = image.copy()
    for face in faces:
        _draw_face(drawn, face, caption(face, faces))
    return drawn


def caption(face: Face, among: Sequence[Face]) -> str:
    """Return the text over a face: ``Happy 87%``, ``too small``, or ``1 of 2: Happy 87%``."""
    number = f"{number_of(face, among)} of {len(among)}: " if len(among) > 1 else ""
    if face.state.status != "label" or face.state.confidence is None:
        return number + face.state.status.replace("_", " ")
    return f"{number}{face.state.label} {face.state.confidence:.0%}"


def panel(
    frame: FrameResult, figures: Figures, line: Sequence[tuple[float, float | None]], height: int
) -> np.ndarray:
    """Return the panel ``[height, PANEL_PX, 3] uint8 RGB``: main face, figures."""
    drawn = np.full((height, PANEL_PX, 3), DARK_RGB, np.uint8)
    main = frame.main
    title = "no face" if main is None else caption(main, frame.faces)
    _draw_text(drawn, title, (10, 22), SURE_RGB if main and _sure(main) else UNSURE_RGB)
    smoothed = main.state.smoothed if main else (0.0,) * len(CLASSES)
    for index, (name, value) in enumerate(zip(CLASSES, smoothed, strict=True)):
        top = TOP_PX + index * ROW_PX
        chosen = frame.manual_label == name
        _draw_text(drawn, f"{index + 1} {name}", (10, top + 16), SURE_RGB if chosen else TEXT_RGB)
        left, right = 110, PANEL_PX - 50
        cv2.rectangle(drawn, (left, top + 5), (right, top + 17), (60, 60, 60), cv2.FILLED)
        end = left + round(value * (right - left))
        cv2.rectangle(drawn, (left, top + 5), (end, top + 17), SURE_RGB, cv2.FILLED)
        _draw_text(drawn, f"{value:.0%}", (PANEL_PX - 44, top + 16), QUIET_RGB)
    under = TOP_PX + len(CLASSES) * ROW_PX + 8
    _draw_line(drawn, line, under)
    texts = (*_figure_lines(frame, figures), "", *KEYS)
    for index, text in enumerate(texts):
        _draw_text(drawn, text, (10, under + 62 + 17 * index), QUIET_RGB, 0.4)
    return drawn


class Window:
    """The window view of a session. ``FerError`` if no window can be opened."""

    def __init__(self) -> None:
        check_display()
        self._live = Live()
        self._panel = True
        self._clicked: str | None = None
        self._picture_px = (0, 0)
        self._started: float | None = None

    def __enter__(self) -> "Window":
        cv2.namedWindow(TITLE)
        cv2.setMouseCallback(TITLE, self._on_mouse)
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def draw(self, frame: FrameResult) -> None:
        """Show one frame."""
        figures = self._live.see(frame)
        drawn = annotate(frame.image, frame.faces)
        height, width = drawn.shape[:2]
        self._picture_px = (width, height)
        if self._panel:
            rows = max(height, PANEL_MIN_PX)
            drawn = cv2.copyMakeBorder(
                drawn, 0, rows - height, 0, 0, cv2.BORDER_CONSTANT, value=DARK_RGB
            )
            drawn = np.hstack([drawn, panel(frame, figures, self._live.line(frame.time_s), rows)])
        try:
            cv2.imshow(TITLE, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise _no_window(error.err) from error

    def react(self, frame: FrameResult, control: Control) -> None:
        """Wait until the next frame is due by the clock, and apply a key or a click."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now - frame.time_s
        # A frame is shown until its own time is over; one that is late is not waited for.
        ahead_ms = 1e3 * (self._started + frame.time_s - now)
        key = cv2.waitKey(max(1, round(ahead_ms))) & 0xFF
        if self._clicked is not None:
            control.manual_label, self._clicked = self._clicked, None
        press(chr(key) if key != 0xFF else "", control)
        if chr(key) == "o":
            self._panel = not self._panel

    def _on_mouse(self, event: int, x: int, y: int, flags: int, data: object) -> None:
        row = (y - TOP_PX) // ROW_PX
        if event == cv2.EVENT_LBUTTONDOWN and self._panel and x >= self._picture_px[0]:
            self._clicked = CLASSES[row] if 0 <= row < len(CLASSES) else None


def check_display() -> None:
    """Raise ``FerError`` if OpenCV cannot open a window on this machine.

    The check runs in a separate process, because without a display some of OpenCV's window
    libraries abort the whole process, which no ``except`` can catch.
    """
    probe = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
    try:
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        raise _no_window("opening one took more than 20 s") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _no_window(lines[0] if lines else f"exit status {done.returncode}")


def _figure_lines(frame: FrameResult, figures: Figures) -> tuple[str, ...]:
    def shown(value: float | None, digits: int, unit: str = "") -> str:
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    turn = frame.parameters
    weak = " (misses faces)" if frame.detector == HaarDetector.name else ""
    return (
        f"{shown(figures.fps, 0)} fps, {shown(figures.frame_ms, 1, ' ms')}, {frame.detector}{weak}",
        f"flips/min {shown(figures.flips_raw, 0)} raw, {shown(figures.flips_shown, 0)} shown",
        f"reaction delay {shown(figures.delay_s, 2, ' s')}",
        f"average {turn.ema_tau_s:.2f} s, hysteresis {turn.hysteresis_delta:.2f}",
        f"vote {turn.vote_s:.1f} s at {turn.vote_share:.0%}, unsure < {turn.unsure_below:.0%}",
        f"label: {frame.manual_label or 'none'}",
    )


def _draw_line(
    image: np.ndarray, line: Sequence[tuple[float, float | None]], top: int, height: int = 36
) -> None:
    right = PANEL_PX - 10
    cv2.rectangle(image, (10, top), (right, top + height), (45, 45, 45), cv2.FILLED)
    for (before, a), (after, b) in pairwise(line):
        if a is not None and b is not None:
            x0, x1 = (right - round(ago / LINE_S * (right - 10)) for ago in (before, after))
            y0, y1 = (top + height - round(value * height) for value in (a, b))
            cv2.line(image, (x0, y0), (x1, y1), SURE_RGB, 1, cv2.LINE_AA)


def _sure(face: Face) -> bool:
    return face.state.status == "label"


def _draw_face(image: np.ndarray, face: Face, text: str) -> None:
    left, top, right, bottom = face.box_xyxy_px
    colour = SURE_RGB if _sure(face) else UNSURE_RGB
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, 2)
    _draw_text(image, text, (left, max(12, top - 6)), colour)
    length = round((face.state.confidence or 0.0) * (right - left))
    # Above the lower edge where the box touches the bottom of the image.
    bar_top = min(bottom + 2, image.shape[0] - 6)
    cv2.rectangle(image, (left, bar_top), (right - 1, bar_top + 5), DARK_RGB, cv2.FILLED)
    if length > 0:
        cv2.rectangle(image, (left, bar_top), (left + length - 1, bar_top + 5), colour, cv2.FILLED)


def _draw_text(
    image: np.ndarray,
    text: str,
    origin: tuple[int, int],
    colour: tuple[int, int, int],
    scale: float = 0.5,
) -> None:
    # A dark outline keeps the text readable on any background.
    cv2.putText(image, text, origin, FONT, scale, DARK_RGB, 3, cv2.LINE_AA)
    cv2.putText(image, text, origin, FONT, scale, colour, 1, cv2.LINE_AA)


def _no_window(reason: str) -> FerError:
    return FerError(
        f"no window can be opened: {reason}",
        code="window-not-opened",
        fix="pass --headless, or use 'fer demo web', or run on a desktop with opencv-python (not "
        "opencv-python-headless)",
    )
