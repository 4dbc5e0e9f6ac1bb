"""A training that is killed goes on as if it had not been, to the bit.

The long proofs run on demand: ``pytest -m proof tests/fer_ml/packed/test_resume.py``.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_ml.base.reading import sha256_file
from fer_ml.packed.runner import run_job
from fer_ml.recipes.training import DKD, KD, ArcFace, Imbalance, Prototype
from fer_ml.training.loop import ALONE
from fer_ml.training.views import SoftTargets
from tests.machine import POSIX

ROOT = Path(__file__).parents[3]
Job = Callable[..., Path]
Soft = Callable[..., SoftTargets]


def start(job: Path, out: Path, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "fer_ml.packed", str(job), "--out", str(out)),
            *("--device", "cpu", "--snapshot-seconds", "0"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(job: Path, out: Path) -> None:
    """Run to the end, in this process."""
    run_job(job, out, ALONE, snapshot_seconds=0)


def results(out: Path) -> dict[str, Any]:
    """Weights and the whole history of every step, without its times."""
    found: dict[str, Any] = {}
    for run in sorted(out.iterdir()):
        history = json.loads((run / "history.json").read_text())
        for epoch in history:
            del epoch["timing"]
        found[run.name] = (sha256_file(run / "best.safetensors"), history)
    return found


def steps_saved(out: Path) -> list[tuple[str, int, int]]:
    return [(p.parent.name, p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("snap*.pt")]


def kill_at_random(job: Path, out: Path, kills: int, seed: int) -> int:
    """Kill and start again; returns how many kills met a training under way."""
    chosen = random.Random(seed)
    met = 0
    while met < kills:
        before = steps_saved(out)
        process = start(job, out)
        while steps_saved(out) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chosen.uniform(0, 0.25))
        if process.poll() is None:
            met += 1
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
    finish(job, out)
    return met


#: Everything that has a state of its own.
STATEFUL = {
    "ema": 0.9,
    "precision": "fp16",
    "accumulate": 2,
    "mixup": 0.2,
    "drop_last": False,
    "imbalance": Imbalance(sampler="balanced"),
}


ARCFACE = {
    "optimiser": "nested",
    "task": ArcFace(embedding=16, plain_epochs=3),
    "prototype": Prototype(weight=0.01),
}


@pytest.mark.parametrize("changes", [STATEFUL, ARCFACE])
@pytest.mark.fault(
    "a training is killed",
    "It continues from its last snapshot, identical to the bit.",
)
def test_a_kill_leaves_no_trace(job_of: Job, tmp_path: Path, changes: dict[str, Any]) -> None:
    job = job_of({"epochs": 12, **changes})
    finish(job, tmp_path / "whole")
    assert kill_at_random(job, tmp_path / "killed", 1, seed=1) == 1
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.proof
def test_twenty_kills_leave_no_trace(job_of: Job, tmp_path: Path) -> None:
    job = job_of({"epochs": 120, **STATEFUL})
    finish(job, tmp_path / "whole")
    assert kill_at_random(job, tmp_path / "killed", 20, seed=2) == 20
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.proof
def test_kills_across_ce_kd_and_dkd_leave_no_trace(
    job_of: Job, soft_of: Soft, tmp_path: Path
) -> None:
    job = job_of(
        {"epochs": 20},
        {"epochs": 20, "task": KD(), "init": "previous"},
        {"epochs": 20, "task": DKD(distill_warmup=5), "init": "previous"},
        soft=soft_of(3),
    )
    finish(job, tmp_path / "whole")
    assert kill_at_random(job, tmp_path / "killed", 12, seed=3) == 12
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert len(results(tmp_path / "whole")) == 3


@POSIX
@pytest.mark.fault("the disk is full")
def test_a_disk_that_ends_during_a_save_leaves_the_state_before(
    job_of: Job, tmp_path: Path
) -> None:
    import resource

    job, out = job_of({"epochs": 8}), tmp_path / "cut"
    finish(job, tmp_path / "whole")
    process = start(job, out)
    while not steps_saved(out) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    ((_, _, size),) = steps_saved(out)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = start(job, out, preexec_fn=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "file size limit exceeded" in errors
    assert "Traceback" not in errors
    (run,) = out.iterdir()
    assert sorted(p.name for p in run.iterdir()) == ["snapshot.pt"], "and no half-written file"
    finish(job, out)
    assert results(out) == results(tmp_path / "whole")


@POSIX
def test_sigterm_saves_and_stops(job_of: Job, tmp_path: Path) -> None:
    job, out = job_of({"epochs": 40}), tmp_path / "stopped"
    finish(job, tmp_path / "whole")
    # A process inherits that its parent ignores a signal.
    process = start(job, out, preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    while not steps_saved(out) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert "stopped at step" in errors
    finish(job, out)
    assert results(out) == results(tmp_path / "whole")


def test_a_torn_state_is_refused_by_name(job_of: Job, tmp_path: Path) -> None:
    job, out = job_of(), tmp_path / "torn"
    (out / "step_0").mkdir(parents=True)
    (out / "step_0" / "snapshot.pt").write_bytes(b"PK torn")
    process = start(job, out)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "snapshot cannot be read" in errors
    assert "remove" in errors
