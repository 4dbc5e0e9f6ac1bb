"""Files that are kept beside the artifacts to save work, and decide a result: called by their hash.

No record speaks of decoded faces, looks at images or shards of labels. So each file's name says
what it was made from, and ends with a hash of that and of its bytes. It is used only while both are
so. Others are made again.
"""

import hashlib
import logging
from contextlib import suppress
from glob import escape
from pathlib import Path

from fer_ml.base.files import discard, move
from fer_ml.base.reading import Refused, sha256_file

log = logging.getLogger(__name__)
DIGITS = 32


def keep(partial: Path, path: Path) -> Path:
    """Give a finished file the name ``path``, with the hash of its bytes; returns that name."""
    named = path.with_stem(f"{path.stem}-{_seal(path.stem, partial)}")
    move(partial, named)
    return named


def kept(path: Path) -> Path | None:
    """What was kept as ``path``, if it is still what it was."""
    for candidate in sorted(path.parent.glob(f"{escape(path.stem)}-*{escape(path.suffix)}")):
        if is_kept(candidate):
            return candidate
        with suppress(OSError):
            discard(candidate)
    return None


def is_kept(path: Path) -> bool:
    """Whether a file holds what its name speaks of."""
    with suppress(OSError, Refused):
        stem, _, seal = path.stem.rpartition("-")
        if seal == _seal(stem, path):
            return True
    log.warning("%s is not what was kept: it is made again", path)
    return False


def _seal(stem: str, path: Path) -> str:
    """A hash of a file's bytes and of what it was made from."""
    text = f"{stem} {sha256_file(path, root=path.parent)}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:DIGITS]
