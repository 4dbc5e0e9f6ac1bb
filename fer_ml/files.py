"""Files that are there whole or not at all, and the operating system's refusals as clear words.

What is not whole yet lies under a name that says which process writes it (``temporary``), so that
what a killed process left is known from what a live one holds.

Needs nothing but Python, because a packed training writes its files with it too.
"""

import errno
import hashlib
import json
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_ml.errors import FerError


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; ``FerError`` for any other.

    ``OSError`` when the system does not open it. A pipe is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FerError("not a regular file", where=path)
        if status.st_size > limit:
            raise FerError(
                f"the file has {status.st_size:,} bytes", where=path, allowed=f"at most {limit:,}"
            )
        return file.read()


def stays_below(name: str) -> bool:
    """Whether ``name`` is a relative path, with ``/``, that never leaves the folder it is in."""
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def private_folder(path: Path) -> None:
    """Make a folder that nobody else may look into, since faces are personal data.

    One that is there keeps its permissions: it may be shared on purpose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically. NaN and infinity are refused."""
    write_atomic(
        path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old bytes or all of the new ones."""
    partial = temporary(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary(path: Path) -> Path:
    """A name beside ``path`` for what will be ``path`` once it is whole."""
    return path.with_name(f".{owned_name()}")


def owned_name() -> str:
    """A new name for something that is this process's own, and nothing without it."""
    return f"{owner()}-{uuid.uuid4().hex[:8]}"


_OWNED = re.compile(r"\.?(?P<owner>[^/]+@\d+(?:\.\d+)?)-[0-9a-f]{8}")


def orphaned(name: str) -> bool:
    """Whether ``name`` is one of ``owned_name``, of a process of this machine that is gone."""
    found = _OWNED.fullmatch(name)
    return found is not None and gone(found["owner"])


def owner() -> str:
    """This process, as ``host@pid.start``.

    Numbers of processes come again, in a container after each start; ``start`` tells them apart.
    """
    return f"{socket.gethostname()}@{os.getpid()}.{_state(os.getpid())[1]}"


def gone(name: str) -> bool:
    """Whether ``host@pid.start`` was a process of this machine that is there no more."""
    host, _, process = name.rpartition("@")
    pid, _, start = process.partition(".")
    if host != socket.gethostname():
        return False
    if not _alive(pid):
        return True
    state, began = _state(int(pid))
    return state in "ZX" or start not in ("", began)


def ended(pid: int, seen: float) -> bool:
    """Whether the process that had this number at ``seen`` (s since 1970) is there no more."""
    state, ticks = _state(pid)
    if not _alive(str(pid)) or state in "ZX":
        return True
    # The number came again. A second is allowed, since the system counts from its own start.
    return ticks != "0" and _machine_start() + int(ticks) / os.sysconf("SC_CLK_TCK") > seen + 1


def _machine_start() -> float:
    """When this machine started, in s since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime")))


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _state(pid: int) -> tuple[str, str]:
    """A process's state (Z: ended, not yet noticed) and when it began, in the system's ticks.

    ``("?", "0")`` where the system does not tell.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "?", "0"
    # The second field is the program's name in brackets, which may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


AGAIN = "look whether its disk is still there, then start again"
#: Refusals that may be over in a moment, as of a network folder or of a disk that is busy.
PASSING = frozenset({errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENODEV})


@contextmanager
def readable_os_errors(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear message."""
    reasons = {
        errno.ENOSPC: ("no space left on the disk", "free some space, or set FER_HOME elsewhere"),
        errno.EDQUOT: ("disk quota exceeded", "free some space, or set FER_HOME elsewhere"),
        errno.EFBIG: ("file size limit exceeded", "raise the limit (ulimit -f)"),
        errno.EACCES: ("no permission to write", "change the owner, or set FER_HOME elsewhere"),
        errno.EPERM: ("no permission to write", "change the owner, or set FER_HOME elsewhere"),
        errno.EROFS: ("the disk is read-only", "remount it, or set FER_HOME elsewhere"),
        errno.ENOENT: ("a file went away while it was needed", AGAIN),
        errno.EIO: ("the disk cannot be read or written", AGAIN),
        errno.ESTALE: ("a network folder went away", AGAIN),
        errno.ENODEV: ("a disk went away", AGAIN),
        errno.ENOTDIR: ("a file stands where a folder is needed", "move it, or change FER_HOME"),
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        what, fix = reasons[error.errno]
        raise FerError(what, where=error.filename or root, fix=fix) from error
