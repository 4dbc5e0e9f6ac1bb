"""``fer ui`` as a process of its own, for tests that speak to it."""

import json
import os
import re
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
    """A running ``fer ui``: Dagster's services are children in its session.

    ``link`` is what it printed, with the token.
    """

    address: str
    link: str
    process: "subprocess.Popen[bytes]"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", "Cookie": self.cookie}
        request = urllib.request.Request(f"{self.address}/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return dict(found["data"])

    @property
    def cookie(self) -> str:
        """What the link gives a browser."""
        port, token = self.address.rpartition(":")[2], self.link.partition("token=")[2]
        return f"fer-{port}={token}"

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
def serving(
    log: Path, *arguments: str, through: Sequence[str] = (), cwd: Path | None = None
) -> Iterator[Served]:
    """``fer ui`` with these arguments on a free port, with output in ``log``, until the end.

    ``through`` is a command that it is started by; in ``cwd`` it opens the project that is there.
    """
    ours: tuple[str, ...] = ("FER_", "DAGSTER_") if cwd else ()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
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
            cwd=cwd,
            env=environment,
        )
    address = f"http://127.0.0.1:{port}"
    served = Served(address, "", process)
    try:
        served = Served(address, _await_answer(served, log), process)
        yield served
    finally:
        # A polite stop can take Dagster half a minute.
        try:
            served.kill()
        except ProcessLookupError:
            process.wait()


def _await_answer(served: Served, log: Path) -> str:
    """The link that was printed, once it leads somewhere."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and served.process.poll() is None:
        told = re.findall(rf"{served.address}/fer/\?token=\S+", log.read_text())
        if told:
            cookies = urllib.request.HTTPCookieProcessor()
            try:
                urllib.request.build_opener(cookies).open(told[-1], timeout=5).close()
                return str(told[-1])
            except OSError:
                pass
        time.sleep(1)
    raise AssertionError(f"fer ui did not answer: {log.read_text()}")
