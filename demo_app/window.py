"""The desktop window: what ``run_session`` finds, drawn on the frame. q ends it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from demo_app.detection import Detector
from demo_app.faces import Face, FrameResult
from demo_app.session import SessionSummary, run_session
from demo_app.stabilisation import StabiliserSettings
from fer_ml.bundle import Bundle
from fer_ml.errors import FerError

TITLE = "Facial expressions (q quits)"
SURE_RGB = (40, 200, 80)
UNSURE_RGB = (240, 180, 40)
DARK_RGB = (20, 20, 20)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate(image: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """A copy of ``image [H, W, 3] uint8 RGB`` with a box, a caption and a bar for each face.

    The caption is the stabilised label or 'unsure', with the average confidence; the bar under the
    box is as long as that confidence, 0..1, of the box's width.
    """
    drawn = image.copy()
    for face in faces:
        _draw_face(drawn, face)
    return drawn


def caption(face: Face) -> str:
    """What the window writes over a face, for instance ``Happy 87%`` or ``unsure``."""
    if face.state.status != "label" or face.state.confidence is None:
        return face.state.status
    return f"{face.state.label} {face.state.confidence:.0%}"


def show(
    video: Path | int,
    bundle: Bundle,
    detector: Detector,
    out: Path,
    settings: StabiliserSettings,
    *,
    max_frames: int | None = None,
) -> SessionSummary:
    """``run_session`` in a window, until the source ends or q is pressed; files in media time.

    ``FerError`` where no window can be opened, before anything else is started.
    """
    check_display()
    try:
        return run_session(
            video, bundle, detector, out, settings, max_frames=max_frames, on_frame=_show_frame
        )
    finally:
        cv2.destroyAllWindows()


def check_display() -> None:
    """``FerError`` if OpenCV cannot open a window here.

    Tried in a process of its own: without a display, some of OpenCV's window libraries abort the
    whole process, which no ``except`` can catch.
    """
    probe = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
    try:
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        raise _no_window("opening one took more than 20 s") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _no_window(lines[0] if lines else f"exit status {done.returncode}")


def _show_frame(frame: FrameResult) -> bool:
    drawn = annotate(frame.image, frame.faces)
    _draw_text(drawn, f"{1e3 / frame.frame_ms:.0f} fps  {frame.detector}", (6, 16), SURE_RGB)
    try:
        cv2.imshow(TITLE, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(max(1, round(frame.wait_ms)))
    except cv2.error as error:
        raise _no_window(error.err) from error
    return key & 0xFF != ord("q")


def _draw_face(image: np.ndarray, face: Face) -> None:
    left, top, right, bottom = face.box_xyxy_px
    colour = SURE_RGB if face.state.status == "label" else UNSURE_RGB
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, 2)
    _draw_text(image, caption(face), (left, max(12, top - 6)), colour)
    length = round((face.state.confidence or 0.0) * (right - left))
    # Above the lower edge where the box touches the bottom of the image.
    bar_top = min(bottom + 2, image.shape[0] - 6)
    cv2.rectangle(image, (left, bar_top), (right - 1, bar_top + 5), DARK_RGB, cv2.FILLED)
    if length > 0:
        cv2.rectangle(image, (left, bar_top), (left + length - 1, bar_top + 5), colour, cv2.FILLED)


def _draw_text(
    image: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    # A dark outline keeps the text readable on any background.
    cv2.putText(image, text, origin, FONT, 0.5, DARK_RGB, 3, cv2.LINE_AA)
    cv2.putText(image, text, origin, FONT, 0.5, colour, 1, cv2.LINE_AA)


def _no_window(reason: str) -> FerError:
    return FerError(
        f"no window can be opened: {reason}",
        fix="pass --headless, or run on a desktop with opencv-python (not opencv-python-headless)",
    )
