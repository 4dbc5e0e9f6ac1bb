"""Cache files whose names hold a hash, so that a changed or damaged one is never used.

Decoded faces, inspected images and shards of labels have no record of their own, yet they affect
results. So the name of a file ends with a hash of its first part, which says what the file was made
from, and of its bytes. A file that does not match its name is made again.
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
    """Rename the finished file ``partial`` to ``path`` plus a hash; return the new path."""
    named = path.with_stem(f"{path.stem}-{_seal(path.stem, partial)}")
    move(partial, named)
    return named


def kept(path: Path) -> Path | None:
    """Return the file that ``keep`` stored for ``path``, or ``None`` if there is none.

    A stored file that no longer matches the hash in its name is deleted.
    """
    seal = "[0-9a-f]" * DIGITS
    for candidate in sorted(path.parent.glob(f"{escape(path.stem)}-{seal}{escape(path.suffix)}")):
        if is_kept(candidate):
            return candidate
        with suppress(OSError):
            discard(candidate)
    return None


def is_kept(path: Path) -> bool:
    """Whether a file still matches the hash in its name."""
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
