import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo_app import window
from demo_app.faces import Face, FrameResult, StageTimes
from demo_app.live import Live
from demo_app.parameters import Parameters
from demo_app.pipeline import Control, press
from demo_app.session import run_session
from demo_app.stabilisation import START, step
from demo_app.window import PANEL_PX, annotate, caption, check_display, panel
from tests.refusals import refused

SETTINGS = Parameters(unsure_below=0.5)
HAPPY = (0.02, 0.02, 0.02, 0.88, 0.02, 0.02, 0.02)


def face(
    box: tuple[int, int, int, int], probs: tuple[float, ...] = HAPPY, track_id: int = 0
) -> Face:
    return Face(track_id, box, 1.0, probs, step(START, probs, 0.0, SETTINGS))


def test_captions() -> None:
    happy, unsure = face((0, 0, 9, 9)), face((0, 0, 9, 9), (1 / 7,) * 7)
    assert (caption(happy, [happy]), caption(unsure, [unsure])) == ("Happy 88%", "unsure")


def test_several_faces_are_counted_in_the_order_in_which_they_came() -> None:
    late, early = face((0, 0, 9, 9), track_id=7), face((9, 9, 20, 20), track_id=3)
    assert [caption(each, [late, early]) for each in (late, early)] == [
        "2 of 2: Happy 88%",
        "1 of 2: Happy 88%",
    ]


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
    with refused("window-not-opened"):
        check_display()


def test_keys_turn_parameters_set_labels_and_end() -> None:
    control = Control(SETTINGS)
    for key in "]]=-=bnl":
        press(key, control)
    turned = control.parameters
    assert turned.ema_tau_s == pytest.approx(SETTINGS.ema_tau_s + 0.1)
    assert turned.hysteresis_delta == pytest.approx(SETTINGS.hysteresis_delta + 0.01)
    assert turned.vote_s == pytest.approx(SETTINGS.vote_s + 0.1)
    assert turned.unsure_below == pytest.approx(SETTINGS.unsure_below + 0.05)
    assert turned.vote_share == SETTINGS.vote_share, "half or less is no majority"
    for _ in range(100):
        press("[", control)
    assert control.parameters.ema_tau_s == 0
    press("4", control)
    assert control.manual_label == "Happy"
    for key in ("8", "x", ""):
        press(key, control)
    assert (control.manual_label, control.stop) == ("Happy", False)
    press("c", control)
    press("q", control)
    assert (control.manual_label, control.stop) == (None, True)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> dict:
    """OpenCV's window functions, written down: what was shown, and the keys to press."""
    held: dict = {"shown": [], "keys": {}, "mouse": None}
    monkeypatch.setattr(window, "check_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", lambda title: None)
    monkeypatch.setattr(cv2, "setMouseCallback", lambda title, call: held.update(mouse=call))
    monkeypatch.setattr(cv2, "imshow", lambda title, image: held["shown"].append(image))
    monkeypatch.setattr(
        cv2, "waitKey", lambda ms: ord(held["keys"].get(len(held["shown"]), "\xff"))
    )
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    return held


def test_q_ends_the_session(bundle, scripted, write_video, tmp_path: Path, screen: dict) -> None:
    video = write_video([np.zeros((48, 64, 3), np.uint8)] * 6)
    screen["keys"] = {2: "o", 3: "q"}
    with window.Window() as view:
        summary = run_session(
            video, bundle, scripted([[]] * 6), tmp_path / "out", SETTINGS, view=view
        )
    assert (summary.ended, summary.frames, len(screen["shown"])) == ("stopped", 3, 3)
    assert [image.shape[1] for image in screen["shown"]] == [64 + PANEL_PX] * 2 + [64]


def test_a_click_on_a_bar_labels(
    bundle, scripted, write_video, tmp_path: Path, screen: dict
) -> None:
    video = write_video([np.zeros((48, 64, 3), np.uint8)] * 4)
    with window.Window() as view:
        # On the second bar, and beside the picture.
        screen["mouse"](cv2.EVENT_LBUTTONDOWN, 64 + 20, 34 + 24 + 5, 0, None)
        view._clicked = None  # nothing is shown yet: the click was outside
        view.draw = _clicking(view, screen)
        run_session(video, bundle, scripted([[]] * 4), tmp_path / "out", SETTINGS, view=view)
    lines = (tmp_path / "out" / "per_frame.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == ["", "Disgust", "Disgust", "Disgust"]


def _clicking(view: window.Window, screen: dict):
    draw = view.draw

    def draw_and_click(frame) -> None:
        draw(frame)
        if frame.index == 0:
            screen["mouse"](cv2.EVENT_LBUTTONDOWN, 64 + 20, 34 + 24 + 5, 0, None)

    return draw_and_click


def test_the_panel_shows_seven_bars_of_the_main_face() -> None:
    main = face((10, 10, 90, 90))
    result = FrameResult(
        0,
        0.0,
        np.zeros((100, 100, 3), np.uint8),
        (face((0, 0, 9, 9)), main),
        "haar",
        True,
        SETTINGS,
        StageTimes(1, 2, 3, 4, 5),
        "Happy",
    )
    drawn = panel(result, Live().see(result), [(1.0, 0.5), (0.0, 0.9)], 480)
    assert drawn.shape == (480, PANEL_PX, 3)
    rows = [drawn[34 + 24 * i + 10, 110 : PANEL_PX - 50] for i in range(7)]
    lengths = [int((row == (40, 200, 80)).all(axis=1).sum()) for row in rows]
    assert max(lengths) == lengths[3] == pytest.approx(0.88 * 100, abs=2)
    assert all(0 < length < 6 for i, length in enumerate(lengths) if i != 3)
