import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fer_assets.commands.conftest import Fer


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
        [sys.executable, "-c", script, *(["--read-only"] if guest else [])],
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
