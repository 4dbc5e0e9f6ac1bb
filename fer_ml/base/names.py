"""Names of files and folders that every file system takes: those of Linux, macOS and Windows.

Windows refuses some characters, a dot or blank at the end, and the names of its devices; there and
on macOS, names that differ only in case are one. An artifact root must be readable on any of them,
so whoever names something that becomes a file is told before it does.

Needs nothing but Python.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fer_ml.base.errors import FerError

#: Characters that no file name holds on every system; as a class of a regular expression.
FORBIDDEN = r'[\x00-\x1f\x7f<>:"/\\|?*]'
#: What file systems allow for one name, in bytes of UTF-8.
MOST_BYTES = 255
#: Windows' devices, in every folder and with any suffix.
DEVICE = r"(?i:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])[ .]*(?:\..*)?"
#: Names that ``safe_name`` may change; it leaves all others as they are.
ODD = rf"{FORBIDDEN}|[. ]$|^{DEVICE}$|[^\x00-\x7f]"
ALLOWED = (
    'a name without <>:"/\\|?* and control characters, that does not end with a dot or a blank, '
    "and is no device of Windows (CON, NUL, COM1, ...)"
)


def name_fault(name: str) -> str | None:
    """Why a file cannot be called ``name`` on some system, or ``None``."""
    if name in ("", ".", ".."):
        return "no name"
    if match := re.search(FORBIDDEN, name):
        return f"{match[0]!r} in it"
    if name[-1] in ". ":
        return "a dot or a blank at its end"
    if re.fullmatch(DEVICE, name):
        return "a device of Windows"
    if len(name.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return f"longer than {MOST_BYTES} bytes"
    return None


def safe_name(name: str) -> str:
    """A name made of somebody else's, that every system takes if it is short enough.

    What is forbidden in it becomes ``_``, and é is written in one way.
    """
    name = re.sub(FORBIDDEN, "_", unicodedata.normalize("NFC", name)).rstrip(". ")
    return f"_{name}" if re.fullmatch(DEVICE, name) else name or "_"


def same_file(name: str) -> str:
    """What is equal for names that some system takes for one: in case, or in how é is written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def clashing(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two different names that some system takes for one, or ``None``."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_file(name), name)
        if other != name:
            return other, name
    return None


def require_names(what: str, names: Iterable[str]) -> None:
    """``ValueError`` when one of the ``names`` of a table cannot be a file's, or two are one."""
    names = list(names)
    for name in names:
        if fault := name_fault(name):
            raise ValueError(f"{what}.{name}: no name for a file: {fault}")
    if pair := clashing(names):
        raise ValueError(f"{what}: {pair[0]} and {pair[1]} differ only in case, and name files")


def require_portable(paths: Iterable[str], where: Path) -> None:
    """``FerError`` when one of these relative ``paths``, with ``/``, is none on every system."""
    paths = list(paths)
    for path in paths:
        for name in path.split("/"):
            if fault := name_fault(name):
                raise FerError(
                    f"the name {path!r} is not valid on every system: {fault}",
                    code="unportable-name",
                    where=where,
                    allowed=ALLOWED,
                    fix="rename it",
                )
    if pair := clashing(paths):
        raise FerError(
            f"{pair[0]!r} and {pair[1]!r} are the same file where case does not count",
            code="clashing-names",
            where=where,
            fix="rename one of them",
        )


def require_new(path: Path) -> Path:
    """``path``, which the user names for something new; ``FerError`` unless every system takes it.

    Only its last part is judged: the folder that it is in is there, or made by somebody else.
    """
    # Neither names anything new; nor does a drive alone.
    if path.name not in ("", "..") and (fault := name_fault(path.name)):
        raise FerError(
            f"the name {path.name!r} is not valid on every system: {fault}",
            code="unportable-name",
            where=path,
            allowed=ALLOWED,
            fix="choose another name",
        )
    return path
