"""Retention of recorded frames of the demo: ``keep_recordings_days`` in ``fer.toml``."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

#: Below the artifact root: where ``fer demo`` keeps sessions, and where each has its frames.
SESSIONS, FRAMES = "demo", "frames"


def links_below(folder: Path) -> list[Path]:
    """Return links at or below a folder: deleting them would keep the files they lead to."""
    inside = folder.rglob("*") if folder.is_dir() and not folder.is_symlink() else ()
    return [path for path in (folder, *inside) if path.is_symlink()]


@dataclass(frozen=True)
class Recording:
    """The recorded frames of one session, and the time when the last of them was written."""

    frames: Path
    ended_at: datetime

    def age(self, now: datetime) -> timedelta:
        """Return the time since the last frame was written."""
        return now - self.ended_at


def recordings(home: Path) -> Iterator[Recording]:
    """Yield recorded sessions below an artifact root, sorted by name.

    The time is that of the folder's last new file: copying or restoring frames renews it.
    """
    for frames in sorted((home / SESSIONS).glob(f"*/{FRAMES}")):
        if frames.is_dir():
            yield Recording(frames, datetime.fromtimestamp(frames.stat().st_mtime, UTC))


def delete_expired(home: Path, days: int | None, now: datetime | None = None) -> list[Recording]:
    """Delete frames older than ``days``; ``None`` keeps all. The logs of sessions stay.

    Returns the deleted recordings. Frames behind a link stay too, with a warning, since its target
    may belong to somebody else.
    """
    now = now or datetime.now(UTC)
    expired = [
        recording
        for recording in recordings(home)
        if days is not None and recording.age(now) > timedelta(days=days)
    ]
    deleted = []
    for recording in expired:
        if links := links_below(recording.frames):
            log.warning(
                "the recorded frames of session %s are due and were not deleted: a link leads to "
                "%s; delete that and the link",
                recording.frames.parent.name,
                links[0].resolve(),
            )
            continue
        shutil.rmtree(recording.frames)
        deleted.append(recording)
        log.info(
            "deleted the recorded frames of session %s: %d days old, keep_recordings_days is %d",
            recording.frames.parent.name,
            recording.age(now).days,
            days,
        )
    return deleted
