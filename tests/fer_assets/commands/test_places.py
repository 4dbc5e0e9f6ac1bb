"""Where things are: settings that are paths, Dagster's folder, and streams that are closed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.storage import dagster_instance
from fer_ml.base.errors import FerError
from fer_ml.base.settings import settings
from tests import refusals
from tests.fer_assets.commands.conftest import Fer, refused
from tests.fer_assets.folders import ROOT

OWN = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
PATHS = ("FER_HOME", "DAGSTER_HOME", "FER_PROJECT")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose folders nothing names yet."""
    project = tmp_path / "project"
    (project / "dagster_home").mkdir(parents=True)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", project / "dagster_home")
    shutil.copy(ROOT / "workspace.yaml", project)
    for name in (*PATHS, "FER_CACHE", "FER_POSTGRES", "FER_PROFILE"):
        monkeypatch.setenv(name, "")  # What a test sets is taken back after it too.
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(project)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize("variable", PATHS)
def test_every_path_takes_a_tilde_and_a_relative_path(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    fields = dict(zip(PATHS, ("home", "dagster_home", "project"), strict=True))
    for given, meant in (("~/project", home / "project"), ("../project", home / "project")):
        monkeypatch.setenv(variable, given)
        settings.cache_clear()
        assert getattr(settings(), fields[variable]) == meant


def test_the_cache_of_an_object_store_takes_a_tilde(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_HOME", "s3://bucket/prefix")
    monkeypatch.setenv("FER_CACHE", "~/cache")
    assert settings().home == home / "cache"


def test_the_home_of_nobody_is_told(fer: Fer) -> None:
    refused(fer("doctor", FER_HOME="~nobody-of-this-name/x"), "FER_HOME", "~nobody-of-this-name")


def test_a_relative_dagster_home_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("dagster_home", "other")
    monkeypatch.setenv("DAGSTER_HOME", "other")
    with dagster_instance() as instance:
        instance.add_dynamic_partitions("kept", ["here"])
    assert (Path("other") / "history").is_dir()
    assert not (Path("dagster_home") / "history").exists()


@pytest.mark.parametrize("name", ["none", "empty", "file"])
def test_a_dagster_home_without_its_settings_is_refused(
    fer: Fer, tmp_path: Path, name: str
) -> None:
    """Dagster would go on with settings of its own: telemetry, no pools, another database."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    done = fer("materialize", DAGSTER_HOME=str(tmp_path / name))
    refused(done, "code: missing-dagster-yaml", str(tmp_path / name))
    assert done.returncode == 1
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("text", ["a: [", "foo: 1", "storage: 7"])
def test_a_dagster_yaml_that_is_not_valid_is_one_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (home / "project" / "dagster_home" / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", "dagster_home")
    settings.cache_clear()
    with pytest.raises(FerError) as caught, dagster_instance():
        pass
    assert caught.value.where == str(home / "project" / "dagster_home") and caught.value.fix


@pytest.mark.parametrize("name", ["a#b", "a%b", "a b", "a'b", 'a"b', "a&b=c", "a%(x)s", "[a]"])
def test_a_folder_of_any_name_holds_dagsters_database(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = home / name
    shutil.copytree("dagster_home", folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with dagster_instance() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("seen"))
    with dagster_instance() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("seen"))
    assert (folder / "history" / "runs").is_dir()


@pytest.mark.parametrize("name", ["what?", "?", "a?b=c", "a%20b", "%3f", "100%25"])
def test_a_name_that_means_something_to_sqlite_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = home / name
    shutil.copytree("dagster_home", folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with pytest.raises(FerError) as caught, dagster_instance():
        pass
    assert caught.value.where == str(folder) and caught.value.fix
    assert {path.name for path in home.iterdir()} == {"project", name}


def test_a_database_that_is_none_is_told(home: Path) -> None:
    history = Path("dagster_home") / "history"
    history.mkdir()
    (history / "runs.db").write_bytes(b"no database at all, but long enough to be read " * 99)
    with pytest.raises(FerError) as caught, dagster_instance() as instance:
        instance.get_runs()
    assert caught.value.where == str(Path("dagster_home").resolve())


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_below_dagster_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = home / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(small)])
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        shutil.copy(ROOT / "dagster_home" / "dagster.yaml", small)
        monkeypatch.setenv("DAGSTER_HOME", str(small))
        with (
            refusals.refused("database-unusable") as caught,
            dagster_instance() as instance,
        ):
            while True:
                instance.report_runless_asset_event(dg.AssetMaterialization("seen" * 99))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert caught.value.where == str(small)


CLOSED = ("", "<&-", ">&-", "2>&-", "<&- >&- 2>&-")


@pytest.mark.skipif(sys.platform == "win32", reason="closed with a POSIX shell")
@pytest.mark.parametrize("closed", CLOSED)
def test_a_closed_stream_leads_nowhere(tmp_path: Path, fer: Fer, closed: str) -> None:
    """Nor into a file that happens to get its number."""
    code = "from fer_assets.cli import main; main()"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "{code}" card --json {closed}', sys.executable],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=OWN,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (done.stdout == "") == (">&-" in closed.replace("2>&-", ""))


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("command", [["card", "--json"], ["--help"], ["doctor"]])
def test_an_output_that_takes_nothing_is_named(tmp_path: Path, command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from fer_assets.cli import main; main()", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=OWN,
            check=False,
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "where: standard output" in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(fer: Fer, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from fer_assets.cli import main; main()", "card", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=OWN,
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
