"""Who is let in to the pages that this machine serves to itself."""

import threading
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPConnection

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fer_ml.base.guard import Guard
from fer_ml.base.ports import open_port

TOKEN, PROXY = "t0ken", "fer.example.org"


async def told(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.query)


async def stream(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("in")
    await socket.receive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    app = Starlette(
        routes=[
            WebSocketRoute("/stream", stream),
            Route("/{path:path}", told, methods=["GET", "POST", "PUT", "DELETE"]),
        ]
    )
    with open_port(0) as listener:
        port = int(listener.getsockname()[1])
        guarded = Guard(app, token=TOKEN, port=port, names={PROXY})
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield port
        server.should_exit = True
        thread.join(10)


def ask(port: int, method: str, path: str, *headers: tuple[str, str]) -> tuple[int, str, Message]:
    """An answer to exactly these headers; no redirect is followed."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def cookie(port: int, token: str = TOKEN) -> tuple[str, str]:
    return ("Cookie", f"other=1; fer-{port}={token}")


def host(port: int, name: str = "127.0.0.1") -> str:
    return f"{name}:{port}"


def test_the_link_gives_a_cookie_and_leaves_the_address(port: int) -> None:
    here = ("Host", host(port))
    status, _, headers = ask(port, "GET", f"/a?x=1%202&token={TOKEN}", here)
    assert (status, headers["location"]) == (303, "/a?x=1+2")
    kept = headers["set-cookie"]
    assert kept.startswith(f"fer-{port}={TOKEN};")
    assert "HttpOnly" in kept and "SameSite=lax" in kept and "Domain" not in kept
    status, text, headers = ask(port, "GET", headers["location"] or "/a?x=1+2", here, cookie(port))
    assert status == 200 and TOKEN not in text
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_way_on_stays_on_this_host(port: int) -> None:
    for path in ("//evil.example/a", "///evil.example", "/%2f/evil.example"):
        status, _, headers = ask(port, "GET", f"{path}?token={TOKEN}", ("Host", host(port)))
        assert status == 303
        location = headers["location"]
        assert location and location.startswith("/") and not location.startswith("//")


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "tök"])
def test_another_token_is_refused(port: int, token: str) -> None:
    here = ("Host", host(port))
    sent = token.encode().decode("latin-1")
    for headers in ((here,), (here, cookie(port, sent)), (here, ("Cookie", f"fer={TOKEN}"))):
        status, text, _ = ask(port, "GET", "/", *headers)
        assert status == 403 and "token" in text
    assert ask(port, "GET", "/?token=no", here, cookie(port))[0] == 403


@pytest.mark.threat(
    "strangers, or a foreign page in the user's browser, use the UI or the demo",
    "The guard: loopback, Host, Origin and a token; GraphQL queries by POST only; `fer ui "
    "--read-only` for guests.",
)
def test_only_this_machine_and_named_proxies_are_its_host(port: int) -> None:
    good = ["127.0.0.1", "localhost", "[::1]", "LOCALHOST", PROXY, PROXY.upper()]
    for name in (*good, *(host(port, name) for name in good), "localhost:9999"):
        assert ask(port, "GET", "/", ("Host", name), cookie(port))[0] == 200, name
    for name in (
        *("evil.example", host(port, "evil.example"), host(port, "127.0.0.1.evil.example")),
        *(host(port, "localhost.evil.example"), "localhost@evil.example", "evil.example#localhost"),
        *(f"x.{PROXY}", f"{PROXY}.evil.example", "127.0.0.2", "0.0.0.0", "localhost.", ""),
        *("[::1", "localhost:x", "localhost:1:2", "localhost evil.example"),
    ):
        assert ask(port, "GET", "/", ("Host", name), cookie(port))[0] in (400, 403), name
    assert ask(port, "GET", "/", cookie(port))[0] in (400, 403)
    twice = (("Host", host(port)), ("Host", "evil.example"))
    assert ask(port, "GET", "/", *twice, cookie(port))[0] in (400, 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.threat("strangers, or a foreign page in the user's browser, use the UI or the demo")
def test_what_may_change_something_comes_from_these_pages(port: int, method: str) -> None:
    here, mine = ("Host", host(port)), cookie(port)
    assert ask(port, method, "/", here, mine)[0] == 200, "a program says no origin"
    assert ask(port, method, "/", here, mine, ("Origin", f"http://{host(port)}"))[0] == 200
    proxied = (("Host", PROXY), mine, ("Origin", f"https://{PROXY}"))
    assert ask(port, method, "/", *proxied)[0] == 200
    for origin in (
        *("null", "", "http://evil.example", f"http://{host(port)}.evil.example"),
        *(f"http://{host(port, 'localhost')}", f"http://{host(port + 1)}", "http://127.0.0.1"),
        *(f"ftp://{host(port)}", host(port), f"https://{PROXY}"),
    ):
        status, text, _ = ask(port, method, "/", here, mine, ("Origin", origin))
        assert status == 403 and "origin" in text, origin
    assert ask(port, method, "/", here)[0] == 403
    # Two would leave it to the application which one it reads.
    both = (("Origin", f"http://{host(port)}"), ("Origin", "http://evil.example"))
    assert ask(port, method, "/", here, mine, *both)[0] == 403


def test_a_stream_needs_the_origin_of_the_page(port: int) -> None:
    url, mine = f"ws://{host(port)}/stream", {"Cookie": cookie(port)[1]}
    with connect(url, origin=f"http://{host(port)}", additional_headers=mine) as opened:  # type: ignore[arg-type]
        assert opened.recv(5) == "in"
    for origin, headers in (
        (None, mine),
        ("null", mine),
        ("http://evil.example", mine),
        (f"http://{host(port)}", {}),
        (f"http://{host(port)}", {"Cookie": cookie(port, "x")[1]}),
        (f"http://{host(port)}", {**mine, "Host": "evil.example"}),
    ):
        with (
            pytest.raises(InvalidStatus) as caught,
            connect(url, origin=origin, additional_headers=headers),  # type: ignore[arg-type]
        ):
            pass
        assert caught.value.response.status_code in (400, 403)
