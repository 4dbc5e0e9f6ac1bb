"""The data stage, a training and the demo in a world like Windows', against the same made here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.staleness import stale_reason
from fer_ml.base.names import clashing, name_fault
from fer_ml.base.settings import settings
from fer_ml.storage.store import Store
from tests.elsewhere import environment
from tests.fer_assets.conftest import ROOT, TINY, TINY_CLAIMS
from tests.machine import LINUX

pytestmark = LINUX

FER = "from fer_assets.cli import main; main()"
#: In no code page of Windows' pipes, and none of it in one writing alone.
FOLDER = "Projekt \u65e5\u672c \u00e9"


class Elsewhere:
    """A project there, and the ``fer`` command in it."""

    def __init__(self, folder: Path, drawn: Path) -> None:
        self.folder = folder / FOLDER
        for name in ("dagster_home", "claims"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(ROOT / "workspace.yaml", self.folder)
        shutil.copy(ROOT / "dagster_home" / "dagster.yaml", self.folder / "dagster_home")
        short = TINY.replace("epochs = 3", "epochs = 1")
        for name, text in (("fer.toml", short), ("claims/tiny.yaml", TINY_CLAIMS)):
            (self.folder / name).write_bytes(text.replace("\n", "\r\n").encode())
        # It keeps the times, which are part of a raw folder's fingerprint.
        shutil.copytree(drawn, self.home / "drawn")

    @property
    def home(self) -> Path:
        return self.folder / "outputs" / "tiny"

    def fer(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FER, *arguments],
            capture_output=True,
            # One thread: several wait for each other where other work is done beside it.
            env={**environment(self.folder.parent), "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
            check=False,
        )
        told = done.stdout.decode("cp1252")
        assert done.returncode == code, told + done.stderr.decode("cp1252", "replace")
        return told


@pytest.fixture(scope="module")
def there(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The manifests and a student, made there."""
    made = Elsewhere(tmp_path_factory.mktemp("elsewhere"), drawn)
    told = made.fer("materialize", "-p", "tiny", "--select", "manifests,student_ce")
    assert "student_ce" in told
    return made


@pytest.fixture(scope="module")
def store(there: Elsewhere) -> Store:
    """What was made there, opened here."""
    return Store(there.home, "tiny")


def test_what_was_made_there_is_whole_here(store: Store) -> None:
    made = list(store.every())
    assert {"hq_train_manifest", "manifest/expw_full", "student_ce"} <= {
        artifact.record.asset for artifact in made
    }
    for artifact in made:
        assert artifact.damage() is None
        assert all(
            receipt.passed or not receipt.blocking for receipt in artifact.receipts().values()
        )
        assert artifact.record.summary["cpu_seconds"] > 0
        assert artifact.record.summary["peak_memory_mb"] > 50
    assert store.faults() == []
    assert not list(store.partial.iterdir()), "nothing half-made is left"


def test_manifests_are_the_same_bytes_as_here(
    store: Store, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Elsewhere
) -> None:
    """So a lineage may begin on one system and go on on another."""
    monkeypatch.setenv("FER_PROJECT", str(there.folder))
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    monkeypatch.setenv("FER_PROFILE", "tiny")
    settings.cache_clear()
    try:
        shutil.copytree(drawn, tmp_path / "tiny" / "drawn")
        here = Pipeline.open("tiny")
        for target in here.targets():
            if here.stage(target.asset).group == "manifests":
                made = here.make(target)
                here.judge(target)
                held = store.current(target.asset, target.partition)
                assert held is not None
                assert held.sha256 == made.sha256, target.label
                assert [i.sha256 for i in held.record.inputs] == [
                    i.sha256 for i in made.record.inputs
                ]
    finally:
        settings.cache_clear()


def test_what_was_made_there_is_up_to_date_here(
    there: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_PROJECT", str(there.folder))
    monkeypatch.delenv("FER_HOME", raising=False)
    monkeypatch.setenv("FER_PROFILE", "tiny")
    settings.cache_clear()
    try:
        here = Pipeline.open("tiny")
        raw = {name.removeprefix("raw/"): held for name, held in here.fingerprints().items()}
        made = [t for t in here.targets() if here.store.current(t.asset, t.partition) is not None]
        assert Target("student_ce") in made
        assert {target.label: stale_reason(here, target, raw) for target in made} == {
            target.label: None for target in made
        }
    finally:
        settings.cache_clear()


def test_every_name_is_one_on_every_system(there: Elsewhere) -> None:
    paths = [
        path.relative_to(there.home).as_posix()
        for path in there.home.rglob("*")
        if not path.is_relative_to(there.home / "drawn")
    ]
    assert len(paths) > 100
    assert [p for p in paths if any(name_fault(name) for name in p.split("/"))] == []
    assert clashing(paths) is None


def test_commands_print_into_a_pipe_that_lacks_characters(there: Elsewhere) -> None:
    assert "up to date" in there.fer(
        "materialize", "-p", "tiny", "--select", "manifests,student_ce"
    )
    assert "student_ce" in there.fer("trace", "student_ce", "-p", "tiny")
    # The project's own folder has characters that the pipe lacks: they are told by their numbers.
    assert r"\u65e5" in there.fer("doctor", "-p", "tiny")
    assert json.loads(
        there.fer("validate", str(manifest(there)), "--json", "--root", str(there.home))
    )


def manifest(there: Elsewhere) -> Path:
    held = Store(there.home, "tiny").current("hq_train_manifest")
    assert held is not None
    return held.file(next(name for name in held.record.files if name.endswith(".csv")))


def test_the_demo_runs_and_logs_there(there: Elsewhere) -> None:
    out = there.folder / "session"
    video = there.home / "drawn" / "video" / "demo.avi"
    there.fer("demo", "play", str(video), "--headless", "--max-frames", "20", "--out", str(out))
    rows = (out / "per_frame.csv").read_bytes()
    assert rows.count(b"\n") >= 21 and b"\r" not in rows
    there.fer("demo", "play", str(video), "--headless", "--out", "nul", code=1)
    assert not (there.folder / "nul").exists()
