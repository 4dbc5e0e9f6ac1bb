"""A web server of this machine that keeps what notices post to it."""

import http.server
import json
import threading
from typing import Any

#: Part of its address, as of a real webhook's: it must show nowhere.
SECRET = "s3cret-token"


class Hook:
    """A web server of this machine that keeps what was posted."""

    def __init__(self, status: int = 200) -> None:
        seen: list[dict[str, Any]] = []

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen.append({"path": self.path, **json.loads(body)})
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.seen = seen
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Hook":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{SECRET}"
