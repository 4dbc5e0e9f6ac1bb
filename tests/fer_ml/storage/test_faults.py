"""Real refusals of the operating system: one clear error, and what was there before stays whole.

Those that need a mount of their own, or another user, run where this process may make them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_ml.storage.store import Store
from tests.machine import POSIX
from tests.refusals import refused

#: Makes an artifact with a large file; prints the error as ``fer`` does.
SCRIPT = """
import os, sys
from pathlib import Path
from fer_ml.base.errors import FerError
from fer_ml.storage.store import Store
store = Store(Path(sys.argv[1]), "test")
if len(sys.argv) > 2:
    os.setgroups([])
    os.setuid(int(sys.argv[2]))
try:
    with store.begin("thing") as run:
        run.write_text("a.txt", "x" * 4_000_000)
except FerError as error:
    sys.exit(f"error: {error}")
"""


def make(store: Store, text: str) -> None:
    with store.begin("thing") as run:
        run.write_text("a.txt", text)


def mounted(tmp_path: Path, mount: str, *, root: Path) -> "subprocess.CompletedProcess[str]":
    """Run ``SCRIPT`` in a mount namespace of its own, after the shell command ``mount``."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = f"set -e; {mount}; exec {sys.executable} {script} {root}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts of its own here: {done.stderr.strip()}")
    return done


needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare command")


@needs_unshare
@pytest.mark.fault(
    "the disk is read-only, or permissions are removed",
    "One clear error; what was current stays.",
)
def test_a_read_only_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", "test")
    make(store, "before")
    root = store.root
    bind = f"mount --bind {root} {root}; mount -o remount,ro,bind {root}"
    done = mounted(tmp_path, bind, root=root)
    assert done.returncode == 1
    assert "error: the disk is read-only" in done.stderr
    assert "fix: remount it" in done.stderr
    assert store.verified("thing").file("a.txt").read_text() == "before"
    assert list(store.partial.iterdir()) == []


@needs_unshare
@pytest.mark.fault("the disk is full", "One clear error; what was current stays.")
def test_a_full_disk(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir()
    done = mounted(tmp_path, f"mount -t tmpfs -o size=1m none {root}", root=root)
    assert done.returncode == 1
    assert "error: no space left on the disk" in done.stderr


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become somebody else"
)
@pytest.mark.fault("the disk is read-only, or permissions are removed")
def test_permissions_that_were_taken_away(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", "test")
    make(store, "before")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store.root), "65534"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 1
    assert "error: no permission to write" in done.stderr
    assert store.verified("thing").file("a.txt").read_text() == "before"


@pytest.mark.fault(
    "a mount vanishes while it is read",
    "One clear error names the file. Dagster retries once.",
)
def test_a_folder_that_goes_away_while_it_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", "test")
    make(store, "before")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "1.png").write_bytes(b"x")
    names = list(raw.iterdir())
    shutil.rmtree(raw)
    with refused("file-vanished", where=names[0]) as caught, store.begin("thing") as run:
        run.path("1.png").write_bytes(names[0].read_bytes())
    assert caught.value.fix is not None
    assert store.verified("thing").file("a.txt").read_text() == "before"
    assert list(store.partial.iterdir()) == []


@POSIX
@pytest.mark.threat(
    "other users of this machine look at faces",
    "Folders with faces are created for their user alone (0700; on Windows from Python 3.12.4 "
    "on). Existing folders keep their permissions; `fer doctor` reports open ones.",
)
def test_folders_that_hold_faces_are_this_users_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        store = Store(tmp_path / "outputs" / "mine", "mine")
        make(store, "x")
        assert store.root.stat().st_mode & 0o777 == 0o700
        store.root.chmod(0o750)
        make(store, "y")
        assert store.root.stat().st_mode & 0o777 == 0o750, "what was opened on purpose stays so"
    finally:
        os.umask(old)
