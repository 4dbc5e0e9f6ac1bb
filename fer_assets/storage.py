"""Dagster's storage of runs, events and schedules: SQLite, or Postgres if ``FER_POSTGRES`` is set.

``dagster.yaml`` names ``Storage``, so each Dagster process reads the address from the environment
only. The address is written to no file and appears in none of Dagster's own descriptions.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import yaml
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from fer_assets.dagster_private.sqlite import (
    INDEX_SHARD_NAME,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    DagsterSqliteStorage,
    DagsterStorage,
    InstanceRef,
    NoOpComputeLogManager,
    SqliteEventLogStorage,
    SqliteStorageConfig,
    event_logs_directory,
)
from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder
from fer_ml.base.settings import environment, settings

#: Folders of ``DAGSTER_HOME`` in which Dagster keeps what it is told.
STORED = ("history", "schedules", "storage")
NO_SPACE = (
    "its disk is full, or cannot be written",
    "free some space, look whether it is still there, or set DAGSTER_HOME elsewhere",
)
#: What SQLite's refusals mean for whoever runs it, by their code without what comes above a byte.
REFUSALS = {
    # A full disk is told as either.
    sqlite3.SQLITE_FULL: NO_SPACE,
    sqlite3.SQLITE_IOERR: NO_SPACE,
    sqlite3.SQLITE_READONLY: ("it may not be written", "change its owner or its disk's mount"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "look at its folder's owner and its disk"),
    sqlite3.SQLITE_PERM: ("it may not be opened", "change its owner"),
    sqlite3.SQLITE_NOTADB: ("it is no database", "restore it, or move it away"),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", "restore it, or move it away"),
    sqlite3.SQLITE_BUSY: ("another process keeps it", "end that process"),
}


class EventLog(SqliteEventLogStorage):
    """An event log that keeps open the databases it writes: all runs, and the latest run.

    Dagster opens and closes a database for each event. Each time, SQLite merges and deletes its
    write-ahead log, and SQLAlchemy compiles the statements anew.
    """

    def __init__(self, base_dir: str) -> None:
        self._latest = ""
        self._engines: dict[str, Engine] = {}
        super().__init__(base_dir)

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event as Dagster does, through databases that stay open."""
        self._latest = event.run_id
        super().store_event(event)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs or shard not in (INDEX_SHARD_NAME, self._latest):
            with super()._connect(shard) as connection:
                yield connection
            return
        with self._db_lock:
            if shard not in self._engines:
                for other in set(self._engines) - {INDEX_SHARD_NAME}:
                    self._engines.pop(other).dispose()
                waits = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
                address = self.conn_string_for_shard(shard)
                self._engines[shard] = create_engine(address, pool_size=1, connect_args=waits)
            with self._engines[shard].begin() as connection:
                yield connection

    def dispose(self) -> None:
        """Close the databases, as Dagster does at the end of an instance."""
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()
        super().dispose()


class Storage(DagsterSqliteStorage):
    """The storage class that ``dagster.yaml`` names; ``base_dir`` holds SQLite's files."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Pictures of faces may be shown there. As Dagster's own, all may read them.
        for name in STORED:
            private_folder(Path(base_dir) / name)
        super().__init__(base_dir, inst_data=inst_data)
        self._event_log_storage = EventLog(event_logs_directory(base_dir))

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: SqliteStorageConfig
    ) -> DagsterStorage:
        """Return the storage that the environment selects; ``FerError`` if it does not answer."""
        url = environment().FER_POSTGRES
        if url is None:
            return cls.from_local(inst_data=inst_data, **config_value)
        try:
            from dagster_postgres import DagsterPostgresStorage
        except ImportError as error:
            raise FerError(
                "FER_POSTGRES is set, and dagster-postgres is not installed",
                code="missing-package",
                fix="pip install -e '.[postgres]', or unset FER_POSTGRES",
            ) from error
        # Without a driver's name SQLAlchemy takes another one than dagster-postgres brings along.
        address = url.get_secret_value().replace("postgresql:", "postgresql+psycopg2:", 1)
        with _readable_errors(url, Path(config_value["base_dir"])):
            return DagsterPostgresStorage(address, inst_data=inst_data)


def dagster_home() -> Path:
    """Return Dagster's folder; ``FerError`` if it is mistakable for another or unusable."""
    home = settings().dagster_home
    if not (home / "dagster.yaml").is_file():
        raise FerError(
            "DAGSTER_HOME holds no dagster.yaml",
            code="missing-dagster-yaml",
            where=home,
            fix="copy the project's dagster_home/dagster.yaml there, or unset DAGSTER_HOME",
        )
    # Dagster makes an address of the path without escaping what means something there.
    if environment().FER_POSTGRES is None and make_url(f"sqlite:///{home}").database != str(home):
        raise FerError(
            "Dagster cannot keep its database in a folder with this name",
            code="invalid-dagster-home",
            where=home,
            allowed="a path without ?, and without % before two hexadecimal digits",
            fix="rename the folder, or set DAGSTER_HOME elsewhere",
        )
    return home


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Yield Dagster's instance; ``FerError`` if its database becomes unavailable meanwhile.

    Output of its runs goes to the terminal only. To copy it to the UI as well, Dagster would start
    programs beside each run, and Ctrl-C ends each of them with a traceback.
    """
    home = dagster_home()
    with _readable_errors(environment().FER_POSTGRES, home), opened(home) as instance:
        instance._compute_log_manager = NoOpComputeLogManager()
        yield instance


def opened(home: Path) -> dg.DagsterInstance:
    """Return the instance that ``home`` describes; ``FerError`` for an invalid ``dagster.yaml``.

    Processes that Dagster starts get this description with the folder in it, instead of
    ``DAGSTER_HOME``.
    """
    try:
        ref = InstanceRef.from_dir(str(home))
        if ref.storage_data is not None and ref.storage_data.module_name == __name__:
            ours = {"module": __name__, "class": "Storage", "config": {"base_dir": str(home)}}
            ref = InstanceRef.from_dir(str(home), overrides={"storage": {"custom": ours}})
        return dg.DagsterInstance.from_ref(ref)
    except (dg.DagsterInvalidConfigError, yaml.YAMLError, TypeError):
        # Their words repeat the file, which may hold what nobody should read.
        raise FerError(
            "dagster.yaml is not valid",
            code="invalid-dagster-yaml",
            where=home,
            fix="compare it with dagster_home/dagster.yaml of the project",
        ) from None


def described() -> str:
    """Return a description of the storage in use, without user and password."""
    url = environment().FER_POSTGRES
    return "SQLite in DAGSTER_HOME" if url is None else f"Postgres, {_place(url)}"


def _place(url: SecretStr) -> str:
    parts = urlsplit(url.get_secret_value())
    port = f":{parts.port}" if parts.port else ""
    return f"database {parts.path.strip('/')} on {parts.hostname}{port}"


@contextmanager
def _readable_errors(url: SecretStr | None, home: Path) -> Iterator[None]:
    """Turn database errors into one message; the drivers' own messages hold no password."""
    if url is None:
        with _readable_sqlite(home):
            yield
        return
    from dagster_postgres.utils import DagsterPostgresException

    try:
        yield
    except (DBAPIError, DagsterPostgresException) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        message = str(getattr(cause, "orig", None) or error).strip().splitlines()[0]
        raise FerError(
            f"Postgres does not answer: {message}",
            code="postgres-unavailable",
            where=f"FER_POSTGRES, {_place(url)}",
            fix="start Postgres or correct FER_POSTGRES, then start again: finished assets are "
            "kept",
        ) from error


@contextmanager
def _readable_sqlite(home: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in REFUSALS:
            raise
        what, fix = REFUSALS[code & 0xFF]
        raise FerError(
            f"Dagster's database cannot be used: {what}",
            code="database-unusable",
            where=home,
            fix=f"{fix}; then start again: finished assets are kept",
        ) from error
