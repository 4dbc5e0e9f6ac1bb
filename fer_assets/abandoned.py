"""Clean up in Dagster: fail runs whose process is gone, and delete events that show faces."""

import logging
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import dagster as dg

from fer_assets.assets import HOST_TAG
from fer_assets.keys import asset_of
from fer_ml.base.errors import FerError
from fer_ml.base.files import discard
from fer_ml.base.processes import ended, gone
from fer_ml.base.settings import environment
from fer_ml.privacy.faces import shows_faces

#: On a run: the process that makes it, as ``host@pid``.
PROCESS_TAG = "fer/process"
#: Seconds that another process may keep a database that is written anew.
PATIENCE_S = 30


def maker(run: dg.DagsterRun) -> str:
    """Return the process that started a run of the command; empty for the UI and the daemon.

    A run that the UI repeats copies the tags of the earlier run, but was not started by its
    process.
    """
    return "" if run.parent_run_id else run.tags.get(PROCESS_TAG, "")


def fail_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process on this machine is gone, and free their pool slots.

    A kill or a restart of the machine leaves such a run in the state "started" for ever, and a
    training that waits for its pool slot would wait for ever too. Returns the ids of these runs.
    """
    dead = []
    running = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=running)):
        # A number of a process says something on its own machine alone.
        local = environment().FER_POSTGRES is None or run.tags.get(HOST_TAG) == socket.gethostname()
        if gone(maker(run)) or (local and _worker_gone(instance, run.run_id)):
            _fail(instance, run)
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return dead


def _fail(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Fail a run at the time of its last event, because the end of its process is unknown."""
    (last,) = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records or (None,)
    gone = "the process that made this run is gone: it ended after the last event before this one"
    failed = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name, message=gone)
    at = last.event_log_entry.timestamp if last else None
    instance.report_dagster_event(failed, run.run_id, logging.ERROR, timestamp=at)


def _worker_gone(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run that the UI or the daemon started has lost its worker process.

    Its first event with a process id is that of the worker, which the default launcher starts on
    this machine.
    """
    for record in instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=20, ascending=True
    ).records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return ended(int(str(pid.value)), record.event_log_entry.timestamp)
    return False


def forget_pictures(assets: Iterable[str]) -> None:
    """Delete the Dagster events of ``assets`` that show pictures of faces, and their runs.

    Covers all profiles, and keys of earlier versions that did not name a profile. Events of
    ``report`` are deleted only if its figures show faces.
    """
    # These take a third of the time in which a code location loads, and it never comes here.
    from fer_assets.dagster_private.sqlite import (
        INDEX_SHARD_NAME,
        RUNLESS_RUN_ID,
        SqlEventLogStorage,
        SqlEventLogStorageTable,
        SqliteEventLogStorage,
    )
    from fer_assets.storage import dagster_instance

    with dagster_instance() as instance:
        storage = instance.event_log_storage
        wanted = set(assets)
        # All of them are looked for first: with a run go the events of its other assets.
        found = {
            key: instance.fetch_materializations(key, limit=10_000).records
            for key in instance.get_asset_keys()
            if {key.to_user_string(), asset_of(key)} & wanted
        }
        wiped = [key for key, records in found.items() if any(map(_shows_faces, records))]
        keys = [key.to_string() for key in wiped]
        # Wiping comes last: until then a purge that was stopped finds the assets again.
        if isinstance(storage, SqliteEventLogStorage):
            runless = Path(storage.path_for_shard(RUNLESS_RUN_ID))
            if runless.is_file():
                _forget_free_pages(runless, keys)
        elif isinstance(storage, SqlEventLogStorage):
            with storage.index_connection() as connection:
                rows = SqlEventLogStorageTable
                connection.execute(rows.delete().where(rows.c.asset_key.in_(keys)))
        for key in wiped:
            for run_id in {record.run_id for record in found[key] if record.run_id}:
                if instance.has_run(run_id):
                    instance.delete_run(run_id)
                if isinstance(storage, SqliteEventLogStorage):
                    # Its rows are deleted, and their bytes still lie in the files of the run.
                    _discard(storage.path_for_shard(run_id))
            instance.wipe_assets([key])
        if isinstance(storage, SqliteEventLogStorage):
            _forget_free_pages(Path(storage.path_for_shard(INDEX_SHARD_NAME)))


def _discard(database: str) -> None:
    """Delete an SQLite database together with its write-ahead log."""
    for file in map(Path, (database, f"{database}-wal", f"{database}-shm")):
        if file.exists():
            file.write_bytes(b"")  # Another process may have it open.
            discard(file)


def _shows_faces(record: dg.EventLogRecord) -> bool:
    """Whether a materialization's metadata (see ``metadata``) holds a picture of faces."""
    made = record.asset_materialization
    return made is not None and any(
        isinstance(value, dg.MarkdownMetadataValue)
        and "](data:image" in str(value.value)
        and (name == "report" or shows_faces(f"{name}.png"))
        for name, value in made.metadata.items()
    )


def _forget_free_pages(database: Path, assets: Iterable[str] = ()) -> None:
    """Rewrite an SQLite database, so that its files no longer contain deleted rows.

    Events of ``assets`` (keys as Dagster stores them) are deleted first.
    """
    connection = sqlite3.connect(database, timeout=PATIENCE_S, isolation_level=None)
    try:
        for key in assets:
            connection.execute("DELETE FROM event_logs WHERE asset_key = ?", (key,))
        connection.execute("VACUUM")
        ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise sqlite3.OperationalError("a reader keeps its log")
    except sqlite3.OperationalError as error:
        raise FerError(
            f"the deleted pictures could not be erased from Dagster's database: {error}",
            code="database-in-use",
            where=database,
            fix="end the programs that have it open, such as fer ui, and start the purge again",
        ) from error
    finally:
        connection.close()
