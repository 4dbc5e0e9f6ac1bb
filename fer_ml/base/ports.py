"""Network ports for pages that this machine serves to its own user."""

import socket
from collections.abc import Callable

import uvicorn

from fer_ml.base.errors import FerError


def open_port(port: int) -> socket.socket:
    """Open a listening socket on loopback; 0 picks a free port. ``FerError`` if it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(16)
    except (OSError, OverflowError) as error:
        listener.close()
        raise FerError(
            f"port {port} cannot be opened: {error}",
            code="port-unavailable",
            fix="name another --port, or 0 for a free one",
        ) from error
    return listener


class Server(uvicorn.Server):
    """A uvicorn server that calls ``on_ready`` once it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, then call ``on_ready``."""
        await super().startup(sockets=sockets)
        self._on_ready()
