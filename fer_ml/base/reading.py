"""The only functions that open files for reading: regular files, of bounded size.

Every parser (JSON, YAML, csv, npz, images, networks, weights) is given bytes, a handle or a path
from here; a test finds code that opens files elsewhere. A pipe, device or folder raises ``Refused``
at once. Errors of the system (no such file, no permission, a broken disk) stay ``OSError``.

Needs only the standard library, because a packed training and the demo use it too.
"""

import errno
import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError

#: No document that is read whole (JSON, YAML, a text) needs more bytes.
DOCUMENT = 64 << 20


class Refused(FerError):
    """The path is refused: it is not a regular file, it is too large, or it leaves ``root``."""


def flags(*names: str) -> int:
    """Combine the named flags for ``os.open``, skipping those that this system lacks."""
    return sum(getattr(os, name, 0) for name in names)


#: Bytes as they are (Windows); no waiting for a pipe's writer, and no terminal (POSIX).
_READ = os.O_RDONLY | flags("O_BINARY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC")
#: How gzip, zstd and zlib begin, for polars.
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")
_NO_LINK = flags("O_NOFOLLOW")
#: How the system says that there is something, and no file: a socket, links in a circle, a name
#: that nothing can have.
_NO_FILE = frozenset({errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG})


def open_file(
    path: Path | str, *, limit: int | None = None, root: Path | None = None
) -> io.BufferedReader:
    """Open a regular file of at most ``limit`` bytes for reading; ``Refused`` for any other.

    Links are followed; with ``root`` only to files below that folder.
    """
    descriptor = _opened(path, root)
    try:
        _judge(os.fstat(descriptor), path, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_text(path: Path | str, *, root: Path | None = None) -> io.TextIOWrapper:
    """Open a UTF-8 text with its line ends unchanged, as ``csv`` expects it."""
    return io.TextIOWrapper(open_file(path, root=root), encoding="utf-8", newline="")


def regular(path: Path | str, *, limit: int | None = None, root: Path | None = None) -> Path:
    """Return ``path`` for a library that opens files itself, after the checks of ``open_file``."""
    open_file(path, limit=limit, root=root).close()
    return Path(path)


def as_text(path: Path | str) -> Path:
    """Return ``path`` for polars; ``Refused`` if it is compressed, as polars would unpack it."""
    with open_file(path) as file:
        if file.read(4).startswith(_COMPRESSED):
            raise Refused(
                "the table is compressed",
                code="compressed-table",
                where=path,
                allowed="a plain text",
                fix="unpack it",
            )
    return Path(path)


def read_file(path: Path | str, limit: int = DOCUMENT, *, root: Path | None = None) -> bytes:
    """Read all bytes of a regular file of at most ``limit`` bytes."""
    with open_file(path, limit=limit, root=root) as file:
        # Python takes as much memory as is asked for, whatever the file has.
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
        while size < len(data) <= limit and (more := file.read(1 << 20)):
            data += more
    if len(data) > limit:  # It grew, or is one of those whose size the system does not know.
        raise _too_large(len(data), path, limit)
    return data


def read_text(path: Path | str, limit: int = DOCUMENT, *, root: Path | None = None) -> str:
    """Read the text of a UTF-8 file of at most ``limit`` bytes."""
    try:
        return read_file(path, limit, root=root).decode()
    except UnicodeDecodeError as error:
        raise FerError(
            f"not UTF-8: {error}", code="not-utf8", where=path, fix="save it as UTF-8"
        ) from error


def read_json(path: Path | str, limit: int = DOCUMENT, *, root: Path | None = None) -> Any:
    """Read and parse a JSON file of at most ``limit`` bytes; see ``parse_json``."""
    return parse_json(read_file(path, limit, root=root), path)


def parse_json(data: bytes | str, where: object) -> Any:
    """Parse JSON; ``FerError`` if it is invalid, nested too deep, or has an overlong number."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FerError(f"not JSON: {str(error)[:200]}", code="invalid-json", where=where) from error


def sha256_file(path: Path | str, *, root: Path | None = None) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with open_file(path, root=root) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Folder:
    """Read many files of one folder, with the checks of ``open_file`` at less cost."""

    def __init__(self, root: Path | str) -> None:
        self.root = os.path.realpath(root)
        self._inside: dict[str, bool] = {}

    def read(self, name: str, limit: int) -> tuple[os.stat_result, bytes]:
        """Return ``(os.stat result, bytes)`` of the file ``name`` (relative, with ``/``)."""
        path = f"{self.root}/{name}"
        folder = path.rpartition("/")[0]
        if folder not in self._inside:
            self._inside[folder] = _is_below(os.path.realpath(folder), self.root)
        if not self._inside[folder]:
            raise _leads_out(path)
        descriptor = self._opened(path)
        try:
            status = os.fstat(descriptor)
            _judge(status, path, limit)
            data = os.read(descriptor, status.st_size)
            while len(data) < status.st_size and (more := os.read(descriptor, status.st_size)):
                data += more
            return status, data
        finally:
            os.close(descriptor)

    def _opened(self, path: str) -> int:
        # Windows cannot be told to follow no link.
        if not _NO_LINK and stat.S_ISLNK(os.lstat(path).st_mode):
            return _opened(path, Path(self.root))
        try:
            return os.open(path, _READ | _NO_LINK)
        except OSError:  # A link, or whatever is found out once more.
            return _opened(path, Path(self.root))


def stays_inside(path: Path | str, root: Path) -> bool:
    """Whether ``path``, with links resolved, is ``root`` or lies below it."""
    return _is_below(os.path.realpath(path), os.path.realpath(root))


def _opened(path: Path | str, root: Path | None) -> int:
    try:
        if root is None:
            return os.open(path, _READ)
        real = os.path.realpath(path, strict=True)
        if not _is_below(real, os.path.realpath(root)):
            raise _leads_out(path)
        return os.open(real, _READ | _NO_LINK)
    except PermissionError as error:
        if Path(path).is_dir():  # So Windows says that it is a folder.
            raise _not_regular(path) from error
        raise
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _not_regular(path) from error
        raise
    except ValueError as error:  # A NUL, or half a character.
        raise _not_regular(ascii(str(path))) from error


def _judge(status: os.stat_result, path: Path | str, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    if limit is not None and status.st_size > limit:
        raise _too_large(status.st_size, path, limit)


def _is_below(path: str, root: str) -> bool:
    return Path(path).is_relative_to(root)


def _not_regular(path: Path | str) -> Refused:
    return Refused("not a regular file", code="not-regular-file", where=path)


def _too_large(size: int, path: Path | str, limit: int) -> Refused:
    return Refused(
        f"the file has {size:,} bytes",
        code="file-too-large",
        where=path,
        allowed=f"at most {limit:,}",
    )


def _leads_out(path: Path | str) -> Refused:
    return Refused("a link leads out of the folder", code="link-leads-out", where=path)
