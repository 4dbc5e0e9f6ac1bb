"""Access control for the local web pages of this machine: the demo and Dagster's UI."""

import re
import secrets
from collections.abc import Sequence, Set

from starlette.datastructures import URL, Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
#: Methods that change nothing, so that a browser may come from anywhere with them.
READING = frozenset({"GET", "HEAD"})
#: No page may frame, embed or sniff what is served here, nor learn its address.
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)
_HOST = re.compile(r"(?P<name>\[[0-9a-f:]*\]|[a-z0-9.-]+)(:\d{1,5})?", re.ASCII)


class Guard:
    """ASGI middleware that admits only requests of this server's own pages, with its token.

    ``Host`` must name this machine, or one of ``names``, under which a proxy shows the pages: that
    defeats DNS rebinding. Its port may differ, as behind a tunnel. A request that may change
    something, and every WebSocket, must come from these pages (``Origin``). The token comes once,
    with the printed link, and from then on as a cookie for ``port``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        port: int,
        names: Set[str] = frozenset(),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._app = app
        self._token = token
        self._cookie = f"fer-{port}"  # Cookies are shared by all ports of a host.
        self._names = LOOPBACK | {name.lower() for name in names}
        self._headers = (*HEADERS, *headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request on to the application; answer any other one with a refusal."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        fault = self._fault(scope)
        if fault is None and scope.get("method") in READING and self._given(scope) is not None:
            await self._without_token(scope)(scope, receive, self._with_headers(send))
        elif fault is None:
            await self._app(scope, receive, self._with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": fault})
        else:
            response = PlainTextResponse(f"refused: {fault}\n", 403)
            await response(scope, receive, self._with_headers(send))

    def _fault(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        named = _HOST.fullmatch(host)
        if named is None or named["name"] not in self._names:
            return "the host is not this machine's own"
        ours = origins in ([f"http://{host}"], [f"https://{host}"])
        # Browsers say where from, and programs that are none need not.
        from_browser = bool(origins) or scope["type"] == "websocket"
        if from_browser and not ours and scope.get("method") not in READING:
            return "the origin is not this page"
        given = self._given(scope) or HTTPConnection(scope).cookies.get(self._cookie, "")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "the token is missing or wrong: open the link that fer printed"
        return None

    @staticmethod
    def _given(scope: Scope) -> str | None:
        return HTTPConnection(scope).query_params.get("token")

    def _without_token(self, scope: Scope) -> Response:
        """Keep the token as a cookie, and out of the address and its history."""
        url = URL(scope=scope).remove_query_params("token")
        path = "/" + url.path.lstrip("/")  # Two slashes would lead to another host.
        response = RedirectResponse(f"{path}?{url.query}" if url.query else path, 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return response

    def _with_headers(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        return wrapped
