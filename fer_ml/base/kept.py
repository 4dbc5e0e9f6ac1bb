"""Files that are kept beside the artifacts to save work, and decide a result: called by their hash.

No record speaks of decoded faces, looks at images or shards of labels. So each file's name says
what it was made from and what it holds, and it is used only while its bytes are those. Others are
made again.
"""

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
    named = path.with_stem(f"{path.stem}-{sha256_file(partial)[:DIGITS]}")
    move(partial, named)
    return named


def kept(path: Path) -> Path | None:
    """What was kept as ``path``, if it is still what it was."""
    for found in sorted(path.parent.glob(f"{escape(path.stem)}-*{escape(path.suffix)}")):
        if is_kept(found):
            return found
        with suppress(OSError):
            discard(found)
    return None


def is_kept(path: Path) -> bool:
    """Whether the bytes of a file are those that its name speaks of."""
    with suppress(OSError, Refused):
        if sha256_file(path, root=path.parent)[:DIGITS] == path.stem.rpartition("-")[2]:
            return True
    log.warning("%s is not what was kept: it is made again", path)
    return False
