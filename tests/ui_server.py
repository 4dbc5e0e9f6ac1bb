"""``fer ui`` as a process of its own, for tests that speak to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds until what is asked for has to be there; the machine does other things too.
PATIENCE_S = 300


@dataclass(frozen=True)
class Served:
    """A running ``fer ui``: Dagster's services are children in its session."""

    address: str
    process: "subprocess.Popen[bytes]"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return dict(found["data"])

    def kill(self) -> None:
        """All of it at once, workers too, as a machine that goes down."""
        if hasattr(os, "killpg"):
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            import psutil

            main = psutil.Process(self.process.pid)
            for each in (main, *main.children(recursive=True)):
                each.kill()
        self.process.wait()


@contextmanager
def serving(log: Path, *arguments: str, through: Sequence[str] = ()) -> Iterator[Served]:
    """``fer ui`` with these arguments on a free port, with output in ``log``, until the end.

    ``through`` is a command that it is started by.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fer = [sys.executable, "-c", "from fer_assets.cli import main; main()"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*through, *fer, "ui", "--port", str(port), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Served(f"http://127.0.0.1:{port}", process)
    try:
        _await_answer(served, log)
        yield served
    finally:
        # A polite stop can take Dagster half a minute.
        try:
            served.kill()
        except ProcessLookupError:
            process.wait()


def _await_answer(served: Served, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and served.process.poll() is None:
        try:
            urllib.request.urlopen(f"{served.address}/server_info", timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"fer ui did not answer: {log.read_text()}")
