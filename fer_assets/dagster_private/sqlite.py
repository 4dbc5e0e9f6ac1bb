"""Dagster's SQLite storage, which ``fer_assets.storage`` extends; it has no public base class.

This is a module of its own because importing it takes a third of the time in which a code location
loads, and the code location does not need it.
"""

from dagster._core.instance.ref import InstanceRef
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    SqliteStorageConfig,
    _event_logs_directory,
)
from dagster._serdes import ConfigurableClassData

event_logs_directory = _event_logs_directory

__all__ = [
    # A storage named in dagster.yaml describes itself by it.
    "INDEX_SHARD_NAME",
    # The file of what was told without a run.
    "RUNLESS_RUN_ID",
    "SQLITE_BUSY_TIMEOUT_SECONDS",
    "ConfigurableClassData",
    "DagsterSqliteStorage",
    "DagsterStorage",
    # What describes an instance to processes that it starts: the public way asks the environment.
    "InstanceRef",
    # Output of steps is in our own logs: nothing is kept twice.
    "NoOpComputeLogManager",
    # Rows of what was told without a run, in Postgres: wiping an asset leaves them.
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    # Where the rows of a purged run lie, which have to go with their bytes.
    "SqliteEventLogStorage",
    "SqliteStorageConfig",
    "event_logs_directory",
]
