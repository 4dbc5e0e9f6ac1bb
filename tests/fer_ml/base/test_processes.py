"""Whether a process is there, as Linux tells it and as psutil does elsewhere."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_ml.base import cost, processes
from fer_ml.base.cost import LOOK_EVERY, metered
from fer_ml.base.processes import children, ended, gone, owner, processors, used
from tests.machine import LINUX

SLEEPER = "import sys; print(1, flush=True); sys.stdin.read()"


@pytest.fixture(params=["here", "elsewhere", "elsewhere without psutil"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This system, and one without ``/proc`` on which no process may be asked by ``os.kill``."""
    if request.param != "here":
        really = os.kill

        def kill(pid: int, number: int) -> None:
            assert number, "that would end the process"
            really(pid, number)

        monkeypatch.setattr(os, "kill", kill)
        monkeypatch.setattr(processes, "_ASKS", False)
        monkeypatch.setattr(processes, "_PROC", Path("/none"))
    if request.param.endswith("psutil"):
        monkeypatch.setattr(processes, "_psutil", lambda: None)
    return str(request.param)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that waits for its end, once it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def name_of(pid: int) -> str:
    host = owner().rpartition("@")[0]
    return f"{host}@{pid}.{processes._began(pid) or 0}"


def test_a_process_is_there_until_it_ends(system: str, child: "subprocess.Popen[bytes]") -> None:
    name, now = name_of(child.pid), time.time()
    assert not gone(name) and not ended(child.pid, now)
    assert not gone(owner()) and not ended(os.getpid(), now)
    child.communicate()
    # Where nothing tells, nothing is said to be gone: what it left stays.
    assert gone(name) == ended(child.pid, now) == ("without" not in system)


def test_a_number_that_came_again_is_another_process(
    system: str, child: "subprocess.Popen[bytes]"
) -> None:
    host, _, process = name_of(child.pid).rpartition("@")
    pid, _, began = process.partition(".")
    told = "without" not in system
    assert gone(f"{host}@{pid}.{int(began) - 1}") == (told and int(began) > 1)
    assert ended(child.pid, time.time() - 10 * 24 * 3600) == told, "it is not that old"
    for unknown in (f"{host}@{pid}", f"{host}@{pid}.0"):
        assert not gone(unknown), "a name without a time says no more"


@pytest.mark.parametrize("name", ["", "here", "@", "@1", "x@y", "another-host@1.5"])
def test_what_names_no_process_of_this_machine_is_not_gone(system: str, name: str) -> None:
    assert not gone(name)


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31 - 1, 2**40])
def test_a_number_that_no_process_has(system: str, pid: int) -> None:
    assert ended(pid, time.time()) == ("without" not in system)


def test_what_this_process_and_its_children_hold(
    system: str, child: "subprocess.Popen[bytes]"
) -> None:
    held = {one.pid: one for one in children()}
    if "without" in system:
        assert held == {} and used() is None
        return
    assert held[child.pid].memory_mb > 1
    assert os.getpid() not in held
    own = used()
    assert own is not None and own.memory_mb > 10 and own.cpu_seconds > 0


@LINUX
def test_linux_and_psutil_tell_the_same(
    child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    began, here = processes._since_1970(processes._began(child.pid) or ""), list(children())
    monkeypatch.setattr(processes, "_ASKS", False)
    monkeypatch.setattr(processes, "_PROC", Path("/none"))
    assert abs(processes._since_1970(processes._began(child.pid) or "") - began) < 1
    there = {one.pid: one for one in children()}
    for one in here:
        if one.pid == child.pid:
            assert there[one.pid].memory_mb == pytest.approx(one.memory_mb, rel=0.2)


def test_a_step_is_measured_without_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "resource", None)
    # Memory and time of a child that lives for some looks, and of this process.
    work = (
        "import time; held = bytearray(b'x') * 200_000_000; end = time.process_time() + 1\n"
        "while time.process_time() < end: pass\nimport sys; sys.stdin.read()"
    )
    with metered() as meter:
        process = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE)
        end = time.monotonic() + 60
        while meter.read()["cpu_seconds"] < 1 and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        process.communicate()
    found = meter.read()
    assert found["cpu_seconds"] >= 1
    assert found["peak_children_memory_mb"] > 200
    assert found["peak_memory_mb"] > 10


def test_processors_are_counted_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processors() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert processors() == os.cpu_count()


def test_the_processor_has_a_name_on_every_system(system: str) -> None:
    assert processes.processor_name()
    assert processes.total_memory() or "without" in system
