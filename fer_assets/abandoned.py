"""Runs that lost their process, and what Dagster keeps of runs that are to be forgotten."""

import socket
from collections.abc import Iterable
from pathlib import Path

import dagster as dg

from fer_assets.assets import HOST_TAG
from fer_ml.base.files import discard
from fer_ml.base.processes import ended, gone
from fer_ml.base.settings import postgres_url

#: On a run: the process that makes it, as ``host@pid``.
PROCESS_TAG = "fer/process"


def fail_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process on this machine is gone, and free their places in the pools.

    A kill, or a restart of the machine, leaves a run started for ever, and a training that waits
    for its place in the pool would wait for ever too. Returns their ids.
    """
    dead = []
    running = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=running)):
        # A number of a process says something on its own machine alone.
        here = postgres_url() is None or run.tags.get(HOST_TAG) == socket.gethostname()
        if gone(run.tags.get(PROCESS_TAG, "")) or (here and _worker_gone(instance, run.run_id)):
            instance.report_run_failed(run, "the process that made this run is gone")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        held = instance.get_run_by_id(run_id)
        if held is None or held.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return dead


def _worker_gone(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run that the UI or the daemon started has lost its process.

    Its first event with a number of a process is that of the worker, which the default launcher
    starts on this machine.
    """
    for record in instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=20, ascending=True
    ).records:
        event = record.event_log_entry.dagster_event
        told = event.engine_event_data.metadata.get("pid") if event else None
        if told is not None:
            return ended(int(str(told.value)), record.event_log_entry.timestamp)
    return False


def forget_pictures(assets: Iterable[str]) -> None:
    """Delete the runs that made these assets, and their events: Dagster keeps pictures in them."""
    # These take a third of the time in which a code location loads, and it never comes here.
    from fer_assets.dagster_private.sqlite import SqliteEventLogStorage
    from fer_assets.storage import dagster_instance

    with dagster_instance() as instance:
        for asset in assets:
            key = dg.AssetKey(asset.split("/"))
            records = instance.fetch_materializations(key, limit=10_000).records
            for run_id in {record.run_id for record in records if record.run_id}:
                if instance.has_run(run_id):
                    instance.delete_run(run_id)
                if isinstance(instance.event_log_storage, SqliteEventLogStorage):
                    # Its rows are deleted, and their bytes still lie in the files of the run.
                    database = instance.event_log_storage.path_for_shard(run_id)
                    for file in map(Path, (database, f"{database}-wal", f"{database}-shm")):
                        if file.exists():
                            file.write_bytes(b"")  # Another process may have it open.
                            discard(file)
            instance.wipe_assets([key])
