"""The cost of a step: elapsed time, processor time and memory, as the operating system counts."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from fer_ml.base.processes import children, used

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows.
    resource = None

#: The figures of ``Meter.read``, as a record's summary holds them.
COSTS = ("cpu_seconds", "peak_memory_mb", "peak_children_memory_mb")
#: Seconds between two looks at the processes.
LOOK_EVERY = 0.25


class Meter:
    """Measure this process and its child processes, from construction until ``read``.

    Memory is resident memory in 10^6 bytes. ``getrusage`` reports a peak since the process began,
    and for a child also what its parent held when it was started. So the peak is reset where the
    system can (Linux), and children are sampled by ``look``. Windows has no ``getrusage``: there
    this process is sampled too, and children count only as far as the samples saw them.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.memory_mb = self.children_mb = 0.0
        self._children_cpu: dict[int, float] = {}
        with suppress(OSError):
            # 5: the peak of resident memory starts anew (proc(5)).
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        self.look()
        self._cpu = self._cpu_seconds()

    @property
    def seconds(self) -> float:
        """Elapsed seconds since construction."""
        return round(time.monotonic() - self._started, 3)

    def look(self) -> None:
        """Sample the memory and processor time of this process and its children."""
        seen = list(children())
        self.children_mb = max(self.children_mb, round(sum(one.memory_mb for one in seen), 1))
        self._children_cpu |= {one.pid: one.cpu_seconds for one in seen}
        usage = used() if resource is None else None
        if usage is not None:
            self.memory_mb = max(self.memory_mb, usage.memory_mb)

    def read(self) -> dict[str, float]:
        """Return the measurements so far by name.

        - ``cpu_seconds``: of this process and of the children that ended since construction;
        - ``peak_memory_mb``: the peak of this process; 0 where the system does not report it;
        - ``peak_children_memory_mb``: the largest sum over all children in one sample, with shared
          pages counted once for each child; 0 where the system does not report it.
        """
        if resource is None:
            self.look()
            peak = self.memory_mb
        else:
            # Linux counts in KiB, macOS in bytes.
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        cpu = round(self._cpu_seconds() - self._cpu, 3)
        return dict(zip(COSTS, (cpu, round(peak, 1), self.children_mb), strict=True))

    def _cpu_seconds(self) -> float:
        if resource is None:
            return time.process_time() + sum(self._children_cpu.values())
        both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return float(sum(one.ru_utime + one.ru_stime for one in both))


@contextmanager
def metered() -> Iterator[Meter]:
    """Yield a ``Meter`` that samples the child processes every ``LOOK_EVERY`` seconds."""
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
