"""What a step costs: time, processor time and memory, as the operating system counts them."""

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The figures of ``Meter.read``, as a record's summary holds them.
COSTS = ("cpu_seconds", "peak_memory_mb", "peak_children_memory_mb")
#: Seconds between two looks at the children's memory.
LOOK_EVERY = 0.25
_PROC = Path("/proc")


class Meter:
    """Measures from its making until ``read``; the processes of a step are its own and children.

    Memory is resident memory in 10^6 bytes. ``getrusage`` tells a high-water mark: the most since
    the process began, of this process; of a child also what its parent held when it started it.
    So the mark is set back where the system can (Linux), and children are looked at.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._cpu = _cpu_seconds()
        self.children_mb = 0.0
        with suppress(OSError):
            # 5: the peak of resident memory starts anew (proc(5)).
            (_PROC / "self" / "clear_refs").write_text("5")

    @property
    def seconds(self) -> float:
        """Seconds by the clock."""
        return round(time.monotonic() - self._started, 3)

    def look(self) -> None:
        """Note what the children hold now."""
        self.children_mb = max(self.children_mb, round(sum(_children_mb(os.getpid())), 1))

    def read(self) -> dict[str, float]:
        """The figures so far.

        - ``cpu_seconds``: of this process, and of the children that ended meanwhile;
        - ``peak_memory_mb``: the most that this process held;
        - ``peak_children_memory_mb``: the most that all children held at a look, pages that they
          share counted for each; 0 where the system has no ``/proc``.
        """
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        cpu = round(_cpu_seconds() - self._cpu, 3)
        return dict(zip(COSTS, (cpu, round(peak, 1), self.children_mb), strict=True))


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter that looks at the children every ``LOOK_EVERY`` seconds."""
    meter, ended = Meter(), threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY):
            meter.look()

    watcher = threading.Thread(target=watch, name="fer-meter", daemon=True)
    watcher.start()
    try:
        yield meter
    finally:
        ended.set()
        watcher.join()


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _children_mb(pid: int) -> Iterator[float]:
    """Resident memory of each process below ``pid``; those that end meanwhile are left out."""
    for task in _PROC.glob(f"{pid}/task/*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text().split()):
                pages = int((_PROC / str(child) / "statm").read_text().split()[1])
                yield pages * os.sysconf("SC_PAGE_SIZE") / 1e6
                yield from _children_mb(child)
