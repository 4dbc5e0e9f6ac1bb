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
    """Add these names (``run``, ``asset``, ``partition``, ...) to every line logged inside."""
    token = _WHERE.set({**_WHERE.get(), **where})
    try:
        yield
    finally:
        _WHERE.reset(token)


class TextLine(logging.Formatter):
    """Format a record for people, with terminal control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, followed by its traceback if it has one."""
        return visible_lines(super().format(record))


class JsonLine(logging.Formatter):
    """Format a record as one line of JSON, without NaN or line breaks in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, with the names given by ``belongs_to``."""
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
    """Append each line to the file of the day, which several processes may share.

    Files older than ``KEEP_DAYS`` are deleted when a new one begins. If a line cannot be written,
    the work goes on, and standard error says so once.
    """

    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record to the file of the current day in UTC."""
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
    """Lock the file, since an append on Windows is two steps: seek to the end, then write."""
    if hasattr(os, "fork"):
        yield
        return
    from filelock import FileLock

    with FileLock(path.with_name(".lock")):
        yield


def log_files(folder: Path) -> list[Path]:
    """Return the log files in ``folder``, the ``logs`` of an artifact root, oldest first."""
    return sorted(folder.glob("????-??-??.jsonl"))


def start(console: logging.Handler | None = None) -> None:
    """Start logging of this project's packages, from INFO on.

    A second call in one process has an effect only with a ``console``. Without ``console`` only
    warnings go to standard error; with ``FER_LOG=json`` every line goes there as JSON.
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
