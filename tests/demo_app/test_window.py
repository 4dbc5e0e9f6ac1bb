import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from demo_app.faces import Face, FrameResult, StageTimes
from demo_app.live import Live
from demo_app.parameters import Parameters
from demo_app.pipeline import Control, press
from demo_app.session import run_session
from demo_app.stabilisation import START, step
from demo_app.window import PANEL_PX, ROW_PX, TOP_PX, Window, annotate, caption, panel
from fer_ml.base.errors import FerError

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
    with pytest.raises(FerError) as caught, Window():
        pass
    assert caught.value.fix is not None and "--headless" in caught.value.fix


def test_a_python_without_tk_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(FerError) as caught, Window():
        pass
    assert caught.value.fix is not None and "python3-tk" in caught.value.fix


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


@cache
def unseen_display() -> str:
    """A real display that nobody sees; it ends with this process, the last to leave it.

    Tk keeps its connection, and Xlib ends a process whose display goes away.
    """
    pytest.importorskip("tkinter")
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no Xvfb on this machine")
    reader, writer = os.pipe()
    command = f"{server} -terminate -displayfd {writer} > /dev/null 2>&1 &"
    subprocess.run(["sh", "-c", command], pass_fds=[writer], check=True)
    os.close(writer)
    with os.fdopen(reader) as told:
        return f":{told.readline().strip()}"


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", unseen_display())


class Person(Window):
    """Somebody at a window: ``does`` names what they do once so many frames were shown."""

    def __init__(self, does: dict[int, str]) -> None:
        super().__init__()
        self.does, self.sizes = does, []

    def draw(self, frame: FrameResult) -> None:
        super().draw(frame)
        self.sizes.append((self._photo.width(), self._photo.height()))
        self._root.focus_force()
        match self.does.get(len(self.sizes), ""):
            case "click":
                (label,) = self._root.winfo_children()
                # The second bar of the panel, beside a picture of 64 px.
                label.event_generate("<Button-1>", x=64 + 20, y=TOP_PX + ROW_PX + 5)
            case "close":
                self._root.tk.call(self._root.protocol("WM_DELETE_WINDOW"))
            case str(key) if key:
                self._root.event_generate(f"<{key}>")
        self._root.update()


def played(person: Person, bundle, scripted, write_video, out: Path):
    video = write_video([np.zeros((48, 64, 3), np.uint8)] * 6)
    with person as view:
        return run_session(video, bundle, scripted([[]] * 6), out, SETTINGS, view=view)


def test_q_ends_the_session_and_o_hides_the_panel(
    display: None, bundle, scripted, write_video, tmp_path: Path
) -> None:
    person = Person({2: "o", 3: "q"})
    summary = played(person, bundle, scripted, write_video, tmp_path / "out")
    assert (summary.ended, summary.frames) == ("stopped", 3)
    assert [width for width, _ in person.sizes] == [64 + PANEL_PX] * 2 + [64]


def test_closing_the_window_ends_the_session(
    display: None, bundle, scripted, write_video, tmp_path: Path
) -> None:
    summary = played(Person({2: "close"}), bundle, scripted, write_video, tmp_path / "out")
    assert (summary.ended, summary.frames) == ("stopped", 2)


def test_a_click_on_a_bar_labels_the_frames_that_follow(
    display: None, bundle, scripted, write_video, tmp_path: Path
) -> None:
    summary = played(Person({1: "click"}), bundle, scripted, write_video, tmp_path / "out")
    assert (summary.ended, summary.frames) == ("end", 6)
    lines = (tmp_path / "out" / "per_frame.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == [""] + ["Disgust"] * 5


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
