"""Logs that programs read: one JSON object a line, with the run, asset and partition it belongs to.

Every process of ``fer`` and of Dagster's code location appends to ``<FER_HOME>/logs/<day>.jsonl``;
with ``FER_LOG=json`` the same lines go to standard error too. ``event`` is a line's text before
anything was filled into it, so it holds no data: a bundle for a maintainer has no other text.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_ml.base.files import private_folder
from fer_ml.base.reading import flags
from fer_ml.base.settings import settings
from fer_ml.base.visible import visible_lines

#: Below the artifact root.
LOG_FOLDER = "logs"
#: Days that a file is kept.
KEEP_DAYS = 30
PACKAGES = ("fer_ml", "fer_assets", "demo_app")

_WHERE: ContextVar[dict[str, str | None]] = ContextVar("fer_log", default={})  # noqa: B039


@contextmanager
def belongs_to(**where: str | None) -> Iterator[None]:
    """Lines that are logged inside carry these names: ``run``, ``asset``, ``partition``, ..."""
    token = _WHERE.set({**_WHERE.get(), **where})
    try:
        yield
    finally:
        _WHERE.reset(token)


class TextLine(logging.Formatter):
    """A record as people read it, without characters that steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, and the traceback below it."""
        return visible_lines(super().format(record))


class JsonLine(logging.Formatter):
    """A record as one line of JSON, without NaN or line breaks in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, with the names given by ``belongs_to``."""
        line: dict[str, Any] = {
            "schema_version": 1,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": str(record.msg),
            "message": record.getMessage(),
            "process": record.process,
            **_WHERE.get(),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = type(error).__name__
            line["frames"] = _frames(error)
            line["traceback"] = "".join(traceback.format_exception(error))
        return json.dumps(line)  # In ASCII: no line steers the terminal that shows it.


def _frames(error: BaseException) -> list[str]:
    """Where an error arose, by module, line and function: nothing of what it says."""
    frames = traceback.walk_tb(error.__traceback__)
    return [
        f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}" for frame, line in frames
    ]


class DailyFile(logging.Handler):
    """Appends each line at once to the day's file, so that several processes may share it.

    Files older than ``KEEP_DAYS`` go when a new one begins. A disk that refuses a line stops
    nothing: that is said once, on standard error.
    """

    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record to the file of the day, which is of the day in UTC."""
        try:
            folder = settings().home / LOG_FOLDER
            path = folder / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
            if not path.exists():
                private_folder(folder)
                for old in log_files(folder)[:-KEEP_DAYS]:
                    old.unlink(missing_ok=True)
            data = (self.format(record) + "\n").encode(errors="backslashreplace")
            with _alone(path):
                # O_BINARY: Windows would write CR LF.
                how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags("O_BINARY")
                descriptor = os.open(path, how, 0o600)
                try:
                    os.write(descriptor, data)
                finally:
                    os.close(descriptor)
        except OSError as error:
            if not self._told and sys.stderr is not None:
                with suppress(OSError):
                    print(f"note: the log cannot be written: {error}", file=sys.stderr)
            self._told = True
        except Exception:  # noqa: BLE001 - a log that cannot be written stops no work
            self.handleError(record)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process appends meanwhile: Windows looks for the end first, and then writes."""
    if hasattr(os, "fork"):
        yield
        return
    from filelock import FileLock

    with FileLock(path.with_name(".lock")):
        yield


def log_files(folder: Path) -> list[Path]:
    """The log files below an artifact root's ``logs``, oldest first."""
    return sorted(folder.glob("????-??-??.jsonl"))


def start(console: logging.Handler | None = None) -> None:
    """Log what the packages say, from INFO on; once in a process, or again with a ``console``.

    ``console`` is for people, who else read warnings alone; with ``FER_LOG=json`` programs read.
    """
    loggers = [logging.getLogger(name) for name in PACKAGES]
    started = any(isinstance(handler, DailyFile) for handler in loggers[0].handlers)
    if started and console is None:
        return
    if console is None:
        console = logging.StreamHandler()
        console.setFormatter(TextLine())
        console.setLevel(logging.WARNING)
    if settings().json_log:
        console = logging.StreamHandler()
        console.setFormatter(JsonLine())
    file = DailyFile()
    file.setFormatter(JsonLine())
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.handlers = [file, console]
