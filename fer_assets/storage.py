"""Where Dagster keeps runs, events and schedules: SQLite, or Postgres where ``FER_POSTGRES`` says.

``dagster.yaml`` names ``Storage``, so each process of Dagster, however it is started, asks the
environment and nothing else. The address is in no file, and in none of Dagster's own descriptions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import dagster as dg
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from fer_assets.dagster_private.sqlite import (
    INDEX_SHARD_NAME,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    DagsterSqliteStorage,
    DagsterStorage,
    NoOpComputeLogManager,
    SqliteEventLogStorage,
    SqliteStorageConfig,
    event_logs_directory,
)
from fer_ml.base.errors import FerError
from fer_ml.base.settings import postgres_url


class EventLog(SqliteEventLogStorage):
    """Keeps the databases open that it writes to: that of all runs, and that of the latest run.

    Dagster opens and closes one for each event. Each time SQLite then carries its log over and
    deletes it, and SQLAlchemy compiles the statements anew.
    """

    def __init__(self, base_dir: str) -> None:
        self._latest = ""
        self._engines: dict[str, Engine] = {}
        super().__init__(base_dir)

    def store_event(self, event: dg.EventLogEntry) -> None:
        """As Dagster's, through databases that stay open."""
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
        """As Dagster's, at the end of an instance."""
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()
        super().dispose()


class Storage(DagsterSqliteStorage):
    """What ``dagster.yaml`` names; ``base_dir`` is the folder of SQLite's files."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data=inst_data)
        self._event_log_storage = EventLog(event_logs_directory(base_dir))

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: SqliteStorageConfig
    ) -> DagsterStorage:
        """The storage that the environment asks for; ``FerError`` when it does not answer."""
        url = postgres_url()
        if url is None:
            return cls.from_local(inst_data=inst_data, **config_value)
        try:
            from dagster_postgres import DagsterPostgresStorage
        except ImportError as error:
            raise FerError(
                "FER_POSTGRES is set, and dagster-postgres is not installed",
                fix="pip install -e '.[postgres]', or unset FER_POSTGRES",
            ) from error
        # Without a driver's name SQLAlchemy takes another one than dagster-postgres brings along.
        address = url.get_secret_value().replace("postgresql:", "postgresql+psycopg2:", 1)
        with _readable_errors(url):
            return DagsterPostgresStorage(address, inst_data=inst_data)


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance; ``FerError`` when Postgres goes away meanwhile.

    What its runs print is for the terminal. To copy it for the UI too, Dagster would start programs
    beside each run, which Ctrl-C ends with a traceback each.
    """
    with _readable_errors(postgres_url()), dg.DagsterInstance.get() as instance:
        instance._compute_log_manager = NoOpComputeLogManager()
        yield instance


def described() -> str:
    """What is used, without user and password."""
    url = postgres_url()
    return "SQLite in DAGSTER_HOME" if url is None else f"Postgres, {_place(url)}"


def _place(url: SecretStr) -> str:
    parts = urlsplit(url.get_secret_value())
    port = f":{parts.port}" if parts.port else ""
    return f"database {parts.path.strip('/')} on {parts.hostname}{port}"


@contextmanager
def _readable_errors(url: SecretStr | None) -> Iterator[None]:
    """Turn Postgres's refusals into one message. The driver's own words hold no password."""
    if url is None:
        yield
        return
    from dagster_postgres.utils import DagsterPostgresException

    try:
        yield
    except (DBAPIError, DagsterPostgresException) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        told = str(getattr(cause, "orig", None) or error).strip().splitlines()[0]
        raise FerError(
            f"Postgres does not answer: {told}",
            where=f"FER_POSTGRES, {_place(url)}",
            fix="start it or correct FER_POSTGRES, then start again: what is finished stays",
        ) from error
