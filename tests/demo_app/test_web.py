"""The page's server: who is let in, and what a message does. The page itself: test_page.py."""

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener

import cv2
import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from demo_app.card import card_page
from demo_app.detection import Detection, make_detector
from demo_app.kpis import compute_kpis
from demo_app.parameters import Parameters
from demo_app.session import run_session
from demo_app.shipped import SHIPPED
from demo_app.tables import read_rows
from demo_app.web import (
    COMMANDS,
    MAX_MESSAGE_BYTES,
    MAX_VIEWERS,
    Inbox,
    Viewer,
    decode_frame,
    make_app,
)
from fer_ml.base.errors import FerError
from fer_ml.base.ports import open_port
from fer_ml.bundles.bundle import load_bundle
from tests.refusals import refused

PARAMETERS = Parameters(unsure_below=0.4)
TOKEN = "t0ken"


def jpeg(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def message(image: np.ndarray, sent: float = 5.0) -> bytes:
    return struct.pack("<d", sent) + jpeg(image)


BRIGHT = np.full((64, 128, 3), 255, np.uint8)


class LeftHalf:
    """Finds one face in the left half of any frame that is large enough, and takes its time."""

    name = "left"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def detect(self, image: np.ndarray) -> list[Detection]:
        time.sleep(self.seconds)
        if image.shape[1] < 64:
            return []
        return [Detection((0, 0, image.shape[1] // 2, image.shape[0]), 0.9)]


Serve = Callable[..., str]


@pytest.fixture
def serve(bundle, tmp_path: Path) -> Iterator[Serve]:
    """Start the real server on a free port; gives ``127.0.0.1:port``."""
    started: list[tuple[uvicorn.Server, threading.Thread, object]] = []

    def start(seconds: float = 0.0) -> str:
        listener = open_port(0)
        port = listener.getsockname()[1]
        app = make_app(
            bundle,
            lambda: LeftHalf(seconds),
            PARAMETERS,
            tmp_path / "rec",
            token=TOKEN,
            port=port,
        )
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", ws_max_size=MAX_MESSAGE_BYTES)
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        started.append((server, thread, listener))
        return f"127.0.0.1:{port}"

    yield start
    for server, thread, listener in started:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
        listener.close()


@contextmanager
def join(host: str, *, token: str = TOKEN, origin: str | None = None) -> Iterator[ClientConnection]:
    """Open the stream as the page does; its first message are the settings."""
    url = f"ws://{host}/stream?token={token}"
    with connect(url, origin=origin or f"http://{host}", max_size=None) as stream:
        assert json.loads(stream.recv(5))["type"] == "settings"
        yield stream


def ask(stream: ClientConnection, what: bytes | str) -> dict:
    stream.send(what)
    return json.loads(stream.recv(10))


def test_a_frame_is_answered_with_its_faces(serve: Serve) -> None:
    with join(serve()) as stream:
        reply = ask(stream, message(BRIGHT, 12.5))
    assert (reply["type"], reply["sent"], reply["index"]) == ("frame", 12.5, 0)
    assert (reply["width"], reply["height"], reply["detector"]) == (128, 64, "left")
    (face,) = reply["faces"]
    assert (face["label"], face["status"], face["box"]) == ("Happy", "label", [0, 0, 64, 64])
    assert sum(face["smoothed"]) == pytest.approx(1, abs=1e-3)
    assert reply["frame_ms"] > 0 and reply["main"] == face["id"]
    assert not reply["recording"]


@pytest.mark.parametrize(
    ("token", "origin"),
    [("wrong", None), ("", None), (TOKEN, "http://evil.example"), (TOKEN, "null")],
)
@pytest.mark.threat("strangers, or a foreign page in the user's browser, use the UI or the demo")
def test_strangers_are_refused(serve: Serve, token: str, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught, join(serve(), token=token, origin=origin):
        pass
    assert caught.value.response.status_code == 403


def test_without_an_origin_there_is_no_stream(serve: Serve) -> None:
    with pytest.raises(InvalidStatus), connect(f"ws://{serve()}/stream?token={TOKEN}"):
        pass


def get(url: str, **headers: str) -> tuple[int, str, Message]:
    """What a browser gets, which keeps the cookie of a link."""
    opener = build_opener(HTTPCookieProcessor())
    try:
        with opener.open(Request(url, headers=headers), timeout=5) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_the_page_needs_the_token_and_a_loopback_host(serve: Serve) -> None:
    host = serve()
    status, text, headers = get(f"http://{host}/?token={TOKEN}")
    assert status == 200 and "Facial expressions" in text
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    for path in ("", "?token=x", "?token=", "about", "static/demo.js"):
        status, text, _ = get(f"http://{host}/{path}")
        assert status == 403 and "token" in text
    assert get(f"http://{host}/?token={TOKEN}", host="evil.example")[0] == 403
    assert get(f"http://{host}/static/demo.js?token={TOKEN}")[0] == 200
    for path in ("web.py", "..%2fweb.py", "%2e%2e/web.py"):
        assert get(f"http://{host}/static/{path}?token={TOKEN}")[0] == 404


def test_it_listens_on_loopback_alone() -> None:
    with open_port(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with refused("port-unavailable"):
            open_port(listener.getsockname()[1])
    with refused("port-unavailable"):
        open_port(70000)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"", "invalid-frame"),
        (b"12345678", "invalid-frame"),
        (struct.pack("<d", float("nan")) + jpeg(BRIGHT), "invalid-frame"),
        (struct.pack("<d", 1.0) + jpeg(BRIGHT, ".png"), "invalid-frame"),
        (struct.pack("<d", 1.0) + b"GIF89a" * 9, "invalid-frame"),
        (message(BRIGHT)[:-40], "undecodable-image"),
        (struct.pack("<d", 1.0) + b"\xff\xd8\xff" + bytes(500), "undecodable-image"),
        ("a frame, as text", "invalid-command"),
        ('{"type": "record"}', "invalid-command"),
        ('{"type": "record", "consent": false}', "invalid-command"),
        ('{"type": "press", "key": "q"}', "invalid-command"),
        ('{"type": "press", "key": "44"}', "invalid-command"),
        ('{"type": "stop", "now": 1}', "invalid-command"),
        ("[" * 5000, "invalid-command"),
    ],
)
def test_a_bad_message_is_told_and_the_stream_goes_on(
    serve: Serve, bad: bytes | str, code: str, tmp_path: Path
) -> None:
    with join(serve()) as stream:
        reply = ask(stream, bad)
        assert (reply["type"], reply["code"]) == ("error", code), reply
        assert ask(stream, message(BRIGHT))["type"] == "frame"
    assert not (tmp_path / "rec").exists()


@pytest.mark.parametrize("side", [5000, 65500])
@pytest.mark.threat("a small file unpacks to a huge one")
def test_pixels_are_counted_before_decoding(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    # A few kB of JPEG may say that they hold 65,500 x 65,500 px, which would take 12 GiB.
    data = bytearray(message(np.zeros((16, 16, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    monkeypatch.setattr("demo_app.web.decode_as_stored", pytest.fail)
    with pytest.raises(FerError) as caught:
        decode_frame(bytes(data))
    assert caught.value.code in ("frame-too-large", "undecodable-image")


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2160, 3840)])
def test_frames_of_any_size(serve: Serve, size: tuple[int, int]) -> None:
    with join(serve()) as stream:
        reply = ask(stream, message(np.zeros((*size, 3), np.uint8)))
    assert (reply["height"], reply["width"]) == size


def test_a_grey_jpeg_is_a_picture_too() -> None:
    _, image = decode_frame(message(np.full((8, 9), 77, np.uint8)))
    assert image.shape == (8, 9, 3) and (image == 77).all()


def test_a_message_that_is_too_large_ends_the_stream(serve: Serve) -> None:
    host = serve()
    with join(host) as stream, pytest.raises(ConnectionClosed) as caught:
        stream.send(bytes(MAX_MESSAGE_BYTES + 1))
        stream.recv(5)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009
    with join(host) as stream:
        assert ask(stream, message(BRIGHT))["type"] == "frame"


def test_late_frames_are_dropped_and_counted(serve: Serve) -> None:
    with join(serve(0.05)) as stream:
        for index in range(40):
            stream.send(message(BRIGHT, float(index)))
        replies = [json.loads(stream.recv(5))]
        while replies[-1]["sent"] < 39:
            replies.append(json.loads(stream.recv(5)))
    sent = [reply["sent"] for reply in replies]
    assert sent == sorted(set(sent)) and len(sent) < 40
    assert replies[-1]["dropped"] == 40 - len(sent)
    assert [reply["index"] for reply in replies] == list(range(len(sent)))


def test_the_inbox_holds_one_frame() -> None:
    inbox = Inbox()
    for index in range(5):
        inbox.put_frame(bytes([index]))
    assert (inbox.frame, inbox.dropped) == (b"\x04", 4)


def test_too_many_commands_end_the_stream(serve: Serve) -> None:
    with join(serve(0.5)) as stream:
        stream.send(message(BRIGHT))
        with pytest.raises(ConnectionClosed) as caught:
            for _ in range(300):
                stream.send('{"type": "press", "key": "4"}')
            while True:
                stream.recv(5)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


def test_a_client_that_takes_no_replies_harms_nobody(serve: Serve) -> None:
    host = serve()
    with join(host) as stalled, join(host) as stream:
        # The first is never read from; the other one is served as ever.
        for _ in range(5):
            stalled.send(message(BRIGHT))
            assert ask(stream, message(BRIGHT))["type"] == "frame"


def test_two_browsers_have_settings_and_tracks_of_their_own(serve: Serve) -> None:
    host = serve()
    with join(host) as one, join(host) as two:
        assert ask(one, '{"type": "press", "key": "2"}')["manual"] == "Disgust"
        for _ in range(3):
            assert ask(one, message(BRIGHT))["manual"] == "Disgust"
        reply = ask(two, message(BRIGHT))
        assert (reply["manual"], reply["index"]) == (None, 0)


def test_there_is_room_for_a_few_pages(serve: Serve) -> None:
    host = serve()
    with ExitStack() as stack:
        for _ in range(MAX_VIEWERS):
            stack.enter_context(join(host))
        with pytest.raises(ConnectionClosed) as caught, join(host):
            pass
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1013
    time.sleep(0.3)
    with join(host) as stream:
        assert ask(stream, message(BRIGHT))["type"] == "frame"


def test_a_recording_is_whole_and_replays_to_the_same_labels(
    serve: Serve, bundle, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(8)]
    with join(serve()) as stream:
        ask(stream, message(BRIGHT))
        assert not (tmp_path / "rec").exists(), "nothing is stored unasked"
        begun = ask(stream, '{"type": "record", "consent": true}')
        assert begun["recording"]
        for index, picture in enumerate(pictures):
            if index == 4:
                ask(stream, '{"type": "press", "key": "5"}')
                ask(stream, '{"type": "press", "key": "b"}')
            assert ask(stream, message(picture))["recording"]
        ended = ask(stream, '{"type": "stop"}')
        assert not ended["recording"] and not ask(stream, message(BRIGHT))["recording"]
    folder = Path(ended["folder"])
    assert folder == Path(begun["folder"]) and folder.parent == tmp_path / "rec"
    stored = sorted((folder / "frames").iterdir())
    assert [path.read_bytes() for path in stored] == [jpeg(picture) for picture in pictures]
    assert compute_kpis(folder / "per_frame.csv", None)["frames"] == 8
    again = tmp_path / "again"
    run_session(folder, bundle, LeftHalf(), again, PARAMETERS)
    rows = [
        [
            [cell for name, cell in zip(names, line, strict=True) if not name.endswith("_ms")]
            for line in lines
        ]
        for names, *lines in (
            [row.split(",") for row in (path / "per_frame.csv").read_text().splitlines()]
            for path in (folder, again)
        )
    ]
    assert rows[0] == rows[1]


def recorded(stream: ClientConnection, frames: int) -> Path:
    """Record a session of bright frames; its folder."""
    ask(stream, '{"type": "record", "consent": true}')
    for _ in range(frames):
        ask(stream, message(BRIGHT))
    return Path(ask(stream, '{"type": "stop"}')["folder"])


def test_a_recording_is_seen_again_scored_and_deleted(serve: Serve, tmp_path: Path) -> None:
    with join(serve()) as stream:
        folder = recorded(stream, 3)
        seen = [ask(stream, '{"type": "replay"}')]
        while seen[-1]["type"] == "replay":
            seen.append(ask(stream, '{"type": "next"}'))
        assert [frame["type"] for frame in seen] == ["replay"] * 3 + ["replayed"]
        rows = read_rows(folder / "per_frame.csv", "frame")
        assert [frame["faces"][0]["raw"] for frame in seen[:3]] == [
            row.value("raw_label", str) for row in rows
        ]
        assert [frame["time_s"] for frame in seen[:3]] == [
            row.value("time_sec", float) for row in rows
        ]
        pictures = [base64.b64decode(frame["picture"].partition(",")[2]) for frame in seen[:3]]
        assert pictures == [path.read_bytes() for path in sorted((folder / "frames").iterdir())]
        figures = ask(stream, '{"type": "score"}')["figures"]
        kpis = compute_kpis(folder / "per_frame.csv", None)
        assert figures["frames"] == 3 and figures == {name: kpis[name] for name in figures}
        assert ask(stream, '{"type": "delete"}')["type"] == "error"
        assert folder.is_dir()
        assert ask(stream, '{"type": "delete", "sure": true}')["folder"] is None
        assert not folder.exists()
        for gone in ('{"type": "replay"}', '{"type": "score"}', '{"type": "delete", "sure": true}'):
            assert ask(stream, gone)["type"] == "error"
        assert ask(stream, message(BRIGHT))["type"] == "frame"


def test_only_what_this_page_recorded_and_finished_can_be_deleted(serve: Serve) -> None:
    host = serve()
    with join(host) as one, join(host) as other:
        folder = recorded(one, 1)
        assert ask(other, '{"type": "delete", "sure": true}')["type"] == "error"
        ask(one, '{"type": "record", "consent": true}')
        assert ask(one, '{"type": "delete", "sure": true}')["type"] == "error"
    assert folder.is_dir()


def test_a_weak_detector_is_told_of(bundle, tmp_path: Path) -> None:
    viewers = [
        Viewer(bundle, detector, PARAMETERS, tmp_path)
        for detector in (LeftHalf(), make_detector("haar"))
    ]
    told = [viewer.settings()["warning"] for viewer in viewers]
    assert told[0] is None and told[1] is not None


def test_what_a_card_says_is_text(bundle) -> None:
    card = bundle.card.model_copy(update={"data": "<script>alert(1)</script> | [a](javascript:b)"})
    page = card_page(type(bundle)(bundle.folder, card, bundle.sha256, bundle.session))
    assert "<script" not in page and 'href="javascript' not in page
    assert bundle.card.model_sha256 in page


def test_the_card_of_the_shipped_student_needs_no_style_that_the_page_forbids() -> None:
    page = card_page(load_bundle(SHIPPED))
    assert page.count("<table>") >= 4 and 'class="number"' in page
    assert "style=" not in page and "<script" not in page


def test_a_page_that_goes_away_leaves_a_whole_recording(serve: Serve, tmp_path: Path) -> None:
    with join(serve()) as stream:
        folder = Path(ask(stream, '{"type": "record", "consent": true}')["folder"])
        ask(stream, message(BRIGHT))
    summary = folder / "demoresultssummary.csv"
    for _ in range(100):
        if summary.is_file() and "stopped" in summary.read_text():
            break
        time.sleep(0.05)
    assert "stopped" in summary.read_text()


def test_a_disk_that_fills_up_ends_the_recording_and_not_the_stream(bundle, tmp_path: Path) -> None:
    viewer = Viewer(bundle, LeftHalf(), PARAMETERS, tmp_path / "rec")
    folder = Path(str(viewer.command('{"type": "record", "consent": true}')["folder"]))
    viewer.frame(message(BRIGHT), 0)
    frames = folder / "frames"
    frames.rename(folder / "moved")
    with refused("log-not-written"):
        viewer.frame(message(BRIGHT), 0)
    viewer.give_up()
    assert not json.loads(viewer.frame(message(BRIGHT), 0))["recording"]
    assert "error" in (folder / "demoresultssummary.csv").read_text()
    assert compute_kpis(folder / "per_frame.csv", None)["frames"] == 1


@settings(max_examples=200)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_a_frame_or_a_clear_error(data: bytes, dressed: bool) -> None:
    try:
        sent, image = decode_frame(
            struct.pack("<d", 1.0) + b"\xff\xd8\xff" + data if dressed else data
        )
    except FerError as error:
        assert error.where == "frame message"
    else:
        assert image.dtype == np.uint8 and image.shape[2] == 3 and np.isfinite(sent)


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_jpeg_is_a_picture_or_a_clear_error(data: st.DataObject) -> None:
    whole = bytearray(message(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, image = decode_frame(bytes(whole))
    except FerError as error:
        assert error.where == "frame message"
    else:
        assert image.ndim == 3 and image.size > 0


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["type", "key", "consent"]), inner, max_size=3)
            ),
            max_leaves=8,
        ).map(json.dumps),
    )
)
def test_any_text_is_a_command_or_refused(text: str) -> None:
    try:
        command = COMMANDS.validate_json(text)
    except ValueError:
        return
    assert command.type in ("record", "stop", "press")


def test_the_answerer_survives_a_client_that_vanishes(serve: Serve) -> None:
    host = serve(0.1)
    for _ in range(3):
        with join(host) as stream:
            stream.send(message(BRIGHT))
            stream.socket.shutdown(socket.SHUT_RDWR)
    with join(host) as stream:
        assert ask(stream, message(BRIGHT))["type"] == "frame"
