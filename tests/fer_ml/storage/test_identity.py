"""Who an artifact is, its bytes, its recipe and its verdicts are compared wherever it is used."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fer_ml.base.errors import FerError
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer, find_artifact
from fer_ml.claims.verify import profile_of, verify, verify_folder
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Receipt, read_record
from fer_ml.storage.store import Store
from tests.gates import GOOD
from tests.machine import POSIX
from tests.refusals import refused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two assets with equal names of files, and one that was made from the first."""
    store = Store(tmp_path / "home", "test", demands=GOOD)
    for asset, partition, rows in (
        ("manifest/a", None, 2084),
        ("manifest/b", None, 7),
        ("teacher", "RN18", 1),
        ("teacher", "B3", 1),
    ):
        put(store, asset, partition, {"rows": rows})
    first = store.require("manifest/a")
    with store.begin("benchmark", inputs=[first.as_input()], recipe={"epochs": 3}) as run:
        run.write_json("a.json", {"total": 7})
    passed(store, "benchmark")
    return store


def put(store: Store, asset: str, partition: str | None, held: Any) -> None:
    with store.begin(asset, partition, recipe={"epochs": 3}) as run:
        run.write_json("a.json", held)
    passed(store, asset, partition)


def passed(store: Store, asset: str, partition: str | None = None, **changes: Any) -> None:
    artifact = store.verified(asset, partition)
    receipt = Receipt(
        asset=asset,
        partition=partition,
        artifact_sha256=artifact.sha256,
        rule="good",
        blocking=True,
        passed=True,
        value=0,
        limit=0,
        detail="",
        examples=(),
        checked_at="2026-01-01T00:00:00+00:00",
        run_id=None,
        seal=artifact.record.seal,
    )
    store.write_receipt(artifact, receipt.model_copy(update=changes))


def claims(asset: str, partition: str | None = None) -> ClaimsFile:
    claim = {"id": "c", "kind": "number", "sentence": "{value} rows", "asset": asset}
    place = {"file": "a.json", "pointer": "/total" if asset == "benchmark" else "/rows"}
    held = {**claim, **place, "partition": partition}
    return ClaimsFile.model_validate({"version": "2", "title": "T", "claims": [held]})


def status(store: Store, asset: str, partition: str | None = None) -> str:
    return verify(claims(asset, partition), Tracer(store)).claims[0].status


def in_place_of(store: Store, source: str, target: str) -> None:
    shutil.rmtree(store.root / target)
    shutil.copytree(store.root / source, store.root / target)


@pytest.mark.parametrize(
    ("source", "target", "asset", "partition"),
    [
        ("manifest/a", "manifest/b", "manifest/b", None),
        ("teacher/RN18", "teacher/B3", "teacher", "B3"),
        ("manifest/a", "teacher/B3", "teacher", "B3"),
        ("benchmark", "manifest/a", "manifest/a", None),
    ],
)
@pytest.mark.threat(
    "another artifact stands in this one's place",
    "A record must name its own asset, partition and profile; its hash and seal must be those "
    "in `current.json`.",
)
def test_a_folder_in_anothers_place_is_used_nowhere(
    store: Store, source: str, target: str, asset: str, partition: str | None, tmp_path: Path
) -> None:
    assert status(store, asset, partition) == "grounded"
    in_place_of(store, source, target)
    run = next((store.root / target).glob("2*"))
    for use in (
        lambda: store.current(asset, partition),
        lambda: store.verified(asset, partition),
        lambda: store.require(asset, partition),
        lambda: list(store.all(asset, partition)),
        lambda: list(store.every()),
        lambda: find_artifact(store, str(run)),
    ):
        with refused("foreign-artifact"):
            use()
    assert status(store, asset, partition) == "drifted"
    if asset == "manifest/a":  # What was made from it is not green either.
        assert status(store, "benchmark") in ("drifted", "stale")
    assert store.faults() != []


def test_the_place_of_another_asset_is_no_link_to_it(store: Store) -> None:
    shutil.rmtree(store.root / "manifest/b")
    (store.root / "manifest/b").symlink_to(store.root / "manifest/a")
    with refused("foreign-artifact"):
        store.require("manifest/b")


def test_one_run_folder_of_anothers_is_used_nowhere(store: Store) -> None:
    """Its pointer names it, with its hash."""
    run = next((store.root / "manifest/a").glob("2*"))
    shutil.copytree(run, store.root / "manifest/b" / run.name)
    shutil.copy(run.parent / "current.json", store.root / "manifest/b/current.json")
    with refused("foreign-artifact"):
        store.require("manifest/b")


def test_a_folder_of_another_profile_is_used_nowhere(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", "other", demands=GOOD)
    put(other, "manifest/b", None, {"rows": 9})
    shutil.rmtree(store.root / "manifest/b")
    shutil.copytree(other.root / "manifest/b", store.root / "manifest/b")
    with refused("foreign-artifact"):
        store.require("manifest/b")
    assert status(store, "manifest/b") == "drifted"
    # A folder that was handed over is of one profile, whatever it is called.
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(claims("manifest/a").model_dump(mode="json", exclude_none=True)))
    with refused("several-profiles"):
        verify_folder(store.root, path)
    copy = tmp_path / "handed over"
    shutil.copytree(other.root, copy)
    assert profile_of(copy) == "other"


@pytest.mark.parametrize("key", ["sha256", "seal"])
def test_a_pointer_that_names_another_hash_is_refused(store: Store, key: str) -> None:
    path = store.home("manifest/a") / "current.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "f" * 64}))
    for use in (store.current, store.verified, store.require):
        with refused("record-changed"):
            use("manifest/a")
    assert status(store, "manifest/a") == "drifted"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "a\0b", "a\ud800b", "/etc", "current.json", "20260101T000000Z"]
)
def test_a_pointer_names_a_run_folder_and_nothing_else(store: Store, name: str) -> None:
    path = store.home("manifest/a") / "current.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "folder": name}))
    with refused("invalid-pointer"):
        store.require("manifest/a")
    assert status(store, "manifest/a") == "drifted"


@pytest.mark.parametrize(
    "changes",
    [
        {"asset": "manifest/b"},
        {"partition": "RN18"},
        {"artifact_sha256": "0" * 64},
        {"seal": "0" * 64},
        {"rule": "better"},
    ],
)
def test_a_receipt_of_something_else_is_none(store: Store, changes: dict[str, Any]) -> None:
    artifact = store.require("manifest/a")
    path = artifact.folder / "receipts" / "good.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert artifact.receipts() == {}
    with refused("gate-not-judged"):
        store.require("manifest/a")
    assert status(store, "manifest/a") == "stale"


def test_a_receipt_from_another_partition_is_none(store: Store) -> None:
    """Both teachers have the same bytes."""
    rn18, b3 = (store.require("teacher", name) for name in ("RN18", "B3"))
    assert rn18.sha256 == b3.sha256
    shutil.copy(rn18.folder / "receipts/good.json", b3.folder / "receipts/good.json")
    with refused("gate-not-judged"):
        store.require("teacher", "B3")


def edit_recipe(artifact: Artifact) -> None:
    """As somebody who knows the format: seals follow, in the record, pointer and receipts."""
    old = artifact.record
    new = old.model_copy(update={"recipe": {"epochs": 300}})
    new = new.model_copy(update={"seal": new.expected_seal()})
    (artifact.folder / "record.json").write_text(new.model_dump_json())
    for path in (
        artifact.folder.parent / "current.json",
        *(artifact.folder / "receipts").iterdir(),
    ):
        path.write_text(path.read_text().replace(str(old.seal), str(new.seal)))


def test_another_recipe_is_another_published_hash(store: Store) -> None:
    """Content hashes stay: nothing else says that the recipe is another one."""
    artifact = store.require("manifest/a")
    before = verify(claims("benchmark"), Tracer(store)).to_json()
    edit_recipe(artifact)
    changed = store.require("manifest/a")
    assert changed.sha256 == artifact.sha256
    assert changed.record.recipe_sha256 != artifact.record.recipe_sha256
    consumer = store.require("benchmark").record.inputs[0]
    assert consumer.recipe_sha256 == artifact.record.recipe_sha256
    assert status(store, "benchmark") == "drifted"
    told = {step["asset"]: step["recipe_sha256"] for step in before["lineage"]}
    assert told["manifest/a"] == artifact.record.recipe_sha256
    own = before["claims"][0]["artifact"]["recipe_sha256"]
    assert own == store.require("benchmark").record.recipe_sha256


def test_the_same_bytes_by_another_recipe_leave_what_was_made_before_green(store: Store) -> None:
    with store.begin("manifest/a", recipe={"epochs": 4}) as run:
        run.write_json("a.json", {"rows": 2084})
    passed(store, "manifest/a")
    assert status(store, "benchmark") == "grounded"


@pytest.mark.parametrize("form", ["null", "absent"])
def test_a_record_without_a_seal_is_read_and_nothing_is_made_from_it(
    store: Store, form: str
) -> None:
    artifact = store.require("manifest/a")
    for path in (artifact.folder / "record.json", artifact.folder.parent / "current.json"):
        held = json.loads(path.read_text())
        held["seal"] = None
        if form == "absent":
            del held["seal"]
        path.write_text(json.dumps(held))
    assert store.verified("manifest/a").damage() is None
    with refused("record-unsealed"):
        store.require("manifest/a")
    assert status(store, "manifest/a") == "stale"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _circle(path: Path) -> None:
    path.symlink_to(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _elsewhere(path: Path) -> None:
    other = path.parent.parent.parent.parent.parent / "own"
    other.write_text("{}")
    path.symlink_to(other)


@POSIX
@pytest.mark.parametrize("odd", [_pipe, _folder, _circle, _zero, _elsewhere])
@pytest.mark.parametrize("name", ["current.json", "record.json", "good.json", "purged.json"])
def test_what_is_no_file_in_an_artifact_is_told_at_once(
    store: Store, name: str, odd: Callable[[Path], None]
) -> None:
    artifact = store.require("manifest/a")
    place = {"current.json": artifact.folder.parent, "good.json": artifact.folder / "receipts"}
    path = place.get(name, artifact.folder) / name
    path.unlink(missing_ok=True)
    odd(path)
    with pytest.raises(FerError):
        store.require("manifest/a")
    assert status(store, "manifest/a") in ("drifted", "stale")


@POSIX
@pytest.mark.parametrize("odd", [_pipe, _circle, _zero])
def test_what_is_no_file_in_a_run_folder_is_damage(
    store: Store, odd: Callable[[Path], None]
) -> None:
    artifact = store.require("manifest/a")
    path = artifact.folder / "a.json"
    path.unlink()
    odd(path)
    assert artifact.damage() is not None
    with pytest.raises(FerError):
        artifact.read_json("a.json")


@pytest.mark.parametrize(
    "text",
    ["[1]", '{"at": 5}', '{"at": "yesterday"}', '{"removed": [".."]}', "[" * 100_000, "", "{"],
)
def test_a_mark_that_is_none_is_told(store: Store, text: str) -> None:
    artifact = store.require("manifest/a")
    (artifact.folder / "purged.json").write_text(text)
    with refused("invalid-purge-mark"):
        store.require("manifest/a")
    assert status(store, "manifest/a") == "drifted"


@pytest.mark.threat("another artifact stands in this one's place")
def test_every_field_of_a_record_is_under_its_seal(store: Store) -> None:
    artifact = store.require("benchmark")
    path = artifact.folder / "record.json"
    held = json.loads(path.read_text())
    for name, value in held.items():
        if name in ("schema_version", "asset", "partition", "profile", "seal"):
            continue  # Of these, whoever opens it is told.
        new = {str: "1" * 64, float: value if value is None else 1e6}.get(type(value))
        changed = new if name in ("sha256", "code_version", "seconds") else []
        changed = {"summary": {}, "recipe": {}, "splits": {"a": "val"}, "run_id": "x"}.get(
            name, "2030-01-01T00:00:00+00:00" if name == "created_at" else changed
        )
        path.write_text(json.dumps({**held, name: changed if name != "files" else {}}))
        try:
            damaged = store.open(artifact.folder).damage()
        except FerError:
            continue
        assert damaged is not None, name
    path.write_text(json.dumps(held))
    assert read_record(artifact.folder) == artifact.record


def test_what_another_recipe_made_is_not_todays(store: Store) -> None:
    """As after a pointer of last week was restored: all of its own bytes are sound."""

    def today(epochs: int) -> Store:
        demands = replace(GOOD, recipe=lambda asset, partition: {"epochs": epochs})
        return replace(store, demands=demands)

    assert status(today(3), "benchmark") == "grounded"
    assert today(3).require("benchmark").record.recipe == {"epochs": 3}
    assert status(today(20), "benchmark") == "stale"
    with refused("artifact-outdated") as caught:
        today(20).require("benchmark")
    assert caught.value.where and caught.value.fix
