import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo_app import window
from demo_app.faces import Face
from demo_app.stabilisation import START, StabiliserSettings, step
from demo_app.window import annotate, caption, check_display
from fer_ml.errors import FerError

SETTINGS = StabiliserSettings(unsure_below=0.5)
HAPPY = (0.02, 0.02, 0.02, 0.88, 0.02, 0.02, 0.02)


def face(box: tuple[int, int, int, int], probs: tuple[float, ...] = HAPPY) -> Face:
    return Face(0, box, 1.0, probs, step(START, probs, 0.0, SETTINGS))


def test_captions() -> None:
    assert caption(face((0, 0, 9, 9))) == "Happy 88%"
    assert caption(face((0, 0, 9, 9), (1 / 7,) * 7)) == "unsure"


def test_annotate_draws_on_a_copy() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    drawn = annotate(image, [face((40, 30, 100, 90))])
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert not image.any()
    assert tuple(drawn[30, 70]) == (40, 200, 80)
    assert not drawn[50:70, 55:85].any()
    assert np.array_equal(annotate(image, []), image)


def test_the_bar_is_as_long_as_the_confidence() -> None:
    drawn = annotate(np.zeros((120, 260, 3), np.uint8), [face((40, 30, 140, 90))])
    bar = drawn[94, 40:140]
    assert (bar == (40, 200, 80)).all(axis=1).sum() == 88


def test_unsure_has_another_colour() -> None:
    drawn = annotate(np.zeros((120, 160, 3), np.uint8), [face((40, 30, 100, 90), (1 / 7,) * 7)])
    assert tuple(drawn[30, 70]) == (240, 180, 40)


def test_a_face_that_fills_a_tiny_image() -> None:
    assert annotate(np.zeros((1, 1, 3), np.uint8), [face((0, 0, 1, 1))]).shape == (1, 1, 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes the display away")
def test_no_display_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    with pytest.raises(FerError, match="--headless"):
        check_display()


def test_q_ends_the_session(
    bundle, scripted, write_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr(window, "check_display", lambda: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    video = write_video([np.zeros((48, 64, 3), np.uint8)] * 6)
    summary = window.show(video, bundle, scripted([[]] * 6), tmp_path / "out", SETTINGS)
    assert (summary.ended, summary.frames, len(shown)) == ("stopped", 3, 3)
    assert shown[0].any()  # frame rate and detector are written on the frame
