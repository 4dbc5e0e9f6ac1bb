"""The purge log, ``purged.json`` of the artifact root: everything purged is excluded from then on.

It names photos by the hash of their pixels. This module needs only pydantic, because the lineage
asks it for exclusions.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationError

from fer_ml.base.errors import FerError
from fer_ml.base.plain import Plain
from fer_ml.base.reading import Refused, read_file
from fer_ml.base.versions import known_version
from fer_ml.storage.artifact import PURGED_FILE
from fer_ml.storage.logs import logs_of

Kind = Literal["photo", "group", "source", "session"]


class Entry(Plain):
    """One purge. ``photos`` are hashes of decoded pixels; ``sources`` are those they were in."""

    at: str
    kind: Kind
    reason: str
    photos: tuple[str, ...]
    sources: tuple[str, ...]
    files_removed: int
    resting: tuple[str, ...]


class Log(Plain):
    """``purged.json`` of the artifact root: all purges, oldest first."""

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    entries: tuple[Entry, ...] = ()

    def photos(self, source: str | None = None) -> dict[str, str]:
        """Return the time of purge by photo hash, of all photos or of one source's."""
        return {
            photo: entry.at
            for entry in self.entries
            if source is None or source in entry.sources
            for photo in entry.photos
        }

    def source(self, name: str) -> str | None:
        """Return the time when a whole source was purged, or ``None``."""
        times = [e.at for e in self.entries if e.kind == "source" and name in e.sources]
        return times[-1] if times else None


def read_log(home: Path) -> Log:
    """Read the purge logs of an artifact root, of all machines; empty where nothing was purged.

    Raises ``FerError`` when one cannot be read, because then the exclusions are unknown.
    """
    entries = [entry for path in logs_of(home, PURGED_FILE) for entry in read_own(path).entries]
    return Log(entries=tuple(sorted(dict.fromkeys(entries), key=lambda entry: entry.at)))


def read_own(path: Path) -> Log:
    """Read one machine's purge log; empty if it purged nothing."""
    try:
        return Log.model_validate_json(read_file(path), context=path)
    except FileNotFoundError:
        return Log()
    except (OSError, Refused, ValidationError) as error:
        raise FerError(
            "the purge log cannot be read",
            code="invalid-purge-log",
            where=path,
            fix="restore the file from a backup: it lists the photos that must be kept out",
        ) from error
