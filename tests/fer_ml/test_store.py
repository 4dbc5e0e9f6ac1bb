"""The artifact root: complete or absent, verified, and gated."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_ml.errors import FerError
from fer_ml.files import sha256_file, write_json
from fer_ml.store import Input, Receipt, Store, content_hash


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", "test")


def make(store: Store, text: str = "hello", asset: str = "thing") -> None:
    with store.begin(asset, inputs=[Input(asset="raw/x", sha256="0" * 64, root="/data/x")]) as run:
        run.write_text("a.txt", text)
        run.write_json("history.json", {"seconds": os.getpid()})
        run.summary["rows"] = 3


def receipt(store: Store, *, passed: bool = True, sha256: str | None = None) -> Receipt:
    artifact = store.current("thing")
    assert artifact is not None
    return Receipt(
        asset="thing",
        partition=None,
        artifact_sha256=sha256 or artifact.sha256,
        rule="good",
        blocking=True,
        passed=passed,
        value=1,
        limit=0,
        detail="",
        examples=(),
        checked_at="2026-01-01T00:00:00+00:00",
        run_id=None,
    )


def test_a_run_folder_appears_complete_and_becomes_current(store: Store) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact is not None
    assert artifact.file("a.txt").read_text() == "hello"
    assert artifact.damage() is None
    assert artifact.record.summary == {"rows": 3}
    assert list((store.root / ".partial").iterdir()) == []


def test_the_same_content_has_the_same_hash_and_volatile_files_do_not_count(store: Store) -> None:
    make(store)
    first = store.current("thing")
    make(store)
    second = store.current("thing")
    make(store, "other")
    third = store.current("thing")
    assert first and second and third
    assert first.folder != second.folder, "a run folder is never written again"
    assert first.sha256 == second.sha256 != third.sha256
    assert store.find("thing", None, first.sha256) is not None


def test_the_content_hash_is_that_of_its_definition(store: Store) -> None:
    import hashlib

    make(store)
    artifact = store.current("thing")
    assert artifact
    line = f"a.txt\0{hashlib.sha256(b'hello').hexdigest()}\n"
    assert artifact.sha256 == hashlib.sha256(line.encode()).hexdigest()
    assert content_hash(artifact.record.files) == artifact.sha256


def test_an_error_inside_leaves_nothing_behind(store: Store) -> None:
    make(store)
    before = store.current("thing")
    with pytest.raises(RuntimeError), store.begin("thing") as run:
        run.write_text("a.txt", "half")
        raise RuntimeError
    assert store.current("thing") == before
    assert list((store.root / ".partial").iterdir()) == []
    assert len(list(store.all("thing"))) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_the_systems_refusals_become_one_message_with_a_fix(store: Store, code: int) -> None:
    with pytest.raises(FerError, match="fix:"), store.begin("thing"):
        raise OSError(code, "refused")
    assert store.current("thing") is None


def test_a_full_disk_is_reported_and_the_old_artifact_stays(store: Store, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file-size limits need POSIX")
    import signal

    make(store)
    before = store.current("thing")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(FerError, match="file size limit"), store.begin("thing") as run:
            run.write_text("a.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.current("thing") == before


def test_consumers_demand_a_passing_receipt_for_exactly_these_bytes(store: Store) -> None:
    with pytest.raises(FerError, match="has not been made yet"):
        store.require("thing")
    make(store)
    with pytest.raises(FerError, match="no receipt of gate 'good'"):
        store.require("thing", rules=["good"])
    artifact = store.current("thing")
    assert artifact
    store.write_receipt(artifact, receipt(store, passed=False))
    with pytest.raises(FerError, match="failed gate 'good'"):
        store.require("thing", rules=["good"])
    store.write_receipt(artifact, receipt(store, sha256="f" * 64))
    with pytest.raises(FerError, match="no receipt"):
        store.require("thing", rules=["good"])
    store.write_receipt(artifact, receipt(store))
    assert store.require("thing", rules=["good"]).sha256 == artifact.sha256


def test_an_unreadable_receipt_is_no_receipt(store: Store) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    store.write_receipt(artifact, receipt(store))
    (artifact.folder / "receipts" / "good.json").write_text("{}")
    with pytest.raises(FerError, match="no receipt"):
        store.require("thing", rules=["good"])


@pytest.mark.parametrize("name", ["a.txt", "history.json"])
def test_one_flipped_byte_is_refused(store: Store, name: str) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    path = artifact.file(name)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FerError, match=f"damaged: {name}"):
        store.require("thing")


def test_an_edited_record_is_refused(store: Store) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    path = artifact.folder / "record.json"
    record = json.loads(path.read_text())
    changed = artifact.folder / "a.txt"
    changed.write_text("hellO")
    record["files"]["a.txt"]["sha256"] = sha256_file(changed)
    path.write_text(json.dumps(record))
    with pytest.raises(FerError, match=r"record\.json was edited"):
        store.require("thing")


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_holds_is_not(
    store: Store,
) -> None:
    import socket

    partial = store.root / ".partial"
    dead = partial / f"{socket.gethostname()}@999999999-abc"
    alive = partial / f"{socket.gethostname()}@{os.getpid()}-abc"
    elsewhere = partial / "another-host@1-abc"
    for folder in (dead, alive, elsewhere):
        folder.mkdir(parents=True)
    assert store.sweep() == 1
    assert sorted(partial.iterdir()) == sorted([alive, elsewhere])


def test_json_is_written_atomically_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


#: Writes half of its files, waits until the other process is half done too, then the rest.
AT_ONCE = """
import sys, time
from pathlib import Path
from fer_ml.store import Store
root, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Store(root, "p").begin("teacher", "RN18", recipe={"by": me}) as run:
    run.write_text("shared", me)
    run.write_text(f"first_{me}", me)
    (root / me).touch()
    deadline = time.monotonic() + 60
    while not (root / other).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    run.write_text(f"second_{me}", me)
"""


def test_two_processes_that_make_one_asset_at_once_mix_no_files(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, str(tmp_path), me, other])
        for me, other in (("a", "b"), ("b", "a"))
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()
    store = Store(tmp_path, "p")
    made = {artifact.record.recipe["by"]: artifact for artifact in store.all("teacher", "RN18")}
    assert set(made) == {"a", "b"}
    for me, artifact in made.items():
        assert set(artifact.record.files) == {"shared", f"first_{me}", f"second_{me}"}
        assert artifact.file("shared").read_text() == me
        assert artifact.damage() is None
    current = store.require("teacher", "RN18")
    assert current.folder in {artifact.folder for artifact in made.values()}
    assert store.current_hash("teacher", "RN18") == current.sha256
    assert list((tmp_path / ".partial").iterdir()) == []
