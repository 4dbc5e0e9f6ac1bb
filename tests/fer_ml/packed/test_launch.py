"""Several processes that an asset's training starts itself: the same bytes as torchrun's."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_ml.base.reading import sha256_file
from fer_ml.base.settings import settings
from fer_ml.packed.launch import launch
from tests.machine import LINUX, POSIX
from tests.refusals import refused

ROOT = Path(__file__).parents[3]
Job = Callable[..., Path]
#: LayerNorm: on CPUs BatchNorm sees the rows of its own process only.
BASE = {"architecture": "test_convnext", "optimiser": "sgd", "lr": 0.05, "drop_last": False}
SCRIPT = """
import sys
from pathlib import Path
from fer_ml.packed.launch import launch
if __name__ == "__main__":
    launch(Path(sys.argv[1]), Path(sys.argv[2]), "cpu", 2)
"""


def test_it_gives_what_torchrun_gives(job_of: Job, tmp_path: Path) -> None:
    job = job_of(BASE, size=32)
    before = signal.getsignal(signal.SIGTERM)
    (run,) = launch(job, tmp_path / "ours", "cpu", 2)
    assert signal.getsignal(signal.SIGTERM) is before
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    module = ["-m", "fer_ml.packed", job, "--out", tmp_path / "theirs", "--device", "cpu"]
    subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *module],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    theirs = tmp_path / "theirs" / run.name / "best.safetensors"
    assert sha256_file(run / "best.safetensors") == sha256_file(theirs)


def test_a_fault_of_one_process_is_told(job_of: Job, tmp_path: Path) -> None:
    job = job_of(BASE, size=32)
    damaged = job / "train" / "images.npy"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    with refused("process-failed") as caught:
        launch(job, tmp_path / "runs", "cpu", 2)
    assert "code: damaged-packed-training" in caught.value.what


@POSIX
def test_a_stop_reaches_all_processes_and_the_next_one_goes_on(job_of: Job, tmp_path: Path) -> None:
    job, script = job_of({**BASE, "epochs": 30}, size=32), tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(out: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, script, job, tmp_path / out],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(out: str) -> None:
        process = start(out)
        told = process.communicate()[1]
        assert process.returncode == 0, told

    finish("whole")
    stopped = start("stopped")
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if "epoch 2/30" in line:
            break
    stopped.terminate()
    told = stopped.communicate()[1]
    assert stopped.returncode == -signal.SIGTERM, told
    assert "stopped at step" in told
    (snapshot,) = (tmp_path / "stopped").rglob("snapshot.pt")
    finish("stopped")
    assert not snapshot.exists()
    weights = [next((tmp_path / out).rglob("best.safetensors")) for out in ("whole", "stopped")]
    assert sha256_file(weights[0]) == sha256_file(weights[1])


@LINUX
def test_processes_end_when_the_one_that_started_them_is_killed(
    job_of: Job, tmp_path: Path
) -> None:
    job, script = job_of({**BASE, "epochs": 10_000}, size=32), tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, job, tmp_path / "runs"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/" in line:
            break
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_more_processes_than_gpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with refused("too-few-gpus", allowed="FER_PROCESSES: 1 to 1"):
        launch(tmp_path, tmp_path, "cuda", 2)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2.0", "1_0", "99999"])
def test_another_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FER_PROCESSES", value)
    settings.cache_clear()
    try:
        with refused("invalid-setting") as told:
            settings()
        assert "FER_PROCESSES" in told.value.what
    finally:
        settings.cache_clear()
