"""``purged.json`` of the artifact root: what was purged, and is kept out from then on.

It names photos by the hash of their pixels. Nothing here needs more than pydantic, because the
lineage asks it what is kept out.
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
    """``purged.json`` of the artifact root: what was purged, oldest first."""

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    entries: tuple[Entry, ...] = ()

    def photos(self, source: str | None = None) -> dict[str, str]:
        """When each purged photo was purged, by its hash; those of one source."""
        return {
            photo: entry.at
            for entry in self.entries
            if source is None or source in entry.sources
            for photo in entry.photos
        }

    def source(self, name: str) -> str | None:
        """When a whole source was purged."""
        times = [e.at for e in self.entries if e.kind == "source" and name in e.sources]
        return times[-1] if times else None


def read_log(home: Path) -> Log:
    """The purge logs of an artifact root, of all machines; empty where nothing was purged.

    ``FerError`` when one cannot be read: then nobody knows what must be kept out.
    """
    entries = [entry for path in logs_of(home, PURGED_FILE) for entry in read_own(path).entries]
    return Log(entries=tuple(sorted(dict.fromkeys(entries), key=lambda entry: entry.at)))


def read_own(path: Path) -> Log:
    """One machine's purge log; empty where it purged nothing."""
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
