"""Files that are there whole or not at all, and the operating system's refusals as clear words.

Needs nothing but Python, because a packed training writes its files with it too.
"""

import errno
import hashlib
import json
import os
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


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically. NaN and infinity are refused."""
    write_atomic(
        path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old bytes or all of the new ones."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        errno.ENOTDIR: ("a file stands where a folder is needed", "move it, or change FER_HOME"),
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        what, fix = reasons[error.errno]
        raise FerError(what, where=error.filename or root, fix=fix) from error
