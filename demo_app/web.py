"""The demo as a web page on this machine, with the browser's camera and this machine's network.

A browser sends JPEG frames over a WebSocket and receives JSON. Only the newest frame waits: a frame
that arrives during processing replaces the waiting one, and dropped frames are counted. Frames are
stored only if the person in front of the camera asks for a recording.
"""

import asyncio
import json
import math
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from demo_app.card import card_page
from demo_app.detection import Detector, warning
from demo_app.faces import Face, FrameResult, number_of
from demo_app.live import Figures, Live
from demo_app.logs import LogError, SessionLog
from demo_app.parameters import Parameters
from demo_app.pipeline import Control, Pipeline, press
from demo_app.recorded import delete, replayed, score
from demo_app.session import summary_row
from demo_app.sources import TIME_DIGITS, Frame
from fer_ml.base.errors import FerError
from fer_ml.base.guard import Guard
from fer_ml.base.labels import CLASSES
from fer_ml.base.ports import Server, open_port
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import decode_as_stored, read_header

STATIC = Path(__file__).with_name("static")
#: The page loads nothing but its own script and style, and nothing of it is kept.
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (b"cache-control", b"no-store"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)
#: A message may hold so many bytes, and a frame so many pixels: a 4K frame is just allowed.
MAX_MESSAGE_BYTES = 512 * 1024
MAX_PIXELS = 4096 * 2304
MAX_COMMANDS = 64
MAX_VIEWERS = 4
#: A browser that takes no reply for so long is let go.
SEND_TIMEOUT_S = 5.0
#: A frame is the browser's own time in ms, which is sent back as it came, and then the JPEG.
_SENT = struct.Struct("<d")
MESSAGE = "frame message"


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(_Command):
    """Start a recording; ``consent`` is the person's yes to the page's question."""

    type: Literal["record"]
    consent: Literal[True]


class Stop(_Command):
    """End the recording."""

    type: Literal["stop"]


class Press(_Command):
    """Press a key of the desktop window: a label, no label, or a parameter."""

    type: Literal["press"]
    key: Annotated[str, Field(pattern=r"^[1-7c\[\]\-=vbnmkl]$")]


class Replay(_Command):
    """Restart the replay of the last recording at its first frame."""

    type: Literal["replay"]


class Ask(_Command):
    """Request the next frame of the replay, or the key figures of the last recording."""

    type: Literal["next", "score"]


class Delete(_Command):
    """Delete the last recording; ``sure`` is the person's yes to the page's question."""

    type: Literal["delete"]
    sure: Literal[True]


Command = Record | Stop | Press | Replay | Ask | Delete
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


@dataclass
class Inbox:
    """Unprocessed input from a browser: the newest frame, and commands in order."""

    frame: bytes | None = None
    dropped: int = 0
    commands: deque[str] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put_frame(self, data: bytes) -> None:
        """Make ``data`` the next frame to process."""
        self.dropped += self.frame is not None
        self.frame = data
        self.arrived.set()

    def put_command(self, text: str) -> bool:
        """Queue a command; return False if too many are waiting."""
        self.commands.append(text)
        self.arrived.set()
        return len(self.commands) <= MAX_COMMANDS


class Viewer:
    """One browser: its tracks, its settings, and its recording if one is running."""

    def __init__(
        self, bundle: Bundle, detector: Detector, parameters: Parameters, out: Path
    ) -> None:
        self._bundle = bundle
        self._detector = detector
        self._out = out
        self._control = Control(parameters)
        self._log: SessionLog | None = None
        self._recording: Path | None = None
        self._replay: Iterator[tuple[FrameResult, str]] = iter(())
        self._started_at = datetime.now(UTC)
        self._size_px = (0, 0)
        self._begin()

    def answer(self, text: str) -> str:
        """Carry out one command and return the reply as JSON."""
        return json.dumps(self.command(text))

    def command(self, text: str) -> dict[str, Any]:
        """Carry out one command and return its reply. ``FerError`` for an unknown command."""
        try:
            command = COMMANDS.validate_json(text)
        except ValidationError as error:
            raise FerError(
                f"the message is not a command: {error.errors()[0]['msg']}",
                code="invalid-command",
                allowed="record with consent, stop, press, replay, next, score, delete when sure",
            ) from error
        match command:
            case Press():
                press(command.key, self._control)
            case Stop():
                self.close("stopped")
            case Record():
                if self._log is None:
                    self._record()
            case Replay():
                self._replay = replayed(self._finished(), self._bundle, self._detector)
                return self._next()
            case Ask(type="next"):
                return self._next()
            case Ask():
                return {"type": "score", "figures": score(self._finished())}
            case Delete():
                delete(self._finished())
                self._recording, self._replay = None, iter(())
        return self.settings()

    def frame(self, data: bytes, dropped: int) -> str:
        """Process one frame message and return the reply as JSON.

        Raises ``FerError`` if the message is not a valid frame.
        """
        start = time.perf_counter()
        sent, image = decode_frame(data)
        now = round(time.perf_counter() - self._clock, TIME_DIGITS)
        frame = Frame(self._index, now, image)
        capture_ms = 1e3 * (time.perf_counter() - start)
        result = self._pipeline.process(frame, self._control, capture_ms)
        self._index += 1
        self._size_px = (image.shape[1], image.shape[0])
        figures = self._live.see(result)
        draw = time.perf_counter()
        reply = {
            "type": "frame",
            "sent": sent,
            "dropped": dropped,
            "recording": self._log is not None,
            **shown(result, figures),
        }
        text = json.dumps(reply)
        draw_ms = 1e3 * (time.perf_counter() - draw)
        if self._log is not None:
            times = replace(result.times_ms, draw=draw_ms)
            self._log.write_frame(replace(result, times_ms=times), data[_SENT.size :])
        return text

    def _finished(self) -> Path:
        """Return the last recording of this page; ``FerError`` if there is none."""
        if self._recording is None or self._log is not None:
            raise FerError(
                "no finished recording", code="no-recording", fix="record and stop first"
            )
        return self._recording

    def _next(self) -> dict[str, Any]:
        result, picture = next(self._replay, (None, ""))
        if result is None:
            return {"type": "replayed"}
        return {
            "type": "replay",
            "time_s": result.time_s,
            "picture": picture,
            **shown(result, Figures()),
        }

    def close(self, ended: str) -> None:
        """End the recording, if there is one."""
        log, self._log = self._log, None
        if log is None:
            return
        width, height = self._size_px
        about = {"input": "browser", "ended": ended, "width_px": width, "height_px": height}
        log.finish(summary_row(log, self._started_at, **about))

    def give_up(self) -> None:
        """End a recording that can no longer be written."""
        with suppress(FerError):
            self.close("error")

    def _begin(self) -> None:
        # A recording starts from nothing, so that its replay can start from nothing too.
        self._pipeline = Pipeline(self._bundle, self._detector)
        self._live = Live()
        self._clock = time.perf_counter()
        self._index = 0

    def _record(self) -> None:
        self._begin()
        self._started_at = datetime.now(UTC)
        name = f"{self._started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        self._log = SessionLog(
            self._out / name,
            self._bundle,
            self._detector.name,
            self._control.parameters,
            record=True,
        )
        self._recording = self._log.out

    def settings(self) -> dict[str, Any]:
        """Return the current settings; ``folder`` is that of the last or running recording."""
        return {
            "type": "settings",
            "recording": self._log is not None,
            "folder": None if self._recording is None else str(self._recording),
            "warning": warning(self._detector),
            "manual": self._control.manual_label,
            "parameters": self._control.parameters.model_dump(),
        }


def decode_frame(data: bytes) -> tuple[float, np.ndarray]:
    """Decode a frame message: the browser's time in ms, and the picture ``[H, W, 3] uint8 RGB``.

    The picture's size is checked in its header before anything is decoded. Raises ``FerError`` if
    the message is not a time and a JPEG of at most ``MAX_PIXELS``.
    """
    jpeg = data[_SENT.size :]
    if jpeg[:3] != b"\xff\xd8\xff":
        raise _invalid("the frame is not a JPEG")
    (sent,) = _SENT.unpack_from(data)
    if not math.isfinite(sent):
        raise _invalid("the time of the frame is not a finite number")
    header = read_header(jpeg, where=MESSAGE)
    if header.width * header.height > MAX_PIXELS:
        size = f"the frame has {header.width}x{header.height} px"
        most = f"at most {MAX_PIXELS:,} px"
        raise FerError(size, code="frame-too-large", where=MESSAGE, allowed=most)
    if header.coerced:
        raise _invalid(f"the frame is not a plain picture: {header.coerced}")
    image = decode_as_stored(jpeg, where=MESSAGE)
    colour = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return sent, cv2.cvtColor(image, colour)


def _invalid(what: str) -> FerError:
    return FerError(
        what, code="invalid-frame", where=MESSAGE, allowed="8 bytes of time, then a JPEG"
    )


def shown(result: FrameResult, figures: Figures) -> dict[str, Any]:
    """Return what a page shows of one frame; boxes in px of the sent frame, times in ms."""
    main = result.main
    return {
        "index": result.index,
        "width": result.image.shape[1],
        "height": result.image.shape[0],
        "detector": result.detector,
        "faces": [
            {"number": number_of(face, result.faces), **_face(face)} for face in result.faces
        ],
        "main": None if main is None else main.track_id,
        "manual": result.manual_label,
        "frame_ms": round(result.times_ms.frame, 2),
        "times_ms": {
            k: None if v is None else round(v, 2) for k, v in asdict(result.times_ms).items()
        },
        "figures": {k: None if v is None else round(v, 3) for k, v in asdict(figures).items()},
    }


def _face(face: Face) -> dict[str, Any]:
    return {
        "id": face.track_id,
        "box": face.box_xyxy_px,
        "status": face.state.status,
        "label": face.state.label,
        "confidence": round(face.state.confidence or 0.0, 4),
        "raw": face.raw_label,
        "smoothed": [round(value, 4) for value in face.state.smoothed],
    }


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    # Said here: what a machine knows of suffixes may be wrong, as Windows' registry often is.
    kinds = {"demo.js": "text/javascript", "demo.css": "text/css"}
    if name not in kinds:
        return PlainTextResponse("not found\n", 404)
    return FileResponse(STATIC / name, media_type=kinds[name])


def make_app(
    bundle: Bundle,
    new_detector: Callable[[], Detector],
    parameters: Parameters,
    out: Path,
    *,
    token: str,
    port: int,
) -> Starlette:
    """Return the web application. Each browser gets a detector and tracks of its own.

    ``out`` is the parent folder of recordings; nothing is written before a recording is requested.
    """
    viewers = 0

    async def card(request: Request) -> Response:
        try:
            return HTMLResponse(await asyncio.to_thread(card_page, bundle))
        except FerError as error:
            return PlainTextResponse(f"{error}\n", 500)

    async def about(request: Request) -> Response:
        return Response(
            json.dumps({"classes": CLASSES, "model": bundle.card.name, "out": str(out)}),
            media_type="application/json",
        )

    async def stream(socket: WebSocket) -> None:
        nonlocal viewers
        await socket.accept()
        if viewers >= MAX_VIEWERS:
            await socket.close(1013, f"{MAX_VIEWERS} pages are open already: close one")
            return
        viewers += 1
        try:
            detector = await asyncio.to_thread(new_detector)
            viewer = Viewer(bundle, detector, parameters, out)
            await socket.send_json(viewer.settings())
            await serve_viewer(socket, viewer)
        finally:
            viewers -= 1

    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/about", about),
            Route("/card", card),
            Route("/static/{name}", _asset),
            WebSocketRoute("/stream", stream),
        ]
    )
    app.add_middleware(Guard, token=token, port=port, headers=HEADERS)
    return app


async def serve_viewer(socket: WebSocket, viewer: Viewer) -> None:
    """Serve one browser until it disconnects; its recording is closed in every case."""
    inbox = Inbox()
    receiver = asyncio.create_task(_receive(socket, inbox))
    worker = asyncio.create_task(_answer(socket, inbox, viewer))
    try:
        done, _ = await asyncio.wait({receiver, worker}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (receiver, worker):
            task.cancel()
        await asyncio.gather(receiver, worker, return_exceptions=True)
        with suppress(FerError):
            await asyncio.to_thread(viewer.close, "stopped")
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, WebSocketDisconnect | TimeoutError):
            raise error


async def _receive(socket: WebSocket, inbox: Inbox) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("bytes") is not None:
            inbox.put_frame(message["bytes"])
        elif not inbox.put_command(message["text"]):
            await socket.close(1008, "too many commands at once")
            return


async def _answer(socket: WebSocket, inbox: Inbox, viewer: Viewer) -> None:
    while True:
        await inbox.arrived.wait()
        inbox.arrived.clear()
        while inbox.commands:
            text = inbox.commands.popleft()
            await _reply(socket, viewer, viewer.answer, text)
        data, inbox.frame = inbox.frame, None
        if data is not None:
            await _reply(socket, viewer, viewer.frame, data, inbox.dropped)


async def _reply(
    socket: WebSocket, viewer: Viewer, work: Callable[..., str], *message: object
) -> None:
    try:
        text = await asyncio.to_thread(work, *message)
    except FerError as error:
        if isinstance(error, LogError):
            await asyncio.to_thread(viewer.give_up)
        told = {"type": "error", "code": error.code, "what": error.what, "fix": error.fix}
        text = json.dumps(told)
    await asyncio.wait_for(socket.send_text(text), SEND_TIMEOUT_S)


def serve(
    bundle: Bundle,
    new_detector: Callable[[], Detector],
    parameters: Parameters,
    out: Path,
    *,
    port: int,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the page on 127.0.0.1 until interrupted; ``on_ready`` receives its link."""
    listener = open_port(port)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    app = make_app(bundle, new_detector, parameters, out, token=token, port=port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        # A JPEG does not shrink any further.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    link = f"http://127.0.0.1:{port}/?token={token}"
    with listener, suppress(KeyboardInterrupt):
        Server(config, lambda: on_ready(link)).run(sockets=[listener])
