"""The artifact root: complete or absent, verified, and gated."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from fer_ml.base.cost import COSTS
from fer_ml.base.files import owned_name, write_json
from fer_ml.base.processes import gone, owner
from fer_ml.base.reading import sha256_file
from fer_ml.storage.artifact import Demands
from fer_ml.storage.gates import Gate
from fer_ml.storage.record import Input, Receipt, content_hash
from fer_ml.storage.store import Store
from tests.gates import GOOD
from tests.machine import LINUX, POSIX
from tests.refusals import refused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty artifact root of things."""
    return Store(tmp_path / "home", "test", demands=GOOD)


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
    assert artifact.record.summary["rows"] == 3
    assert set(artifact.record.summary) == {"rows", *COSTS}
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


def test_a_recipe_has_one_hash_however_its_fields_are_ordered(store: Store) -> None:
    found = []
    for recipe in ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}):
        with store.begin("thing", recipe=recipe) as run:
            run.write_text("a.txt", "x")
        artifact = store.current("thing")
        assert artifact is not None
        found.append(artifact.record.recipe_sha256)
    assert found[0] == found[1]


def test_an_error_inside_leaves_nothing_behind(store: Store) -> None:
    make(store)
    before = store.current("thing")
    with pytest.raises(RuntimeError), store.begin("thing") as run:
        run.write_text("a.txt", "half")
        raise RuntimeError
    assert store.current("thing") == before
    assert list((store.root / ".partial").iterdir()) == []
    assert len(list(store.all("thing"))) == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EACCES, "no-write-permission"),
        (errno.EROFS, "read-only-disk"),
        (errno.EDQUOT, "quota-exceeded"),
    ],
)
def test_the_systems_refusals_become_one_message_with_a_fix(
    store: Store, number: int, code: str
) -> None:
    with refused(code) as caught, store.begin("thing"):
        raise OSError(number, "refused")
    assert caught.value.fix
    assert store.current("thing") is None


@POSIX
def test_a_full_disk_is_reported_and_the_old_artifact_stays(store: Store, tmp_path: Path) -> None:
    import resource

    make(store)
    before = store.current("thing")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with refused("file-size-limit"), store.begin("thing") as run:
            run.write_text("a.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.current("thing") == before


def test_consumers_demand_a_passing_receipt_for_exactly_these_bytes(store: Store) -> None:
    with refused("asset-not-made"):
        store.verified("thing")
    make(store)
    with refused("gate-not-judged"):
        store.require("thing")
    artifact = store.current("thing")
    assert artifact
    store.write_receipt(artifact, receipt(store, passed=False))
    with refused("gate-failed"):
        store.require("thing")
    store.write_receipt(artifact, receipt(store, sha256="f" * 64))
    with refused("gate-not-judged"):
        store.require("thing")
    store.write_receipt(artifact, receipt(store))
    assert store.require("thing").sha256 == artifact.sha256


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"folder": 1}', b"[" * 100_000])
def test_a_pointer_that_is_none_is_told(store: Store, text: bytes) -> None:
    make(store)
    (store.home("thing") / "current.json").write_bytes(text)
    with refused("invalid-pointer") as caught:
        store.verified("thing")
    assert store.faults() == [f"thing: {caught.value.what}"]


def test_a_run_folder_without_a_record_is_torn(store: Store) -> None:
    make(store)
    assert store.faults() == []
    artifact = store.current("thing")
    assert artifact
    (artifact.folder / "record.json").unlink()
    assert store.faults() == [
        "thing: the run folder has no record.json",
        f"thing/{artifact.folder.name}: no record.json",
    ]


def test_an_unreadable_receipt_is_no_receipt(store: Store) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    store.write_receipt(artifact, receipt(store))
    (artifact.folder / "receipts" / "good.json").write_bytes(b"{\xff}")
    with refused("gate-not-judged"):
        store.require("thing")


@pytest.mark.parametrize("name", ["a.txt", "history.json"])
@pytest.mark.threat(
    "bytes differ from those that were judged",
    "Every file of an input, bundle, detector or packed training is hashed before it is read.",
)
def test_one_flipped_byte_is_refused(store: Store, name: str) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    path = artifact.file(name)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    with refused("artifact-changed"):
        store.verified("thing")


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
    with refused("artifact-changed"):
        store.verified("thing")


def ended() -> str:
    """A name of its own by a process that is there no more."""
    script = "from fer_ml.base.files import owned_name; print(owned_name())"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_holds_is_not(
    store: Store,
) -> None:
    make(store)
    receipts = store.home("thing") / "receipts"
    receipts.mkdir()
    mine = owned_name()
    for name in (mine, ended(), "another-host@1.5-0123abcd"):
        (store.partial / name).mkdir()
        (receipts / f".{name}").write_text("half")
    assert store.sweep() == 2
    left = {mine, "another-host@1.5-0123abcd"}
    assert {path.name for path in store.partial.iterdir()} == left
    assert {path.name for path in receipts.iterdir()} == {f".{name}" for name in left}
    # One that is stopped clears away what is its own.
    assert store.sweep_own() == 2
    assert {path.name for path in store.partial.iterdir()} == left - {mine}


@pytest.mark.fault("a process number is used again", "The start time tells the processes apart.")
def test_a_number_that_came_again_is_another_process() -> None:
    """After a restart of a container the same program has the same number."""
    host, _, process = owner().rpartition("@")
    pid, _, began = process.partition(".")
    assert not gone(owner())
    assert gone(f"{host}@{pid}.{int(began) - 1}")
    assert not gone(f"{host}@{pid}"), "a name of before there were times says no more"


@POSIX
@pytest.mark.fault("a process number is used again")
def test_a_process_that_ended_and_that_nobody_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    host = socket.gethostname()
    assert gone(f"{host}@{child.pid}")
    child.wait()


@pytest.mark.parametrize("at", ["rename", "pointer", "spent"])
@pytest.mark.fault(
    "a kill between the rename of a run directory and its pointer",
    "A note was written before; the next sweep finishes the work.",
)
def test_a_kill_during_the_commit_loses_nothing(store: Store, at: str) -> None:
    """Before the rename there is nothing; after it the run folder is current."""
    make(store, "first")
    kept = store.unfinished / "thing"
    kept.mkdir(parents=True)
    script = f"""
import os, shutil
from pathlib import Path
import fer_ml.storage.store as module
def die(*args, **named):
    os._exit(9)  # As when it is killed: nothing is cleared away.
if {at!r} == "rename":
    module.move = die
elif {at!r} == "pointer":
    module.Store._follow = die
else:
    shutil.rmtree = die
with module.Store(Path({str(store.root)!r}), "test").begin("thing") as run:
    run.write_text("a.txt", "second")
    run.spent.append("thing")
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == 9
    store.sweep()
    held = store.verified("thing")
    assert held.file("a.txt").read_text() == ("first" if at == "rename" else "second")
    assert kept.is_dir() == (at == "rename"), "work in progress goes when its result is current"
    assert list(store.partial.iterdir()) == []
    assert len(list(store.all("thing"))) == (1 if at == "rename" else 2)


def test_what_a_killed_process_left_to_do_does_not_undo_what_came_later(store: Store) -> None:
    make(store, "first")
    first = store.current("thing")
    make(store, "second")
    second = store.current("thing")
    assert first and second
    note = {
        "asset": "thing",
        "partition": None,
        "folder": first.folder.name,
        "sha256": first.sha256,
        "before": None,
        "spent": [],
    }
    write_json(store.partial / f"{ended()}.json", note)
    store.sweep()
    assert store.current("thing") == second


@pytest.mark.parametrize("field", ["asset", "folder", "spent"])
def test_a_note_never_leads_out_of_the_root(store: Store, tmp_path: Path, field: str) -> None:
    make(store)
    (tmp_path / "mine").mkdir()
    note = {
        "asset": "thing",
        "partition": None,
        "folder": "x",
        "sha256": "0" * 64,
        "before": None,
        "spent": [],
    }
    way = "../../mine"
    write_json(
        store.partial / f"{ended()}.json", {**note, field: [way] if field == "spent" else way}
    )
    store.sweep()
    assert list(tmp_path.glob("mine/*")) == []
    assert (tmp_path / "mine").is_dir()
    assert list(store.partial.iterdir()) == []


@pytest.mark.fault(
    "the clock goes back",
    "`current.json` decides which run directory counts, not times in names.",
)
def test_a_clock_that_went_back_does_not_change_which_one_is_current(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "first")
    earlier = datetime.now(UTC) - timedelta(days=400)

    class Back(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return earlier

    monkeypatch.setattr("fer_ml.storage.store.datetime", Back)
    make(store, "second")
    held = store.verified("thing")
    assert held.file("a.txt").read_text() == "second"
    assert held.folder.name < max(path.name for path in store.home("thing").glob("2*"))


@LINUX
@pytest.mark.fault(
    "the power fails",
    "Files and folders are synced before they get their names; the pointer comes last.",
)
def test_bytes_are_on_the_disk_before_a_name_says_that_they_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a name without its bytes would be an empty file."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def seen_replace(self: Path, target: Path) -> Path:
        calls.append(("name", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    make(store)
    names = [name for how, name in calls if how == "name"]
    folder = store.current("thing")
    assert folder is not None
    assert names[-2:] == [folder.folder.name, "current.json"], "the pointer is the last"
    renamed = calls.index(("name", folder.folder.name))
    assert {("sync", "a.txt"), ("sync", "history.json")} <= set(calls[:renamed])
    assert ("sync", "thing") in calls[renamed : calls.index(("name", "current.json"))]


@pytest.mark.parametrize("name", ["../b.txt", "/etc/passwd", "a/../../b", "", "."])
@pytest.mark.threat("a path leads out of its folder")
def test_a_record_that_names_files_elsewhere_is_refused(store: Store, name: str) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    path = artifact.folder / "record.json"
    record = json.loads(path.read_text())
    record["files"][name] = record["files"]["a.txt"]
    path.write_text(json.dumps(record))
    with refused("invalid-record"):
        store.verified("thing")


def test_a_link_in_a_run_folder_is_damage(store: Store, tmp_path: Path) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact
    (tmp_path / "same.txt").write_text("hello")
    path = artifact.file("a.txt")
    path.unlink()
    path.symlink_to(tmp_path / "same.txt")
    with refused("artifact-changed"):
        store.verified("thing")


def test_what_a_purge_took_is_damage_unless_it_counts_as_there(store: Store) -> None:
    make(store)
    artifact = store.current("thing")
    assert artifact is not None
    (artifact.folder / "a.txt").unlink()
    assert artifact.damage(purged=False) == "a.txt is missing"
    artifact.mark_purged("2026-01-02T03:04:05+00:00", ["a.txt"])
    assert artifact.damage() == "a.txt was purged on 2026-01-02"
    assert artifact.damage(purged=False) is None


def test_json_that_names_no_version_is_given_as_it_stands(store: Store) -> None:
    """It is not taken for an early version and upgraded."""
    with store.begin("thing") as run:
        run.write_json("leakage.json", {"rows": 3})
        run.write_json("list.json", ["schema_version"])
    artifact = store.current("thing")
    assert artifact is not None
    assert artifact.read_json("leakage.json") == {"rows": 3}
    assert artifact.read_json("list.json") == ["schema_version"]


def test_a_note_that_cannot_be_read_is_cleared_away(store: Store) -> None:
    make(store)
    before = store.current("thing")
    (store.partial / f"{ended()}.json").write_text('{"asset": 5}')
    store.sweep()
    assert list(store.partial.iterdir()) == [] and store.current("thing") == before


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
from fer_ml.storage.store import Store
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
    current = store.verified("teacher", "RN18")
    assert current.folder in {artifact.folder for artifact in made.values()}
    assert list((tmp_path / ".partial").iterdir()) == []


@pytest.mark.parametrize(
    ("declared", "judged", "blocked"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_a_failed_gate_blocks_if_the_stage_or_the_receipt_says_so(
    tmp_path: Path, declared: bool, judged: bool, blocked: bool
) -> None:
    gate = Gate("good", "it is good", "make it good", blocking=declared)
    store = Store(tmp_path / "home", "test", demands=Demands(lambda asset: (gate,)))
    make(store)
    artifact = store.current("thing")
    assert artifact is not None
    failed = receipt(store, passed=False).model_copy(update={"blocking": judged})
    store.write_receipt(artifact, failed)
    assert (artifact.failed() is not None) == blocked


def test_a_store_that_knows_no_gates_gives_nothing_to_a_consumer(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", "test")
    make(store)
    assert store.verified("thing").sha256
    with refused("store-without-gates"):
        store.require("thing")


@pytest.mark.parametrize("change", [{"asset": "other"}, {"partition": "RN18"}, {"rule": "best"}])
def test_a_receipt_of_something_else_does_not_count(store: Store, change: dict[str, str]) -> None:
    make(store)
    artifact = store.verified("thing")
    place = store.write_receipt(artifact, receipt(store))
    place.write_text(receipt(store).model_copy(update=change).model_dump_json())
    assert artifact.receipts() == {}
    place.unlink()
    place.mkdir()
    assert artifact.receipts() == {}
    with refused("gate-not-judged"):
        store.require("thing")


def test_a_folder_without_an_end_is_not_walked_to_its_end(tmp_path: Path) -> None:
    store = Store(tmp_path, "p")
    with store.begin("manifest/a", "one"):
        pass
    deep = tmp_path.joinpath("manifest", *"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "record.json").write_text("{}")
    (run,) = store.runs()
    assert run.parent == store.home("manifest/a", "one")
