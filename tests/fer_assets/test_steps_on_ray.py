"""Steps that Dagster runs on a Ray cluster give the bytes that this machine's own give.

pytest -m proof tests/fer_assets/test_steps_on_ray.py
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.keys import asset_key
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from tests.ray_cluster import two_workers

ASSET = "manifest/expw_full"


@pytest.mark.proof
@pytest.mark.parametrize(
    ("profile", "asset", "partition", "processes"),
    [("sample", "manifest/expw_full", None, 1), ("tiny", "student_experiment", "negative", 2)],
    ids=["a manifest", "a training of two processes"],
)
def test_a_step_on_the_cluster_gives_the_same_bytes(
    project: Callable[[str], Pipeline],
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    asset: str,
    partition: str | None,
    processes: int,
) -> None:
    pytest.importorskip("dagster_ray", reason="pip install 'fer-platform[ray]'")
    monkeypatch.setenv("FER_PROCESSES", str(processes))
    # Processes of one training have as many threads on a worker of one processor.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pipeline = project(profile)
    made = [asset, *(["manifests"] if partition else [])]
    with dg.DagsterInstance.get() as instance:
        materialize(pipeline, instance, select=pipeline.named(",".join(made)))
    here = pipeline.store.current(asset, partition)
    # The workers start 'dagster' by name.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    # Dagster takes the .env of the folder that a process is started in before the environment.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(os.environ["FER_PROJECT"])
    with two_workers(dashboard=True):
        command = ["dagster", "asset", "materialize", "-m", "fer_assets.definitions"]
        chosen = ["--partition", partition] if partition else []
        done = subprocess.run(
            [*command, "--select", f"{profile}/{asset}", *chosen],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    with dg.DagsterInstance.get() as instance:
        run = next(run for run in instance.get_runs() if run.job_name == "__ASSET_JOB")
        starting = dg.DagsterEventType.STEP_WORKER_STARTING
        began = instance.all_logs(run.run_id, of_type=starting)
    told = [event.message for event in began]
    step = asset_key(profile, asset).to_python_identifier()
    assert any(f'{step}" in Ray job' in message for message in told), told
    there = pipeline.store.current(asset, partition)
    assert here and there
    assert there.folder != here.folder
    if partition:
        # The rest says when, where and for how long it was trained.
        assert {one.read_json("training.json")["processes"] for one in (here, there)} == {processes}
        weights = [one.record.files["best.safetensors"].sha256 for one in (here, there)]
        assert weights[0] == weights[1]
    else:
        assert there.sha256 == here.sha256
    verdicts = [
        {rule: receipt.passed for rule, receipt in one.receipts().items()} for one in (here, there)
    ]
    assert verdicts[0] == verdicts[1] != {}
