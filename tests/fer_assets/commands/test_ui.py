import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fer_assets.commands.conftest import Fer, refused


@pytest.mark.parametrize(("guest", "hidden"), [(False, ""), (True, ""), (False, "del os.fork")])
def test_the_ui_listens_on_loopback_and_can_be_read_only(
    fer: Fer, tmp_path: Path, guest: bool, hidden: str
) -> None:
    """What it would start, becoming that or (on Windows) waiting; ``test_ui.py`` starts it."""
    script = (
        f"import os, subprocess, sys\n{hidden}\n"
        "os.execv = lambda program, command: sys.exit(print('becomes', *command[1:]))\n"
        "subprocess.call = lambda command: print('waits', *command[1:]) or 0\n"
        "sys.argv = ['fer', 'ui', *sys.argv[1:]]\n"
        "from fer_assets.cli import main; main()"
    )
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", script, "--port", "0", *(["--read-only"] if guest else [])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=keep,
        check=True,
    )
    command = done.stdout.splitlines()[-1].split()
    assert command[command.index("-h") + 1] == "127.0.0.1"
    assert command[2] == ("dagster_webserver" if guest else "dagster")
    assert command[0] == ("waits" if hidden or not hasattr(os, "fork") else "becomes")
    assert ("--read-only" in command) == guest


@pytest.mark.parametrize("port", [None, 70000])
def test_a_port_that_cannot_be_opened_is_told_before_anything_starts(
    fer: Fer, port: int | None
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = fer("ui", "--port", str(taken.getsockname()[1] if port is None else port))
    refused(done, "--port")
    assert done.returncode == 1
