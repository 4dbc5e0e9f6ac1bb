"""What a test needs of the machine that not every system has: marks, and ways to skip."""

import os
import tempfile
from pathlib import Path

import pytest

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals, limits or users of POSIX")
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
NUMBERED = pytest.mark.skipif(
    os.stat(__file__).st_ino == 0,  # noqa: PTH116 - as the project asks
    reason="the file system numbers no files",
)


def _tells_case() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").touch()
        try:
            (Path(folder) / "A").touch()
        except OSError:
            return False
        return len(list(Path(folder).iterdir())) == 2


CASE = pytest.mark.skipif(not _tells_case(), reason="the file system ignores case")


def _has_links() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to("nowhere")
        except OSError:
            return False
    return True


#: Whether this user may make symbolic links. A test that makes one without asking is skipped.
LINKS = _has_links()


def pipe(path: Path) -> None:
    """Make a named pipe, or skip the test."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(path)
