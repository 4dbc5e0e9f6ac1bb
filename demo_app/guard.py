"""The door of the demo's web page: this machine's own pages alone, with their token."""

import secrets

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Guard:
    """Lets in only pages of this very server, and only with its token.

    Every request must name a loopback host (so that no other name can be pointed here), all but
    the script and the style need the token, and the stream needs the page's own origin.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        fault = self._fault(scope)
        if fault is None:
            await self._app(scope, receive, self._with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": fault})
        else:
            response = PlainTextResponse(f"refused: {fault}\n", 403)
            await response(scope, receive, self._with_headers(send))

    def _fault(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host not in self._hosts:
            return "the host is not this machine's own"
        if scope["type"] == "websocket" and headers.get("origin") != f"http://{host}":
            return "the origin is not this page"
        given = QueryParams(scope["query_string"]).get("token", "").encode()
        open_to_all = scope["path"].startswith("/static/")
        if not open_to_all and not secrets.compare_digest(given, self._token):
            return "the token is missing or wrong: open the link that fer demo web printed"
        return None

    def _with_headers(self, send: Send) -> Send:
        policy = "; ".join(
            (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:",
                f"connect-src 'self' {' '.join(f'ws://{host}' for host in sorted(self._hosts))}",
                "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            )
        )
        extra = [
            (b"content-security-policy", policy.encode()),
            (b"cache-control", b"no-store"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
            (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        return wrapped
