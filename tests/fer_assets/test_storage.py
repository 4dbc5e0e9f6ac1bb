"""Dagster on a real Postgres, artifacts in a real object store; and what a loss of one leaves."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from fer_assets.abandoned import PROCESS_TAG, fail_abandoned, forget_pictures
from fer_assets.assets import HOST_TAG
from fer_assets.dagster_private.sqlite import SqlEventLogStorage, SqlEventLogStorageTable
from fer_assets.doctor import examine
from fer_assets.keys import asset_key
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.staleness import unjudged
from fer_assets.storage import dagster_instance, described
from fer_ml.base.settings import settings
from tests import object_server
from tests.postgres import PASSWORD, Server, server
from tests.refusals import refused

SECRET = PASSWORD.replace(" ", "%20")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    pytest.importorskip("dagster_postgres", reason="pip install -e '.[postgres]'")
    with server() as held, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_POSTGRES", held.url)
        yield held


@pytest.fixture(scope="module")
def tiny(postgres: Server, project: Callable[[str], Pipeline]) -> Pipeline:
    return project("tiny")


def chosen(pipeline: Pipeline) -> Callable[..., bool]:
    return pipeline.named("manifest/expw_full,manifest/rafdb_basic")


def test_a_part_of_the_lineage_with_its_events_and_verdicts(tiny: Pipeline) -> None:
    with dagster_instance() as instance:
        done = materialize(tiny, instance, select=chosen(tiny))
        assert [made.target.label for made in done] == [
            "manifest/rafdb_basic",
            "manifest/expw_full",
        ]
        key = asset_key("tiny", "manifest/expw_full")
        (event,) = instance.fetch_materializations(key, limit=9).records
        (run,) = instance.get_runs()
        assert event.run_id == run.run_id
        checks = instance.event_log_storage.get_asset_check_summary_records
        for rule, receipt in made_receipts(tiny).items():
            (summary,) = checks([dg.AssetCheckKey(key, rule)]).values()
            last = summary.last_check_execution_record
            assert last is not None
            assert last.status.value == ("SUCCEEDED" if receipt else "FAILED"), rule
        assert materialize(tiny, instance, select=chosen(tiny)) == []
    assert not list(tiny.settings.project.glob("dagster_home/**/*.db")), "SQLite holds nothing"


def test_a_purge_leaves_no_picture_in_postgres(tiny: Pipeline) -> None:
    """Dagster's own wiping leaves the rows of what it was told without a run."""
    key, other = asset_key("tiny", "report"), asset_key("tiny", "student_kd")
    picture = {"report": dg.MetadataValue.md("![a](data:image/png;base64,FACE)")}
    with dagster_instance() as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=picture))
        instance.report_runless_asset_event(dg.AssetMaterialization(other))

        def stored() -> str:
            with storage.index_connection() as connection:
                rows = connection.execute(SqlEventLogStorageTable.select())
                return "".join(row.event for row in rows)

        assert "base64,FACE" in stored()
        forget_pictures(["report"])
        assert "base64,FACE" not in stored()
        assert len(instance.fetch_materializations(other, limit=9).records) == 1


def made_receipts(pipeline: Pipeline) -> dict[str, bool]:
    artifact = pipeline.store.current("manifest/expw_full")
    assert artifact
    held = artifact.receipts().items()
    return {rule: receipt.passed for rule, receipt in held if receipt.passed is not None}


def test_the_ui_and_dagster_by_hand_use_it_too(tiny: Pipeline) -> None:
    dagster = [sys.executable, "-m", "dagster", "run", "list"]
    told = subprocess.run(
        dagster, capture_output=True, text=True, check=True, cwd=tiny.settings.project
    ).stdout
    with dagster_instance() as instance:
        (run,) = instance.get_runs()
        assert run.run_id in told
        info = instance.info_str()
    for text in (told, info, described(), json.dumps(doctor(tiny))):
        assert SECRET not in text
        assert PASSWORD not in text
    assert doctor(tiny) == ["ok", f"{described()}, 1 runs"]
    assert described().startswith("Postgres, database postgres on 127.0.0.1:")


def doctor(pipeline: Pipeline) -> list[str]:
    (found,) = [f for f in examine(pipeline) if f.what == "Dagster's storage"]
    return [found.state, found.found]


@dg.job
def nothing() -> None:
    pass


def test_a_killed_run_is_failed_and_gives_its_place_back(tiny: Pipeline) -> None:
    """As on SQLite: what runs and pools keep of a dead process is cleared away."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with dagster_instance() as instance:
        run = instance.create_run_for_job(
            nothing,
            status=dg.DagsterRunStatus.STARTED,
            tags={PROCESS_TAG: f"{socket.gethostname()}@{child.pid}"},
        )
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("training")
        assert storage.claim_concurrency_slot("training", run.run_id, "teacher").is_claimed
        assert fail_abandoned(instance) == [run.run_id]
        assert storage.claim_concurrency_slot("training", "next", "teacher").is_claimed
        storage.free_concurrency_slots_for_run("next")


@pytest.mark.parametrize("mine", [True, False])
def test_a_process_of_another_machine_is_not_looked_for_here(tiny: Pipeline, mine: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with dagster_instance() as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        data = EngineEventData.in_process(child.pid)
        instance.report_engine_event("Started process for run.", run, data)
        host = socket.gethostname() if mine else "another-machine"
        instance.add_run_tags(run.run_id, {HOST_TAG: host})
        assert fail_abandoned(instance) == ([run.run_id] if mine else [])
        instance.report_run_failed(run)


def test_a_run_says_which_machine_it_is_on(tiny: Pipeline) -> None:
    with dagster_instance() as instance:
        for run in instance.get_runs():
            if run.job_name == "data":
                assert run.tags[HOST_TAG] == socket.gethostname()
                return
    raise AssertionError("no run of the job data")


#: Makes two manifests; the server is stopped when the first is whole and not yet told to Dagster.
STOPPED = """
import os, subprocess, sys
from fer_assets.cli import main
from fer_assets.pipeline import Pipeline
make = Pipeline.make
def then_stop(self, target, *args, **named):
    made = make(self, target, *args, **named)
    if target.asset == "manifest/affectnet_full_balanced":
        subprocess.run(STOP, check=True, user=USER, cwd="/", stdout=subprocess.DEVNULL)
    return made
Pipeline.make = then_stop
sys.argv = ["fer", "materialize", "--select", "manifest/affectnet_full_balanced,manifest/expw_full"]
main()
"""


@pytest.mark.proof  # Dagster tries for minutes before it gives up.
@pytest.mark.fault(
    "Postgres goes away and comes back",
    "One clear error names the setting. Afterwards only what is missing is made.",
)
def test_a_server_that_goes_away_loses_nothing_and_nothing_is_made_twice(
    tiny: Pipeline, postgres: Server
) -> None:
    stop = [str(postgres.programs / "pg_ctl"), "-D", str(postgres.data), "-m", "immediate", "stop"]
    script = STOPPED.replace("STOP,", f"{stop!r},").replace("USER", repr(postgres.user))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    fer = [sys.executable, "-c", script]
    done = subprocess.run(fer, capture_output=True, text=True, env=environment)
    try:
        assert done.returncode == 1
        last = done.stderr[done.stderr.rindex("error: ") :]
        assert "Postgres does not answer" in last
        assert "FER_POSTGRES" in last
        assert PASSWORD not in done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        with refused("postgres-unavailable"), dagster_instance():
            pass
        assert doctor(tiny)[0] == "blocks"
        kept = tiny.store.verified("manifest/affectnet_full_balanced")
    finally:
        postgres.start()
    with dagster_instance() as instance:
        both = tiny.named("manifest/affectnet_full_balanced,manifest/expw_full")
        materialize(tiny, instance, select=both)
        key = asset_key("tiny", "manifest/affectnet_full_balanced")
        assert instance.fetch_materializations(key, limit=9).records, "it is told to Dagster now"
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        assert instance.get_runs(started) == [], "the run that lost its database is ended"
    assert [a.folder for a in tiny.store.all("manifest/affectnet_full_balanced")] == [kept.folder]
    assert not tiny.store.sweep()


@pytest.mark.parametrize("value", ["mysql://x:pw@h/db", "postgresql:///db", "pw"])
def test_another_address_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FER_POSTGRES", value)
    with refused("invalid-setting") as told:
        described()
    assert "FER_POSTGRES" in told.value.what
    assert "pw" not in str(told.value)


@pytest.fixture
def sqlite_home(
    project: Callable[[str], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A ``DAGSTER_HOME`` of its own, without the setting."""
    folder = project("tiny").settings.project / "dagster_home"
    (tmp_path / "dagster.yaml").write_bytes((folder / "dagster.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("FER_POSTGRES", raising=False)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def test_without_the_setting_it_is_sqlite_where_it_always_was(sqlite_home: Path) -> None:
    with dagster_instance() as instance:
        assert instance.get_runs_count() == 0
    assert (sqlite_home / "history" / "runs.db").is_file()
    assert (sqlite_home / "history" / "runs" / "index.db").is_file()
    assert described() == "SQLite in DAGSTER_HOME"


def test_a_run_writes_to_databases_that_stay_open_and_others_read_them(sqlite_home: Path) -> None:
    def opened() -> int:
        """How many databases SQLite keeps a log of, as it does while somebody has them open."""
        return len(list((sqlite_home / "history" / "runs").glob("*.db-wal")))

    with dagster_instance() as instance:
        runs = [nothing.execute_in_process(instance=instance).run_id for _ in range(3)]
        assert opened() == 2, "that of all runs and that of the last one"
        with dagster_instance() as other:
            for run_id in runs:
                mine, read = instance.all_logs(run_id), other.all_logs(run_id)
                assert len(mine) >= 5
                assert read == mine
    assert opened() == 0


@pytest.mark.proof
def test_two_machines_on_one_bucket(
    drawn: Path,
    project: Callable[[str], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second makes nothing that the first has made, and goes on from there."""
    folder = project("tiny").settings.project
    (tmp_path / "seaweed").mkdir()
    with object_server.server(tmp_path / "seaweed") as held:
        for name, value in held.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("FER_POSTGRES", raising=False)
        monkeypatch.setenv("FER_HOME", "s3://faces/project")

        def machine(name: str) -> Pipeline:
            (tmp_path / name / "dagster").mkdir(parents=True)
            shutil.copy(folder / "dagster_home" / "dagster.yaml", tmp_path / name / "dagster")
            monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / name / "dagster"))
            monkeypatch.setenv("FER_CACHE", str(tmp_path / name / "cache"))
            settings.cache_clear()
            # Raw data is each machine's own; its times are part of what it is known by.
            shutil.copytree(drawn, tmp_path / name / "cache" / "tiny" / "drawn")
            return Pipeline.open("tiny")

        first = machine("first")
        sources = first.named(",".join(f"manifest/{s.name}" for s in first.profile.sources))
        with dagster_instance() as instance:
            assert len(materialize(first, instance, select=sources)) == 3
        second = machine("second")
        unified = second.named("classification_manifest")
        with dagster_instance() as instance:
            assert materialize(second, instance, select=sources) == []
            (made,) = materialize(second, instance, select=unified)
        assert not unjudged(second, made.target)
        assert first.store.verified("classification_manifest") is not None
        current = first.store.current("classification_manifest")
        assert current is not None and current.sha256 == made.artifact.sha256
    settings.cache_clear()
