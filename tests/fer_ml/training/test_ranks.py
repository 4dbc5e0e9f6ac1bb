"""Two processes of torch's launcher train what one trains."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_ml.packed.runner import run_job
from fer_ml.recipes.training import KD, Imbalance
from fer_ml.training.checkpoint import load_checkpoint
from fer_ml.training.loop import ALONE
from fer_ml.training.ranks import choose_device
from fer_ml.training.views import SoftTargets
from tests.refusals import refused

ROOT = Path(__file__).parents[3]
Job = Callable[..., Path]

#: LayerNorm: on CPUs BatchNorm sees the rows of its own process only.
BASE = {"architecture": "test_convnext", "optimiser": "sgd", "lr": 0.05, "drop_last": False}


def two_processes(job: Path, out: Path) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", "0", "--standalone"),
            *("-m", "fer_ml.packed", str(job), "--out", str(out), "--device", "cpu"),
            *("--snapshot-seconds", "0"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"task": KD(), "ema": 0.9, "accumulate": 2},
        {"imbalance": Imbalance(class_weights="effective_number"), "label_smoothing": 0.1},
    ],
)
def test_two_processes_give_what_one_gives(
    job_of: Job, soft_of: Callable[..., SoftTargets], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Also where the last batch is short and its halves are uneven."""
    job = job_of({**BASE, **changes}, size=32, n=61, soft=soft_of(n=61))
    two_processes(job, tmp_path / "two")
    (one,) = run_job(job, tmp_path / "one", ALONE)
    two = tmp_path / "two" / one.name
    held = [load_checkpoint(run / "best.pt").model for run in (one, two)]
    for name, weight in held[0].items():
        torch.testing.assert_close(held[1][name], weight, atol=2e-4, rtol=2e-3)
    histories = [json.loads((run / "history.json").read_text()) for run in (one, two)]
    for mine, theirs in zip(*histories, strict=True):
        assert theirs["train"] == pytest.approx(mine["train"], rel=1e-3)
        assert (theirs["steps"], theirs["coverage"]) == (mine["steps"], mine["coverage"])
    facts = [json.loads((run / "training.json").read_text()) for run in (one, two)]
    assert [f["processes"] for f in facts] == [1, 2]


def test_a_device_that_is_absent_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with refused("missing-gpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    with refused("unknown-device") as caught:
        choose_device("gpu")
    assert "gpu" in caught.value.what
