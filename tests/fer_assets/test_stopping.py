"""Ctrl-C and SIGTERM at ``fer materialize``: one message, nothing torn, and the rest goes on."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_ml.storage.store import Store
from tests.fer_assets.folders import ROOT, make_project, start


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project") / "here")


def stop(
    process: subprocess.Popen[str], number: int, when: Callable[[str], bool], *, group: bool
) -> str:
    """Send a signal, to all of its processes as a terminal does, and return what it said."""
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    try:
        while not when("".join(lines)):
            assert process.poll() is None, lines
            time.sleep(0.02)
        (os.killpg if group else os.kill)(process.pid, number)
        assert process.wait(timeout=120) == 128 + number, lines
    finally:
        process.kill()
        reader.join()
        process.stdout.close()
    return "".join(lines)


def clean(told: str, *command: str) -> None:
    """One message of it, the last: that it stopped, and the command that goes on."""
    for word in ("Traceback", "dagster", "Interrupt", "error"):
        assert word not in told, told
    *_, message, go_on = told.rstrip().splitlines()
    assert message.startswith("stopped: ")
    assert go_on.strip() == "go on: " + shlex.join(("fer", *command))


def whole(store: Store) -> None:
    """No half-written run folder, and what is there is what its record says."""
    assert store.faults() == []
    assert not store.partial.exists() or list(store.partial.iterdir()) == []
    for artifact in store.every():
        assert artifact.damage() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_sample_is_drawn(tmp_path: Path, number: int) -> None:
    folder = make_project(tmp_path / "here")
    drawing = folder / "outputs" / "sample" / ".drawn.drawing"
    process = start(folder, "materialize")
    clean(stop(process, number, lambda told: drawing.exists(), group=True), "materialize")
    assert [path.name for path in drawing.parent.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGINT, "manifest/a: started"),
        (signal.SIGINT, "classification_manifest: started"),
        (signal.SIGTERM, "classification_manifest: done"),
        (signal.SIGINT, "manifest_validation: started"),
    ],
)
def test_in_the_data_stage_what_is_finished_stays(project: Path, number: int, where: str) -> None:
    store = Store(project / "outputs" / "own", "own")
    before = set(store.runs())
    # The training after it leaves time for the last signal, also where this process is the slower.
    command = ["materialize", "-p", "own", "--select", "manifests or +key:teacher"]
    clean(stop(start(project, *command), number, lambda told: where in told, group=True), *command)
    whole(store)
    assert set(store.runs()) >= before


def test_what_was_forced_before_a_stop_is_not_forced_again(project: Path) -> None:
    store = Store(project / "outputs" / "own", "own")
    command = ["materialize", "-p", "own", "--select", "manifests", "--force"]
    process = start(project, *command)
    told = stop(
        # Two stages before the one that has to be there again: its own line may come too late.
        process,
        signal.SIGINT,
        lambda told: "manifest/a: done" in told,
        group=True,
    )
    (go_on,) = (line for line in told.splitlines() if "go on: " in line)
    assert "--force" in go_on and "manifest/a" not in go_on
    assert "classification_manifest" in go_on and "manifest_validation" in go_on
    whole(store)


def test_a_training_goes_on_where_it_was(project: Path) -> None:
    store = Store(project / "outputs" / "own", "own")
    command = ["materialize", "-p", "own", "--select", "+key:teacher"]
    process = start(project, *command)
    # The manifests that a stop kept are not made again, the others are made first.
    told = stop(process, signal.SIGINT, lambda told: " epoch " in told, group=True)
    clean(told, *command)
    whole(store)
    assert store.current("teacher", "RN18") is None
    assert "teacher[RN18]: stopped at step" in told
    process = start(project, *command)
    told = stop(process, signal.SIGTERM, lambda told: "goes on after step" in told, group=False)
    clean(told, *command)
    assert "make  manifest" not in told
    whole(store)


def test_a_signal_within_a_destructor_is_given_again() -> None:
    """There Python raises nothing: it says that an exception is ignored."""
    script = """
import os, signal, sys, time
from fer_assets.stopping import Stopping
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
with Stopping() as stopping:
    late = Late()
    del late
    time.sleep(60)
    sys.exit("it was lost")
sys.exit(stopping.signal)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (signal.SIGTERM, "")


def test_a_signal_that_somebody_dropped_is_obeyed_at_the_next_look() -> None:
    script = """
import os, signal, sys
from fer_assets.stopping import Stopping
with Stopping() as stopping:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    stopping.obey()
    sys.exit("it was lost")
sys.exit(stopping.signal)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (signal.SIGINT, "")
