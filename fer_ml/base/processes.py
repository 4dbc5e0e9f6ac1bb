"""Processes of this machine: their names, whether they still run, and the memory they use.

The facts come from ``/proc`` on Linux and from psutil, a dependency, elsewhere. Where there is
neither, as in a packed training on Windows, a process counts as running and has no children.

Needs nothing else, because a packed training names its files with it.

On Linux the start of a process is read from ``/proc``, in ticks since the machine's start: psutil's
time of creation moves with the wall clock, and a running process would then count as another one.
"""

import os
import platform
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_PROC = Path("/proc")
#: Whether a process can be asked for without harm: on Windows ``os.kill`` ends it.
_ASKS = hasattr(os, "fork")
_sysconf: Any = getattr(os, "sysconf", None)


class Used(NamedTuple):
    """A process's resident memory now, in 10^6 bytes, and its processor time so far, in s."""

    pid: int
    memory_mb: float
    cpu_seconds: float


def owner() -> str:
    """Return the name of this process, ``host@pid.start``.

    Process ids are reused, in a container after each start; ``start`` tells processes apart.
    """
    return f"{socket.gethostname()}@{os.getpid()}.{_began(os.getpid()) or 0}"


def gone(name: str) -> bool:
    """Whether ``name`` (``host@pid.start``) was a process of this machine and has ended."""
    host, _, process = name.rpartition("@")
    pid, _, start = process.partition(".")
    if host != socket.gethostname():
        return False
    began = _began(int(pid)) if pid.isdigit() else None
    return began is None or (start not in ("", "0") and began not in ("", start))


def ended(pid: int, seen: float) -> bool:
    """Whether the process that had this ``pid`` at ``seen`` (s since 1970) has ended."""
    began = _began(pid)
    if not began:
        return began is None
    # The number came again. A second is allowed, since Linux counts from its own start.
    return _since_1970(began) > seen + 1


def _began(pid: int) -> str | None:
    """Return when the process ``pid`` began, as digits in a unit of the system's.

    ``None`` when there is no such process, or only a zombie; empty where the system does not tell.
    """
    if _ASKS:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
    if not on_linux():
        return _began_elsewhere(pid)
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the program's name in brackets, which may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _began_elsewhere(pid: int) -> str | None:
    psutil = _psutil()
    if psutil is None:
        return ""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return str(round(1000 * process.create_time()))
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None
    except psutil.Error:
        return ""


def _since_1970(began: str) -> float:
    if not on_linux():
        return int(began) / 1000
    lines = (_PROC / "stat").read_text(encoding="utf-8").splitlines()
    start = float(next(line.split()[1] for line in lines if line.startswith("btime")))
    return start + int(began) / float(_sysconf("SC_CLK_TCK"))


def used() -> Used | None:
    """Return the memory and processor time of this process; ``None`` without psutil."""
    psutil = _psutil()
    return None if psutil is None else _used(psutil.Process())


def children() -> Iterator[Used]:
    """Yield memory and time of each descendant process; one that ends meanwhile is skipped."""
    if on_linux():
        yield from _children(os.getpid())
        return
    psutil = _psutil()
    if psutil is not None:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                yield _used(child)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return the processor's model, or its architecture where the system does not tell."""
    with suppress(OSError):
        text = (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def total_memory() -> int | None:
    """Return the machine's memory in bytes, or ``None`` where the system does not tell."""
    if _sysconf is not None:
        return int(_sysconf("SC_PAGE_SIZE") * _sysconf("SC_PHYS_PAGES"))
    psutil = _psutil()
    return None if psutil is None else int(psutil.virtual_memory().total)


def _used(process: Any) -> Used:
    times = process.cpu_times()
    return Used(process.pid, process.memory_info().rss / 1e6, times.user + times.system)


def _children(pid: int) -> Iterator[Used]:
    page, tick = _sysconf("SC_PAGE_SIZE"), _sysconf("SC_CLK_TCK")
    for task in _PROC.glob(f"{pid}/task/*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text(encoding="utf-8").split()):
                place = _PROC / str(child)
                pages = int((place / "statm").read_text(encoding="utf-8").split()[1])
                stat = (place / "stat").read_text(encoding="utf-8", errors="replace")
                times = stat.rpartition(")")[2].split()[11:13]
                yield Used(child, pages * page / 1e6, sum(map(int, times)) / tick)
                yield from _children(child)


def on_linux() -> bool:
    """Whether process facts can be read from ``/proc``."""
    return (_PROC / "self" / "stat").exists()


def _psutil() -> Any:
    try:
        import psutil
    except ImportError:
        return None
    return psutil
