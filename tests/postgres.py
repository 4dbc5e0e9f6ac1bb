"""A PostgreSQL server of the tests' own, from the system's packages."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "a secret of the tests"


@dataclass(frozen=True)
class Server:
    """A private cluster that can be stopped and started."""

    programs: Path
    data: Path
    port: int
    user: str

    @property
    def url(self) -> str:
        return f"postgresql://fer:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self.run("pg_ctl", "-w", "-l", str(self.data / "log"), "-o", options, "start")

    def stop(self) -> None:
        """At once, as when it is killed."""
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.data), *arguments]
        # It refuses root, and keeps what it inherits open: nothing of ours is handed on.
        subprocess.run(command, user=self.user, cwd="/", check=True, stdout=subprocess.DEVNULL)


@contextmanager
def server() -> Iterator[Server]:
    """A fresh cluster on a free port; skips the test where no PostgreSQL is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    if not found and not named:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    if not hasattr(os, "getuid"):
        pytest.skip("PostgreSQL is started here as the packages of Linux lay it out")
    import pwd

    programs = (found[-1] if found else Path(str(named))).resolve().parent
    user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "postgres"
    with tempfile.TemporaryDirectory() as folder:
        data, secret = Path(folder) / "data", Path(folder) / "password"
        secret.write_text(PASSWORD)
        for path in (Path(folder), secret):
            shutil.chown(path, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        held = Server(programs, data, port, user)
        held.run("initdb", "-U", "fer", "-A", "scram-sha-256", "--pwfile", str(secret))
        held.start()
        try:
            yield held
        finally:
            held.stop()
