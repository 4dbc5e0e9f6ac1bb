"""``fer ui`` over hours and faults: restarted in mid-run, with a backfill, asked while it trains.

Minutes each, so on demand only: ``pytest -m proof tests/fer_assets/test_operation.py -s``.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import dagster as dg
import numpy as np
import pytest

from fer_assets.doctor import examine
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.storage import dagster_instance
from fer_ml.storage.artifact import Artifact
from tests.compressed_clock import CompressedClock
from tests.machine import LINUX
from tests.ui_server import PATIENCE_S, Served, serving
from tests.webhook import Hook

#: Its faults are signals, limits of memory and restarts, as Linux has them.
pytestmark = [pytest.mark.proof, LINUX]

T = TypeVar("T")

EXPERIMENT = "student_experiment"
NAMES = ("first", "second", "third")
#: Long enough to be stopped in the middle.
LONG = """
[profiles.tiny.experiments.{name}]
architecture = "resnet18"
task = {{ kind = "ce" }}
init = "none"
epochs = {epochs}
batch_size = 16
seed = {seed}
"""
SELECTOR = {"repositoryName": "tiny", "repositoryLocationName": "fer"}
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
AGAIN = """mutation($p: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status } } }"""
#: What the UI asks for to draw the whole lineage.
LINEAGE = """{ assetNodes { id assetKey { path } groupName kinds isMaterializable description
  dependencyKeys { path } dependedByKeys { path } opNames partitionDefinition { name } } }"""


@pytest.fixture(scope="module")
def pipeline(project: Callable[[str], Pipeline]) -> Pipeline:
    opened = project("tiny")
    file = opened.settings.project / "fer.toml"
    more = (
        LONG.format(name=name, epochs=6, seed=place) for place, name in enumerate((*NAMES, "alone"))
    )
    file.write_text(file.read_text() + "".join(more) + LONG.format(name="slow", epochs=60, seed=9))
    opened = project("tiny")
    with dagster_instance() as instance:
        materialize(opened, instance, select=opened.named("manifests"))
    return opened


def log_of(pipeline: Pipeline) -> Path:
    return pipeline.settings.project / "ui.log"


def until(what: str, look: Callable[[], T | None]) -> T:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        time.sleep(0.5)
    raise AssertionError(f"never: {what}")


def launch(served: Served, partition: str) -> str:
    """Start the making of one experiment, as the UI's button does."""
    parameters = {
        "selector": {
            **SELECTOR,
            "jobName": "experiments",
            "assetSelection": [{"path": ["tiny", EXPERIMENT]}],
        },
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        "mode": "default",
    }
    told = served.ask(LAUNCH, p=parameters)["launchRun"]
    assert told["__typename"] == "LaunchRunSuccess", told
    return str(told["run"]["runId"])


def run_of(run_id: str) -> dg.DagsterRun:
    with dagster_instance() as instance:
        run = instance.get_run_by_id(run_id)
    assert run
    return run


def ended(run_id: str) -> dg.DagsterRun:
    return until("the run ends", lambda: run if (run := run_of(run_id)).is_finished else None)


def training(pipeline: Pipeline) -> bool:
    """Whether a training has begun and saved what it can go on from."""
    return any(pipeline.store.unfinished.rglob("snapshot.pt"))


def made_once(pipeline: Pipeline, partition: str) -> Artifact:
    held = pipeline.store.require(EXPERIMENT, partition)
    assert [a.folder for a in pipeline.store.all(EXPERIMENT, partition)] == [held.folder]
    assert held.damage() is None
    return held


def check_nothing_is_left(pipeline: Pipeline) -> None:
    told = {finding.what: finding for finding in examine(pipeline)}
    assert told["half-written runs"].found == "none"
    assert told["artifacts"].state == "ok"


def services(served: Served) -> list[int]:
    """``fer ui`` and its daemon; not the workers of runs, nor their server."""
    found = [served.process.pid]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            mine = os.getsid(int(folder.name)) == served.process.pid
        except (OSError, ProcessLookupError):
            continue
        if mine and b"dagster._daemon" in words:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("partition", "how"), [("alone", signal.SIGTERM), ("first", getattr(signal, "SIGKILL", None))]
)
@pytest.mark.fault(
    "`fer ui` is stopped while a run works",
    "The worker finishes, and the next `fer ui` shows it.",
)
def test_a_restart_of_the_ui_leaves_a_run_alone(
    pipeline: Pipeline, partition: str, how: signal.Signals
) -> None:
    with serving(log_of(pipeline)) as served:
        run_id = launch(served, partition)
        until("it trains", lambda: training(pipeline) or None)
        for pid in services(served)[: 1 if how == signal.SIGTERM else None]:
            os.kill(pid, how)
        served.process.wait()
        with serving(log_of(pipeline)) as again:
            assert ended(run_id).status == dg.DagsterRunStatus.SUCCESS
            asked = again.ask(RUN, id=run_id)
            assert asked["runOrError"]["status"] == "SUCCESS"
    made_once(pipeline, partition)
    check_nothing_is_left(pipeline)


def runs_by_partition(backfill: set[str]) -> dict[str, list[dg.DagsterRun]]:
    found: dict[str, list[dg.DagsterRun]] = {}
    with dagster_instance() as instance:
        for run in instance.get_runs():
            if run.tags.get("dagster/backfill") in backfill:
                found.setdefault(run.tags["dagster/partition"], []).append(run)
    return found


def over(served: Served, backfill: str) -> str:
    def look() -> str | None:
        status = served.ask(STATUS, id=backfill)["partitionBackfillOrError"]["status"]
        return None if status in ("REQUESTED", "COMPLETED") else str(status)

    return until("the backfill ends", look)


@pytest.mark.fault(
    "the machine goes down in a backfill",
    "Re-executed from failure, the backfill makes only what is missing.",
)
def test_a_backfill_that_a_power_cut_stopped_is_resumed(pipeline: Pipeline) -> None:
    shutil.rmtree(pipeline.store.root / EXPERIMENT)
    with serving(log_of(pipeline)) as served:
        parameters = {
            "assetSelection": [{"path": ["tiny", EXPERIMENT]}],
            "partitionNames": list(NAMES),
        }
        told = served.ask(BACKFILL, p=parameters)["launchPartitionBackfill"]
        assert told["__typename"] == "LaunchBackfillSuccess", told
        first = told["backfillId"]

        def one_made_and_one_training() -> list[str] | None:
            made = [name for name in NAMES if pipeline.store.current(EXPERIMENT, name)]
            whole = [n for n in made if runs_by_partition({first})[n][0].is_finished]
            return whole if whole and training(pipeline) else None

        made = until("one is made and another trains", one_made_and_one_training)
        kept = {name: made_once(pipeline, name).folder for name in made}
        assert 0 < len(made) < len(NAMES)
        served.kill()
    with serving(log_of(pipeline)) as served:
        assert over(served, first) == "COMPLETED_FAILED", "the run that was killed is told"
        parameters = {"parentRunId": first, "strategy": "FROM_FAILURE"}
        told = served.ask(AGAIN, p=parameters)["reexecutePartitionBackfill"]
        assert told["__typename"] == "LaunchBackfillSuccess", told
        second = told["backfillId"]
        assert over(served, second) == "COMPLETED_SUCCESS"
    for name in NAMES:
        artifact = made_once(pipeline, name)
        assert kept.get(name, artifact.folder) == artifact.folder, "it is not made again"
    runs = runs_by_partition({first, second})
    failed = {
        name
        for name, of_name in runs.items()
        if any(run.status == dg.DagsterRunStatus.FAILURE for run in of_name)
    }
    assert failed
    assert not failed & set(made)
    check_nothing_is_left(pipeline)


@pytest.mark.fault(
    "a run is killed before its process reports",
    "Dagster's monitor ends it after ten minutes.",
)
def test_a_run_that_was_killed_before_it_started_is_ended(pipeline: Pipeline) -> None:
    """Dagster knows no process of it yet: its monitor ends it after a while."""
    config = Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml"
    text = config.read_text()
    assert "start_timeout_seconds: 600" in text
    config.write_text(text.replace("start_timeout_seconds: 600", "start_timeout_seconds: 5"))
    try:
        with serving(log_of(pipeline)) as served:
            run_id = launch(served, "first")
            starting = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
            until("it starts", lambda: run_of(run_id).status in starting or None)
            served.kill()
        assert run_of(run_id).status == dg.DagsterRunStatus.STARTING
        with serving(log_of(pipeline)):
            assert ended(run_id).status == dg.DagsterRunStatus.FAILURE
    finally:
        config.write_text(text)


def test_the_lineage_is_shown_while_a_training_runs(pipeline: Pipeline) -> None:
    with serving(log_of(pipeline)) as served:
        run_id = launch(served, "slow")
        until("it trains", lambda: training(pipeline) or None)
        seconds = []
        for _ in range(100):
            started = time.perf_counter()
            nodes = served.ask(LINEAGE)["assetNodes"]
            seconds.append(time.perf_counter() - started)
            assert len(nodes) > 20
            time.sleep(0.1)
        assert not run_of(run_id).is_finished, "it trained all the while"
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    print(f"\nthe whole lineage, 100 times beside a training: p50 {p50:.3f} s, p95 {p95:.3f} s")


def worker(run_id: str) -> int:
    """The process of a run: its steps are made in it."""
    with dagster_instance() as instance:
        records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    events = [record.event_log_entry.dagster_event for record in records.records]
    told = [event.engine_event_data.metadata.get("pid") for event in events if event]
    return int(str(next(pid.value for pid in told if pid is not None)))


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_run_that_is_ended_while_it_trains_gives_its_place_back(
    pipeline: Pipeline, how: str
) -> None:
    def free() -> bool | None:
        with dagster_instance() as instance:
            held = instance.event_log_storage.get_concurrency_info("training")
        return not held.active_run_ids or None

    with serving(log_of(pipeline)) as served:
        shutil.rmtree(pipeline.store.unfinished, ignore_errors=True)
        run_id = launch(served, "slow")
        until("it trains", lambda: training(pipeline) or None)
        if how == "stopped":
            told = served.ask(TERMINATE, id=run_id)["terminateRun"]
            assert told["__typename"] == "TerminateRunSuccess", told
            assert ended(run_id).status == dg.DagsterRunStatus.CANCELED
        else:
            os.kill(worker(run_id), signal.SIGKILL)
            assert ended(run_id).status == dg.DagsterRunStatus.FAILURE
        until("its place is free", free)
        assert pipeline.store.current(EXPERIMENT, "slow") is None


HOURS, PACE = 8, 60
#: A night from Saturday to Sunday: what is due each night, each week and each morning is in it.
SATURDAY_2330 = datetime(2028, 1, 1, 23, 30, tzinfo=UTC)
DUE = {
    "nightly_retention": 2,
    "nightly_revalidation": 3,
    "weekly_full_revalidation": 4,
    "daily_digest": 6,
}
JOBS = ("retention", "revalidate", "revalidate_fully", "digest")


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment."""

    memory_mb: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Held":
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        memory = int(status["VmRSS"].split()[0]) * 1024 / 1e6
        return cls(memory, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]))


def test_eight_hours_of_schedules_leave_no_drift(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code server and a daemon over a compressed night, of which a run takes a quarter hour."""
    file = pipeline.settings.project / "fer.toml"
    file.write_text(f"keep_recordings_days = 30\n{file.read_text()}")
    home = tmp_path / "dagster"
    home.mkdir()
    config = (Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text(config.replace("seconds: 600", "seconds: 36000"))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workspace = tmp_path / "workspace.yaml"
    server = {"host": "127.0.0.1", "port": port, "location_name": "fer"}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    clock, processes = CompressedClock(tmp_path, SATURDAY_2330, PACE), {}
    dagster = [sys.executable, "-m", "dagster"]
    samples: dict[str, list[tuple[datetime, Held]]] = {"code server": [], "daemon": []}
    with Hook() as hook:
        monkeypatch.setenv("FER_WEBHOOK", hook.url)
        try:
            location = ["-m", "fer_assets.definitions", "--location-name", "fer"]
            command = [*dagster, "api", "grpc", *location, "-h", "127.0.0.1", "-p", str(port)]
            processes["code server"] = clock.start(tmp_path / "server.log", *command)
            until("the code server answers", lambda: answers(port))
            daemon = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
            processes["daemon"] = clock.start(tmp_path / "daemon.log", *daemon)
            begun = clock.now()
            while clock.now() < begun + timedelta(hours=HOURS):
                time.sleep(300 / PACE)
                for name, process in processes.items():
                    assert process.poll() is None, f"{name} ended: see {tmp_path}"
                    samples[name].append((clock.now(), Held.of(process.pid)))
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
        told = [notice for notice in hook.seen if notice["kind"] == "digest"]
    with dagster_instance() as instance:
        states = instance.all_instigator_state()
        ticks = {
            s.instigator_name: instance.get_ticks(s.instigator_origin_id, s.selector_id)
            for s in states
        }
        runs = instance.get_runs()
    for name, hour in DUE.items():
        (tick,) = ticks[name]
        assert datetime.fromtimestamp(tick.timestamp, UTC).hour == hour, name
        assert tick.status.value == "SUCCESS", name
    assert not [t for of_name in ticks.values() for t in of_name if t.status.value == "FAILURE"]
    assert len(ticks["raw_changed"]) > 4 * HOURS, "at this pace not each five minutes"
    assert sorted(run.job_name for run in runs) == sorted(JOBS)
    assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in runs)
    assert len(told) == 1
    for name, seen in samples.items():
        # Neither while a run is there; the first one leaves what is made once.
        first = [held for moment, held in seen if (2, 30) <= (moment.hour, moment.minute) < (3, 0)]
        last = [held for moment, held in seen[-6:]]
        print(f"\n{name}, after the first run {first[-1]}, after the last {last[-1]}")
        for what, slack in (("files", 1), ("threads", 2)):
            grown = min(getattr(h, what) for h in last) - min(getattr(h, what) for h in first)
            assert grown <= slack, f"{name}: {grown} more {what}"
        share = min(h.memory_mb for h in last) / min(h.memory_mb for h in first)
        assert share < 1.1, f"{name} holds {share:.2f} times the memory"
    print(f"{sum(map(len, ticks.values()))} ticks of {len(ticks)} schedules and sensors")


def answers(port: int) -> bool | None:
    with socket.socket() as probe:
        return True if probe.connect_ex(("127.0.0.1", port)) == 0 else None


class Limited:
    """Processes of one control group, which the kernel gives so much memory and no more."""

    def __init__(self, name: str) -> None:
        version_1 = Path("/sys/fs/cgroup/memory")
        first = version_1.is_dir()
        self.folder = (version_1 if first else version_1.parent) / name
        self.limit = self.folder / ("memory.limit_in_bytes" if first else "memory.max")
        self.events = self.folder / ("memory.oom_control" if first else "memory.events")

    def __enter__(self) -> "Limited":
        try:
            self.folder.mkdir()
            assert self.limit.is_file()
        except (OSError, AssertionError):
            pytest.skip("no control group for memory can be made here")
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.rmdir()

    def run(self, megabytes: int, *command: str) -> int:
        """The exit code of a command that has this much memory."""
        self.limit.write_text(str(megabytes * 10**6))
        enter = f'echo $$ > {self.folder}/cgroup.procs; exec "$@"'
        return subprocess.run(
            ["sh", "-c", enter, "sh", *command], capture_output=True, check=False
        ).returncode

    @property
    def kills(self) -> int:
        words = dict(line.split() for line in self.events.read_text().splitlines())
        return int(words["oom_kill"])


@pytest.mark.fault("the kernel kills a training for memory", "The next `fer materialize` makes it.")
def test_a_training_that_the_kernel_kills_for_memory_goes_on_after_it(pipeline: Pipeline) -> None:
    shutil.rmtree(pipeline.store.root / EXPERIMENT, ignore_errors=True)
    fer = "import sys; from fer_assets.cli import main; sys.argv[0] = 'fer'; main()"
    command = [sys.executable, "-c", fer, "materialize", "--select", f"{EXPERIMENT}[third]"]
    with Limited("fer-test-memory") as limited:
        for megabytes in range(1500, 300, -100):
            code = limited.run(megabytes, *command)
            if limited.kills:
                break
            assert code == 0
            shutil.rmtree(pipeline.store.root / EXPERIMENT)
        print(f"\nkilled with {megabytes} MB")
        assert limited.kills
        assert code != 0
        assert pipeline.store.current(EXPERIMENT, "third") is None
    assert subprocess.run(command, check=False).returncode == 0
    made_once(pipeline, "third")
    check_nothing_is_left(pipeline)
