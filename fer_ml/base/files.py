"""Atomic writing of files, and clear messages for errors of the operating system.

An unfinished file has a name that says which process writes it (``temporary``). So the leftovers of
a killed process can be told from the files of a running one.

Needs only the standard library, because a packed training writes its files with it too.
"""

import errno
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.processes import gone, owner

#: Windows refuses to rename, replace or delete what anybody has open or mapped, and the virus
#: scanner may: it is tried again for so many seconds.
PATIENCE = 0.0 if hasattr(os, "fork") else 5.0


def stays_below(name: str) -> bool:
    """Whether ``name`` is a relative path, with ``/``, that stays inside its base folder.

    The answer is the same on every system: a backslash and ``:`` are refused, since both lead
    elsewhere on Windows.
    """
    return not set("\0\\:") & set(name) and not {"", ".", ".."} & set(name.split("/"))


def private_folder(path: Path) -> None:
    """Create a folder that only its owner can read, since faces are personal data.

    An existing folder keeps its permissions: it may be shared on purpose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically. NaN and infinity are refused."""
    write_atomic(
        path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old bytes or all of the new ones.

    ``FerError`` for a device or a pipe, which a rename would replace by a file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FerError(
            "not a regular file",
            code="not-regular-file",
            where=path,
            fix="name a file, or a new one",
        )
    partial = temporary(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move(partial, path)
        sync(path.parent)
    except BaseException:
        discard(partial)
        raise


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's list of names, to disk (fsync).

    Windows cannot open folders, so there the file system alone decides when names are stored.
    """
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    # Windows writes back only what may be written to.
    descriptor = os.open(path, os.O_RDONLY if hasattr(os, "O_DIRECTORY") else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; an existing file of that name is replaced."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.02)


def linked(source: Path | str, target: Path | str) -> bool:
    """Create the hard link ``target`` to ``source``; ``False`` if the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def discard(path: Path) -> None:
    """Delete a file that this process wrote and no longer needs.

    A file that Windows cannot delete yet, since it is open or mapped, is left: ``orphaned``
    recognises its ``temporary`` name once this process has ended.
    """
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if not PATIENCE:
            raise


def temporary(path: Path) -> Path:
    """Return a name in the folder of ``path``, to write under until the file is complete."""
    return path.with_name(f".{owned_name()}")


def owned_name() -> str:
    """Return a new name for a file or folder that is worthless once this process has ended."""
    return f"{owner()}-{uuid.uuid4().hex[:8]}"


_OWNED = re.compile(r"\.?(?P<owner>[^/]+@\d+(?:\.\d+)?)-[0-9a-f]{8}")


def orphaned(name: str) -> bool:
    """Whether ``owned_name`` made ``name`` in a process of this machine that has ended."""
    match = _OWNED.fullmatch(name)
    return match is not None and gone(match["owner"])


AGAIN = "look whether its disk is still there, then start again"
#: Refusals that may be over in a moment, as of a network folder or of a disk that is busy.
PASSING = frozenset({errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENODEV})


@contextmanager
def readable_os_errors(root: Path) -> Iterator[None]:
    """Raise an ``OSError`` of the block as a ``FerError`` with a clear message."""
    elsewhere = "free some space, or set FER_HOME elsewhere"
    owner = "change the owner, or set FER_HOME elsewhere"
    folder = (
        "file-in-the-way",
        "a file stands where a folder is needed",
        "move it, or change FER_HOME",
    )
    reasons = {
        errno.ENOSPC: ("disk-full", "no space left on the disk", elsewhere),
        errno.EDQUOT: ("quota-exceeded", "disk quota exceeded", elsewhere),
        errno.EFBIG: ("file-size-limit", "file size limit exceeded", "raise the limit (ulimit -f)"),
        errno.EACCES: ("no-write-permission", "no permission to write", owner),
        errno.EPERM: ("no-write-permission", "no permission to write", owner),
        errno.EROFS: (
            "read-only-disk",
            "the disk is read-only",
            "remount it, or set FER_HOME elsewhere",
        ),
        errno.ENOENT: ("file-vanished", "a file went away while it was needed", AGAIN),
        errno.EIO: ("disk-failure", "the disk cannot be read or written", AGAIN),
        errno.ESTALE: ("disk-vanished", "a network folder went away", AGAIN),
        errno.ENODEV: ("disk-vanished", "a disk went away", AGAIN),
        errno.ENOTDIR: folder,
        errno.EEXIST: folder,
        errno.ENAMETOOLONG: (
            "name-too-long",
            "a name is too long for the disk",
            "take a shorter one",
        ),
        errno.ELOOP: ("link-cycle", "links lead in a circle", "remove one of them"),
    }
    in_use = (
        "file-in-use",
        "another program has it open",
        "close that program, then start again",
    )
    try:
        yield
    except OSError as error:
        # 32, 33, 1224: Windows' refusals of what is open, locked or mapped. They come as EACCES.
        used = getattr(error, "winerror", None) in (32, 33, 1224)
        # Polars says the number in its text alone.
        told = re.search(r"\(os error (\d+)\)", str(error)) if error.errno is None else None
        number = int(told[1]) if told else error.errno
        if not used and number not in reasons:
            raise
        code, what, fix = in_use if used else reasons[number or 0]
        raise FerError(what, code=code, where=error.filename or root, fix=fix) from error
