"""What a step costs, against work whose cost is known."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fer_ml.base.cost import Meter

MB = 10**6
ON_LINUX = pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system has no /proc")


@ON_LINUX
def test_a_peak_is_that_of_the_step_and_not_of_an_earlier_one() -> None:
    before = Meter().read()["peak_memory_mb"]
    held = np.ones(400 * MB, np.uint8)
    assert Meter().read()["peak_memory_mb"] > before + 200
    del held
    assert Meter().read()["peak_memory_mb"] < before + 100


def test_processor_time_counts_children_that_ended() -> None:
    work = "sum(range(3_000_000))"
    meter = Meter()
    subprocess.run([sys.executable, "-c", work], check=True)
    child = meter.read()["cpu_seconds"]
    assert child > 0
    time.sleep(0.2)
    assert meter.read()["cpu_seconds"] < child + 0.2, "waiting is no work"
    assert meter.seconds >= 0.2


#: In a process of its own: what other tests started is no child of it.
CHILDREN = """
import subprocess, sys, time
from fer_ml.base.cost import LOOK_EVERY, metered
inner = "import sys; held = bytearray(b'x') * 200_000_000; sys.stdin.read()"
outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
with metered() as meter:
    # Each ends when its input does: nothing is signalled.
    child = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE)
    end = time.monotonic() + 60
    while meter.children_mb < 200 and time.monotonic() < end:
        time.sleep(LOOK_EVERY)
    child.communicate()
print(meter.read()["peak_children_memory_mb"])
"""


@ON_LINUX
def test_children_are_seen_with_theirs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN], capture_output=True, text=True, check=True
    )
    assert 200 < float(done.stdout) < 300
