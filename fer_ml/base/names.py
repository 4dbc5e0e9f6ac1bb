"""Portable names: those of files and folders that Linux, macOS and Windows all accept.

Windows refuses some characters, a dot or blank at the end, and the names of its devices; there and
on macOS, names that differ only in case are one. An artifact root must be readable on each of them,
so a name that becomes a file is checked before the file is made.

Needs only the standard library.
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
    """Return why ``name`` is no portable file name, or ``None`` if it is one."""
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
    """Turn any text into a portable file name; its length alone is not limited.

    A forbidden character becomes ``_``, and accents are written in one way (Unicode NFC).
    """
    name = re.sub(FORBIDDEN, "_", unicodedata.normalize("NFC", name)).rstrip(". ")
    return f"_{name}" if re.fullmatch(DEVICE, name) else name or "_"


def same_file(name: str) -> str:
    """Return a key that is equal for names that differ only in case or in how é is encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def clashing(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two different names that some system treats as the same, or ``None``."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_file(name), name)
        if other != name:
            return other, name
    return None


def require_names(what: str, names: Iterable[str]) -> None:
    """Raise ``ValueError`` if one of a table's ``names`` is not portable, or if two clash."""
    names = list(names)
    for name in names:
        if fault := name_fault(name):
            raise ValueError(f"{what}.{name}: no name for a file: {fault}")
    if pair := clashing(names):
        raise ValueError(f"{what}: {pair[0]} and {pair[1]} differ only in case, and name files")


def require_portable(paths: Iterable[str], where: Path) -> None:
    """Raise ``FerError`` if one of these relative ``paths``, with ``/``, is not portable."""
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
    """Return ``path``, chosen by the user for something new; ``FerError`` if it is not portable.

    Only its last part is checked.
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
