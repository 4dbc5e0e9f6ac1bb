"""What a killed process leaves in Dagster is cleared away before anything waits for it."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from sqlalchemy import Connection, Engine, event

from fer_assets.abandoned import PROCESS_TAG, fail_abandoned
from fer_assets.announcing import add_partitions
from fer_ml.base.processes import ended

ROOT = Path(__file__).parents[2]


@pytest.mark.fault("a Dagster run stays *Started* after a kill or a restart")
def test_a_run_that_the_ui_started_ends_with_its_worker(tmp_path: Path) -> None:
    """After a restart of the machine, of which Dagster's launcher notices nothing."""

    def started(pid: int) -> dg.DagsterRun:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        data = EngineEventData.in_process(pid)
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, data)
        return run

    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        alive, dead = started(os.getpid()), started(dead_pid())
        untold = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        assert fail_abandoned(instance) == [dead.run_id]
        told = instance.get_records_for_run(dead.run_id).records
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[dead.run_id]))
        last = told[0].event_log_entry.timestamp
        assert record.end_time == pytest.approx(last, abs=1e-5), "not when it was found"
        for run in (alive, untold):
            held = instance.get_run_by_id(run.run_id)
            assert held is not None
            assert not held.is_finished
        assert fail_abandoned(instance) == []


def test_a_run_of_the_command_that_the_ui_makes_again_is_not_of_its_process(
    tmp_path: Path,
) -> None:
    """Dagster copies the tags."""
    tags = {PROCESS_TAG: f"{socket.gethostname()}@{dead_pid()}"}
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        first = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
        instance.create_run_for_job(
            nothing,
            tags=tags,
            status=dg.DagsterRunStatus.STARTED,
            parent_run_id=first.run_id,
            root_run_id=first.run_id,
        )
        assert fail_abandoned(instance) == []


def test_a_number_that_came_again_is_no_worker() -> None:
    now = time.time()
    assert not ended(os.getpid(), now)
    assert ended(os.getpid(), now - 10 * 24 * 3600), "this process is not that old"
    assert ended(dead_pid(), now)


def test_another_process_may_make_the_same_partitions_known_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster looks and then inserts: of two that looked at once the second one's insert fails."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("FER_POSTGRES", raising=False)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", tmp_path)
    first = []

    def between(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if statement.startswith("INSERT INTO dynamic_partitions") and not first:
            first.append(statement)
            with closing(sqlite3.connect(str(connection.engine.url.database))) as other, other:
                other.execute(
                    "INSERT INTO dynamic_partitions (partitions_def_name, partition) "
                    "VALUES ('students', 'a')"
                )

    with dg.DagsterInstance.get() as instance:
        event.listen(Engine, "before_cursor_execute", between)
        try:
            assert add_partitions(instance, "students", ["a", "b"]) == ["b"]
        finally:
            event.remove(Engine, "before_cursor_execute", between)
        assert first
        assert set(instance.get_dynamic_partitions("students")) == {"a", "b"}


@pytest.mark.fault("Dagster's SQLite is locked", "The process waits.")
def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        dead = instance.create_run_for_job(
            nothing,
            status=dg.DagsterRunStatus.STARTED,
            tags={PROCESS_TAG: f"{socket.gethostname()}@{dead_pid()}"},
        )
        (database,) = tmp_path.glob("history/runs.db")
        held = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        held.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(1, lambda: held.execute("COMMIT"))
        release.start()
        assert fail_abandoned(instance) == [dead.run_id]
        release.join()
        held.close()


@dg.job
def nothing() -> None:
    pass


def dead_pid() -> int:
    """Of a process that was there and is not any more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.fault(
    "a Dagster run stays *Started* after a kill or a restart",
    "Its process is known by number and start time. The run is ended and its place in the pool "
    "freed.",
)
def test_a_killed_run_is_failed_and_gives_its_place_back(tmp_path: Path, alive: bool) -> None:
    config = {"concurrency": {"pools": {"default_limit": 1}}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=config) as instance:
        pid = os.getpid() if alive else dead_pid()
        run = instance.create_run_for_job(
            nothing,
            status=dg.DagsterRunStatus.STARTED,
            tags={PROCESS_TAG: f"{socket.gethostname()}@{pid}"},
        )
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("training")
        assert storage.claim_concurrency_slot("training", run.run_id, "teacher").is_claimed
        assert not storage.claim_concurrency_slot("training", "other", "teacher").is_claimed
        storage.free_concurrency_slots_for_run("other")
        assert fail_abandoned(instance) == ([] if alive else [run.run_id])
        held = instance.get_run_by_id(run.run_id)
        assert held is not None
        assert held.is_finished is not alive
        claimed = storage.claim_concurrency_slot("training", "next", "teacher").is_claimed
        assert claimed is not alive
