"""Two machines, each with its cache, on one bucket of a real object store."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import fer_ml.storage.object_store as object_store
from fer_ml.base.errors import FerError
from fer_ml.base.settings import settings
from fer_ml.privacy.log import Entry, Log, read_log, read_own
from fer_ml.storage.looks import face_ids, note_look, read_looks
from fer_ml.storage.mirror import MirroredStore, open_store, stores
from fer_ml.storage.object_store import Bucket
from fer_ml.storage.record import Receipt
from fer_ml.storage.store import Store
from tests.gates import GOOD
from tests.object_server import SECRET, Server, server
from tests.refusals import refused


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("seaweed")) as held, pytest.MonkeyPatch.context() as patch:
        for name, value in held.environment.items():
            patch.setenv(name, value)
        yield held


@pytest.fixture
def bucket(seaweed: Server, request: pytest.FixtureRequest) -> Bucket:
    """A prefix of its own for each test, with the profile's folder below it."""
    return Bucket(f"s3://faces/{request.node.name.split('[')[0]}").below("test")


@pytest.fixture
def one(bucket: Bucket, tmp_path: Path) -> MirroredStore:
    return MirroredStore(tmp_path / "one" / "test", "test", bucket=bucket, demands=GOOD)


@pytest.fixture
def two(one: MirroredStore, tmp_path: Path) -> MirroredStore:
    return replace(one, root=tmp_path / "two" / "test")


def make(store: Store, text: str = "hello", asset: str = "thing") -> None:
    with store.begin(asset) as run:
        run.write_text("a.txt", text)
        run.write_text("deep/b.txt", text * 2)


def judge(store: Store, *, passed: bool = True) -> None:
    artifact = store.verified("thing")
    told = {"detail": "", "examples": (), "checked_at": "2026-01-01T00:00:00+00:00"}
    receipt = Receipt(
        asset="thing",
        partition=None,
        artifact_sha256=artifact.sha256,
        rule="good",
        blocking=True,
        passed=passed,
        value=1,
        limit=0,
        run_id=None,
        **told,  # type: ignore[arg-type]
    )
    store.write_receipt(artifact, receipt)


def test_the_other_machine_finds_the_artifact_with_its_receipts(
    one: MirroredStore, two: MirroredStore
) -> None:
    assert two.current("thing") is None
    make(one)
    with refused("gate-not-judged"):
        two.require("thing")
    judge(one)
    found = two.require("thing")
    assert found.folder.is_relative_to(two.root)
    assert found.file("deep/b.txt").read_text() == "hellohello"
    assert found.record == one.verified("thing").record
    judge(one, passed=False)
    with refused("gate-failed"):
        two.require("thing")
    assert not list(one.uploads.iterdir())


def test_what_is_current_follows_whoever_made_it_last(
    one: MirroredStore, two: MirroredStore
) -> None:
    make(one, "first")
    make(two, "second")
    assert one.verified("thing").file("a.txt").read_text() == "second"
    first = next(a for a in two.all("thing") if a.file("a.txt").read_text() == "first")
    assert two.find("thing", None, first.sha256) == first
    assert len(list(one.every())) == len(list(two.every())) == 2
    make(one, "part", asset="adopted/mine")
    assert two.pointers("adopted") == ["mine"]


@pytest.mark.fault(
    "two machines make one asset at once",
    "Their files never mix; the first one stays current.",
)
def test_two_machines_that_make_one_asset_at_once_mix_no_files(
    one: MirroredStore, two: MirroredStore
) -> None:
    """Who is first stays current, so that nothing that rests on it becomes stale."""
    with one.begin("thing") as first, two.begin("thing") as second:
        for run, text in ((first, "one"), (second, "two")):
            run.write_text("a.txt", text)
            run.write_text(f"only_{text}", text)
    for store in (one, two):
        held = store.verified("thing")
        assert held.file("a.txt").read_text() == "two"  # It left the inner block first.
        assert set(held.record.files) == {"a.txt", "only_two"}
        assert all(a.damage() is None for a in store.all("thing"))
        assert len(list(store.all("thing"))) == 2


@pytest.mark.fault(
    "the object store or the process dies during an upload",
    "The artifact is finished locally, and the next command uploads it.",
)
def test_nothing_half_uploaded_can_be_found_and_the_next_command_ends_it(
    one: MirroredStore, two: MirroredStore, seaweed: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies between the files and the record; nothing is lost, and nothing made twice."""
    make(one, "before")
    monkeypatch.setattr(object_store, "TRIES", 1)
    put, puts = Bucket.put, []

    def dying(self: Bucket, paths: dict[str, Path]) -> None:
        put(self, paths)
        puts.append(paths)
        if len(puts) == 1:
            seaweed.kill()

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", dying)
        with refused("object-store-failed") as told:
            make(one, "after")
    assert "bucket faces, key " in str(told.value)
    assert SECRET not in str(told.value)
    with refused("object-store-failed"):
        two.current("thing")
    with refused("object-store-failed"):
        one.sweep()
    # What waits for its upload is current here, and is not asked for there.
    assert one.verified("thing").file("a.txt").read_text() == "after"
    seaweed.start()
    assert two.verified("thing").file("a.txt").read_text() == "before"
    one.sweep()
    assert two.verified("thing").file("a.txt").read_text() == "after"
    assert len(list(one.all("thing"))) == 2
    assert not list(one.uploads.iterdir())


@pytest.mark.fault("the object store or the process dies during an upload")
def test_a_kill_during_the_upload_loses_nothing(one: MirroredStore, two: MirroredStore) -> None:
    make(one, "first")
    script = f"""
import os
from pathlib import Path
from fer_ml.storage.mirror import MirroredStore
from fer_ml.storage.object_store import Bucket
put = Bucket.put
def die(self, paths):
    put(self, paths)
    os._exit(9)
Bucket.put = die
bucket = Bucket({one.bucket.url!r})
with MirroredStore(Path({str(one.root)!r}), "test", bucket=bucket).begin("thing") as run:
    run.write_text("a.txt", "second")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert two.verified("thing").file("a.txt").read_text() == "first"
    one.sweep()
    assert two.verified("thing").file("a.txt").read_text() == "second"
    assert len(list(two.all("thing"))) == 2


def test_what_another_machine_made_current_meanwhile_stays(
    one: MirroredStore, two: MirroredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, refused("gone-away"):
        patch.setattr(MirroredStore, "_push", gone)
        make(one, "waits")
    make(two, "meanwhile")
    one.sweep()
    assert one.verified("thing").file("a.txt").read_text() == "meanwhile"
    assert len(list(two.all("thing"))) == 2


def gone(*_: object) -> None:
    raise FerError("gone", code="gone-away")


@pytest.mark.fault(
    "the object store is slow or never answers",
    "Ten tries of up to 20 seconds, then one clear error.",
)
def test_a_server_that_is_slow_is_waited_for(
    one: MirroredStore, two: MirroredStore, seaweed: Server
) -> None:
    make(one)
    seaweed.hold()
    later = threading.Timer(2, seaweed.go_on)
    later.start()
    assert two.verified("thing").file("a.txt").read_text() == "hello"
    later.join()


@pytest.mark.fault("the object store is slow or never answers")
def test_a_server_that_never_answers_is_one_clear_error(
    two: MirroredStore, seaweed: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "TIMEOUT", 0.5)
    monkeypatch.setattr(object_store, "TRIES", 2)
    seaweed.hold()
    try:
        with refused("object-store-failed"):
            two.current("thing")
    finally:
        seaweed.go_on()


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt"])
@pytest.mark.fault("bytes in the object store changed", "Refused with both hashes.")
def test_changed_bytes_in_the_bucket_are_never_loaded(
    one: MirroredStore, two: MirroredStore, name: str
) -> None:
    make(one, name)
    artifact = one.verified("thing")
    key = f"thing/{artifact.folder.name}/{name}"
    data = bytearray(one.bucket.read(key) or b"")
    data[0] ^= 1
    one.bucket.write(key, bytes(data))
    with refused("object-changed") as told:
        two.current("thing")
    assert name in told.value.what
    assert not list(two.root.rglob("a.txt"))


def test_a_purge_reaches_the_bucket_and_the_other_cache(
    one: MirroredStore, two: MirroredStore
) -> None:
    make(one)
    theirs, mine = two.verified("thing"), one.verified("thing")
    log = Log(entries=(purge("a"),))
    (one.root.parent / "purged.json").write_text(log.model_dump_json())
    one.share_log()
    mine.mark_purged("2026-11-27T00:00:00+00:00", ["a.txt"])
    one.marked(mine)
    assert "a.txt" not in {n.rpartition("/")[2] for n in one.bucket.list()}
    assert theirs.file("a.txt").is_file()
    two.sweep()
    assert not theirs.file("a.txt").exists()
    assert read_log(two.root.parent) == log
    fresh = replace(two, root=two.root.with_name("fresh")).current("thing")
    assert fresh is not None
    assert fresh.damage() == "a.txt was purged on 2026-11-27"


def purge(photo: str) -> Entry:
    return Entry(
        at="2026-11-27T00:00:00+00:00",
        kind="photo",
        reason="asked for",
        photos=(photo,),
        sources=("source",),
        files_removed=1,
        resting=(),
    )


def test_logs_that_two_machines_write_at_once_are_read_whole(
    one: MirroredStore, two: MirroredStore
) -> None:
    for store, name in ((one, "a"), (two, "b")):
        home = store.root.parent
        home.mkdir(parents=True, exist_ok=True)
        (home / "purged.json").write_text(Log(entries=(purge(name),)).model_dump_json())
        for asset in (name, name * 2):
            note_look(
                home,
                {"test": face_ids([name])},
                profile="p",
                asset=asset,
                run_id=None,
                decisions={},
                plan=None,
            )
    for store in (one, two, one):
        store.share_log()
    third = replace(one, root=one.root.parent.with_name("three") / "test")
    for store in (one, two, third):
        store.fetch_log()
        assert read_log(store.root.parent).photos().keys() == {"a", "b"}
        looks = read_looks(store.root.parent)
        assert sorted(look.asset for look in looks) == ["a", "aa", "b", "bb"]
    note_look(
        third.root.parent,
        {"test": face_ids("b")},
        profile="p",
        asset="c",
        run_id=None,
        decisions={},
        plan=None,
    )
    third.share_log()
    two.fetch_log()
    assert {look.asset for look in read_looks(two.root.parent)} == {"a", "aa", "b", "bb", "c"}


def test_a_cleared_or_copied_cache_loses_no_purge(one: MirroredStore, two: MirroredStore) -> None:
    def purged(store: MirroredStore, name: str) -> None:
        log = Log(entries=(*read_own(store.root.parent / "purged.json").entries, purge(name)))
        (store.root.parent / "purged.json").write_text(log.model_dump_json())
        store.share_log()

    home = one.root.parent
    home.mkdir(parents=True)
    purged(one, "a")
    (home / "purged.json").unlink()  # The name of the machine is a hidden file, which stays.
    one.fetch_log()
    assert read_log(home).photos().keys() == {"a"}
    purged(one, "b")
    shutil.copytree(home, two.root.parent)
    purged(one, "c")
    purged(two, "d")
    purged(one, "e")
    third = replace(one, root=home.with_name("three") / "test")
    third.fetch_log()
    assert read_log(third.root.parent).photos().keys() == {"a", "b", "c", "d", "e"}
    assert not list(home.glob("purged..json"))


def test_a_log_that_an_earlier_version_shared_still_counts(
    one: MirroredStore, two: MirroredStore
) -> None:
    earlier, own = Log(entries=(purge("a"),)), Log(entries=(purge("a"), purge("b")))
    Bucket(one.bucket.url.rpartition("/")[0]).write(
        "purged.json", earlier.model_dump_json().encode()
    )
    two.fetch_log()
    assert read_log(two.root.parent) == earlier
    (two.root.parent / "purged.json").write_text(own.model_dump_json())
    assert read_log(two.root.parent) == own


def test_half_uploads_of_a_machine_that_is_gone_are_cleared_after_a_day(
    one: MirroredStore, two: MirroredStore
) -> None:
    make(one)
    run = "thing/20261127T000000Z-0123abcd-0123"
    one.bucket.write(f"{run}/a.txt", b"half")
    files = one.bucket._files()
    key = f"{one.bucket._name(run)}/big".removeprefix("faces/")
    files.call_s3("create_multipart_upload", Bucket="faces", Key=key)
    assert two.sweep() == 0, "it may be going on"
    assert two.sweep(datetime.now(UTC) + timedelta(days=2)) == 2
    assert not [name for name in one.bucket.list() if name.startswith(run)]
    assert two.verified("thing")


def test_the_settings_and_stores(
    seaweed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    monkeypatch.setenv("FER_HOME", "s3://faces/of/settings/")
    settings.cache_clear()
    assert stores(settings()) == []
    made = open_store(settings(), "mine")
    make(made)
    assert made.root == tmp_path / "mine"
    assert stores(settings()) == [made]
    assert Bucket("s3://faces/of/settings").names() == ["mine"]
    monkeypatch.setenv("FER_HOME", "s3://no-such-bucket/x")
    settings.cache_clear()
    with refused("object-store-failed"):
        open_store(settings(), "mine").sweep()
    for wrong in ("gs://faces/x", "s3://", "s3://key:secret@faces/x"):
        monkeypatch.setenv("FER_HOME", wrong)
        settings.cache_clear()
        with refused("invalid-setting") as told:
            settings()
        assert "FER_HOME" in told.value.what
        assert "secret" not in str(told.value)
    settings.cache_clear()


def test_the_record_in_the_bucket_is_the_one_here(one: MirroredStore) -> None:
    """So that any tool of S3 can copy an artifact root in or out."""
    make(one)
    judge(one)
    here = one.home("thing")
    names = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    assert set(one.bucket.list("thing")) == names
    for name in names:
        assert json.loads((here / name).read_bytes()) if name.endswith("json") else True
        assert one.bucket.read(f"thing/{name}") == (here / name).read_bytes()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
