"""What a trace finds wrong, each with its own words; and what can be traced."""

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python

from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.resolve import Resolver
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Tracer, find_artifact
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input, content_hash
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import Put, judge
from tests.refusals import refused

Chain = dict[str, Artifact]


def resolve(store: Store, **tracer: Any) -> Resolved:
    claim = {
        "id": "c",
        "kind": "number",
        "sentence": "S {value}",
        "asset": "benchmark",
        "file": "benchmark.json",
        "pointer": "/total",
    }
    held = ClaimsFile.model_validate({"version": "2", "title": "T", "claims": [claim]})
    return Resolver(Tracer(store, **tracer)).all(held)[0]


def edit(artifact: Artifact, **changes: Any) -> None:
    """Edit a record the way that somebody does who knows the format: its seal follows."""
    path = artifact.folder / "record.json"
    held = json.loads(path.read_text())
    record = artifact.record.from_plain({**held, **to_jsonable_python(changes)})
    record = record.model_copy(update={"seal": record.expected_seal()})
    path.write_text(json.dumps(record.model_dump(mode="json")))
    beside = [artifact.folder.parent / "current.json", *(artifact.folder / "receipts").iterdir()]
    for path in beside:
        path.write_text(path.read_text().replace(str(artifact.record.seal), str(record.seal)))


def test_a_newer_input_makes_it_stale(store: Store, chain: Chain, put: Put) -> None:
    put("manifest/a", {"new.csv": "x\n"}, chain["manifest/a"].record.inputs)
    found = resolve(store)
    assert (found.status, found.value) == ("stale", 7)
    assert found.reason == "manifest/a: a newer one is current"


def test_the_same_bytes_again_are_not_stale(store: Store, chain: Chain, put: Put) -> None:
    old = chain["manifest/a"]
    files = {name: old.file(name).read_text() for name in old.record.files}
    again = put("manifest/a", files, old.record.inputs)
    assert again.sha256 == old.sha256 and again.folder != old.folder
    assert resolve(store).status == "grounded"


def test_raw_data_that_changed_or_went_away_makes_it_stale(
    store: Store, chain: Chain, raw: dict[str, Input]
) -> None:
    now = {item.asset: item.sha256 for item in raw.values()}
    assert resolve(store, fingerprints=now).status == "grounded"
    changed = {**now, "raw/b": "0" * 64}
    assert resolve(store, fingerprints=changed).reason == "raw/b: raw folder changed since"
    assert resolve(store, fingerprints={}).reason == "raw/a: raw folder is gone"
    (Path(str(raw["a"].root)) / "face.png").write_bytes(b"another one")
    assert resolve(store).reason == "raw/a: raw folder changed since"
    shutil.rmtree(str(raw["a"].root))
    assert resolve(store).reason == "raw/a: raw folder is gone"
    found = resolve(store, raw_elsewhere=True)
    assert found.status == "grounded"
    assert [n.item.key for n in found.traces[0].below if not n.looked] == ["raw/a"]


def test_a_failed_or_absent_gate_makes_it_stale(store: Store, chain: Chain) -> None:
    unified = chain["classification_manifest"]
    judge(store, unified, "leakage", passed=False)
    found = resolve(store)
    assert found.status == "stale"
    assert found.reason == "classification_manifest: failed gate 'leakage': 0.0 (limit 0.0)."
    receipt = unified.folder / "receipts/leakage.json"
    receipt.write_text(receipt.read_text().replace(unified.sha256, "0" * 64))
    assert "has no verdict of gate" in resolve(store).reason
    receipt.unlink()
    assert "has no verdict of gate" in resolve(store).reason


def remove_input(store: Store, chain: Chain) -> None:
    shutil.rmtree(store.home("manifest/a"))


def remove_own_folder(store: Store, chain: Chain) -> None:
    shutil.rmtree(chain["benchmark"].folder)


def move_own_folder(store: Store, chain: Chain) -> None:
    chain["benchmark"].folder.rename(store.root / "elsewhere")


def remove_everything(store: Store, chain: Chain) -> None:
    shutil.rmtree(store.home("benchmark"))


def move_a_file(store: Store, chain: Chain) -> None:
    (chain["benchmark"].folder / "notes.txt").rename(store.root / "notes.txt")


def edit_in_place(store: Store, chain: Chain) -> None:
    path = chain["benchmark"].folder / "benchmark.json"
    path.write_bytes(path.read_bytes().replace(b'"total": 7', b'"total": 8'))


def edit_with_its_hash(store: Store, chain: Chain) -> None:
    edit_in_place(store, chain)
    artifact = chain["benchmark"]
    entry = artifact.record.files["benchmark.json"]
    data = (artifact.folder / "benchmark.json").read_bytes()
    files = {
        **artifact.record.files,
        "benchmark.json": entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}),
    }
    edit(artifact, files=files)


def edit_with_all_hashes(store: Store, chain: Chain) -> None:
    edit_with_its_hash(store, chain)
    artifact = store.open(chain["benchmark"].folder)
    edit(artifact, sha256=content_hash(artifact.record.files))


def break_the_record(store: Store, chain: Chain) -> None:
    (chain["manifest/a"].folder / "record.json").write_text("{")


def break_the_pointer(store: Store, chain: Chain) -> None:
    (store.home("benchmark") / "current.json").write_text("{}")


def point_outside(store: Store, chain: Chain) -> None:
    (store.home("benchmark") / "current.json").write_text('{"folder": "../x", "sha256": ""}')


def point_with_another_hash(store: Store, chain: Chain) -> None:
    path = store.home("manifest/a") / "current.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "sha256": "0" * 64}))


def make_a_circle(store: Store, chain: Chain) -> None:
    edit(chain["manifest/a"], inputs=[chain["benchmark"].as_input().model_dump()])


def turn_the_clock_back(store: Store, chain: Chain) -> None:
    made = datetime.now(UTC) - timedelta(days=400)
    edit(chain["student_dkd"], created_at=made.isoformat(timespec="seconds"))


def name_no_time(store: Store, chain: Chain) -> None:
    path = chain["student_dkd"].folder / "record.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "created_at": "yesterday"}))


def name_no_zone(store: Store, chain: Chain) -> None:
    path = chain["student_dkd"].folder / "record.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "created_at": "2026-01-01T00:00:00"}))


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (remove_input, "stale", "manifest/a: these bytes are no longer here"),
        (remove_own_folder, "drifted", "the run folder has no record.json"),
        (move_own_folder, "drifted", "the run folder has no record.json"),
        (remove_everything, "ungrounded", "benchmark is not known here"),
        (move_a_file, "drifted", "notes.txt is missing"),
        (edit_in_place, "drifted", "benchmark.json differs from its recorded sha256"),
        (edit_with_its_hash, "drifted", "its content hash does not follow from its files"),
        (edit_with_all_hashes, "drifted", "current.json and record.json name different hashes"),
        (break_the_record, "drifted", "the record of the run folder is invalid"),
        (break_the_pointer, "drifted", "current.json does not name a run folder"),
        (point_outside, "drifted", "current.json does not name a run folder"),
        (point_with_another_hash, "drifted", "current.json and record.json name different hashes"),
        (make_a_circle, "drifted", "the recorded lineage has a cycle: benchmark <- "),
        (turn_the_clock_back, "stale", "student_dkd: older than its input classification_manifest"),
        (name_no_time, "drifted", "the record of the run folder is invalid"),
        (name_no_zone, "drifted", "time without a zone"),
    ],
)
def test_every_fault_has_its_own_words_and_is_never_green(
    store: Store, chain: Chain, fault: Callable[[Store, Chain], None], status: str, words: str
) -> None:
    assert resolve(store).status == "grounded"
    fault(store, chain)
    found = resolve(store)
    assert found.status == status, found.reason
    assert words in found.reason


def test_a_lineage_deeper_than_any_is_refused(store: Store, put: Put) -> None:
    item = Input(asset="raw/a", sha256="0" * 64, root="/nowhere")
    for number in range(120):
        item = put(f"step_{number}", {"n.json": number}, [item]).as_input()
    put("benchmark", {"benchmark.json": {"total": 7}}, [item])
    found = resolve(store, raw_elsewhere=True)
    assert found.status == "drifted"
    assert "is too deep" in found.reason


def test_a_record_from_before_there_were_seals_is_read_and_never_green(
    store: Store, chain: Chain
) -> None:
    path = chain["benchmark"].folder / "record.json"
    held = json.loads(path.read_text())
    assert len(held.pop("seal")) == 64
    path.write_text(json.dumps(held))
    pointer = store.home("benchmark") / "current.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "seal": None}))
    found = resolve(store)
    assert (found.status, found.value) == ("stale", 7)
    assert store.verified("benchmark").damage() is None
    with refused("record-unsealed"):
        store.require("benchmark")


def test_what_can_be_traced(store: Store, chain: Chain, put: Put, tmp_path: Path) -> None:
    teacher = put("teacher", {"best.pt": b"w"}, partition="RN18")
    run = chain["student_dkd"]
    copy = tmp_path / "figure.png"
    shutil.copy(run.file("curves.png"), copy)
    for what, artifact in (
        ("benchmark", chain["benchmark"]),
        ("manifest/a", chain["manifest/a"]),
        ("teacher[RN18]", teacher),
        (str(run.file("best.pt")), run),
        (str(run.folder), run),
        (str(copy), run),
        (run.sha256[:8], run),
        (run.record.files["best.pt"].sha256[:12], run),
    ):
        assert find_artifact(store, what).folder == artifact.folder, what


def test_what_cannot_be_traced(store: Store, chain: Chain, put: Put, tmp_path: Path) -> None:
    copy = tmp_path / "unknown.png"
    copy.write_bytes(b"of no artifact")
    for what in ("no-such-claim", "teacher", "teacher[RN18]", str(copy), "0" * 64, "abc", ""):
        with refused("nothing-to-trace"):
            find_artifact(store, what)
    put("teacher", {"best.pt": b"weights"}, partition="RN18")
    shared = chain["student_dkd"].record.files["best.pt"].sha256
    with refused("ambiguous-name") as caught:
        find_artifact(store, shared)
    assert caught.value.allowed == "student_dkd, teacher[RN18]"
