"""A zip of evidence says all of it by itself, and every way to damage it ends in words."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rocrate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocrate.rocrate import ROCrate

from fer_ml.base.errors import FerError
from fer_ml.claims.model import ClaimsFile, read_claims
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import Verified, verify
from fer_ml.exchange.crate import METADATA, folder_of
from fer_ml.exchange.evidence import export_evidence, verified_evidence
from fer_ml.storage.artifact import Artifact, Demands
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import Put
from tests.gates import gates_of
from tests.refusals import refused

PARTIAL = Demands(gates_of, whole=False)
CLAIMS = """
version: 2
title: Evidence, "quoted"
claims:
  - id: total
    kind: number
    sentence: "It is {value}."
    asset: benchmark
    file: benchmark.json
    pointer: /total
    expected: 7
  - id: f1
    kind: number
    sentence: "Its macro-F1 is {value}."
    asset: benchmark
    file: benchmark.json
    pointer: /entries/kd/all/f1
    expected: 0.760
  - id: settings
    kind: configuration
    sentence: "It ran with {value}."
    asset: student_dkd
    settings: {/training/negative: null, /training/epochs: 20}
"""


@pytest.fixture
def held(tmp_path: Path) -> ClaimsFile:
    file = tmp_path / "claims.yaml"
    file.write_text(CLAIMS)
    return read_claims(file)


def resolved(store: Store, held: ClaimsFile) -> Verified:
    return verify(held, Tracer(store, raw_elsewhere=True))


@pytest.fixture
def exported(tmp_path: Path, store: Store, chain: dict[str, Artifact], held: ClaimsFile) -> Path:
    out = tmp_path / "evidence.zip"
    export_evidence(resolved(store, held), store, [], out)
    return out


def read(path: Path) -> Verified:
    with verified_evidence(path, None, PARTIAL) as verified:
        verified.to_json()
        return verified


def test_a_zip_verifies_where_nothing_else_is(exported: Path, store: Store) -> None:
    shutil.rmtree(store.root)
    with verified_evidence(exported, None, PARTIAL) as found:
        told = found.to_json()
        assert {c.claim.id: (c.status, c.shown()) for c in found.claims} == {
            "total": ("grounded", "7"),
            "f1": ("grounded", "0.760"),
            "settings": ("grounded", "negative not set and epochs = 20"),
        }
    assert told["left_out"]["student_dkd"] == ["best.pt", "curves.png", "softlabels.npz"]
    assert told["left_out"]["benchmark"] == ["model.onnx", "review.html"]
    gates = {step["asset"]: step["receipts"] for step in told["lineage"]}
    assert gates["classification_manifest"]["leakage"] is True


def test_an_unpacked_zip_is_the_same(exported: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(exported, tmp_path / "folder")
    assert read(tmp_path / "folder").green
    (tmp_path / "folder" / "new.txt").write_text("more")
    with refused("export-changed"):
        read(tmp_path / "folder")


def test_the_same_artifacts_give_the_same_bytes(
    exported: Path, tmp_path: Path, store: Store, held: ClaimsFile
) -> None:
    export_evidence(resolved(store, held), store, [], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()


def test_one_claim_takes_what_it_rests_on_alone(
    tmp_path: Path, store: Store, chain: dict[str, Artifact], held: ClaimsFile
) -> None:
    out = tmp_path / "one.zip"
    files = export_evidence(resolved(store, held.picked("settings")), store, [], out)
    assert [c.claim.id for c in read(out).claims] == ["settings"]
    assert not any("benchmark" in name for name in files)
    with refused("unknown-claim") as caught:
        held.picked("nobody")
    assert caught.value.allowed == "total, f1, settings"


def test_faces_only_when_asked_for(
    tmp_path: Path, store: Store, put: Put, held: ClaimsFile
) -> None:
    shown = {
        "faces.png": b"\x89PNG",
        "faces/a.csv": "a\n",
        "review.html": "<img>",
        "benchmark.json": {"total": 7},
    }
    put("benchmark", shown)
    total = resolved(store, held.picked("total"))
    plain = export_evidence(total, store, [], tmp_path / "plain.zip")
    asked = export_evidence(total, store, [], tmp_path / "faces.zip", faces=True)
    assert {name.split("/", 3)[3] for name in set(asked) - set(plain)} == {
        "faces.png",
        "faces/a.csv",
        "review.html",
    }
    with verified_evidence(tmp_path / "faces.zip", None, PARTIAL) as found:
        assert found.green and found.left_out == {}


def test_bytes_made_again_later_still_hold(
    tmp_path: Path, store: Store, chain: dict[str, Artifact], put: Put, held: ClaimsFile
) -> None:
    """What rests on them is older than the newest copy; the others are known by their records."""
    old = chain["classification_manifest"]
    copy = shutil.copytree(
        old.folder, old.folder.with_name(f"29991231T000000Z{old.folder.name[16:]}")
    )
    record = old.record.model_copy(update={"created_at": "2999-12-31T00:00:00+00:00"})
    record = record.model_copy(update={"seal": record.expected_seal()})
    (copy / "record.json").write_text(record.model_dump_json())
    pointer = {"schema_version": 1, "folder": copy.name, "sha256": old.sha256, "seal": record.seal}
    (copy.parent / "current.json").write_text(json.dumps(pointer))
    for receipt in (copy / "receipts").glob("*.json"):
        receipt.write_text(receipt.read_text())
    verified = resolved(store, held)
    assert verified.green
    export_evidence(verified, store, [], tmp_path / "e.zip")
    assert read(tmp_path / "e.zip").green


def test_what_is_not_grounded_has_no_evidence(
    tmp_path: Path, store: Store, chain: dict[str, Artifact], held: ClaimsFile
) -> None:
    (chain["student_dkd"].folder / "best.pt").write_bytes(b"other")
    with refused("claims-not-grounded"):
        export_evidence(resolved(store, held), store, [], tmp_path / "e.zip")
    assert not (tmp_path / "e.zip").exists()


def test_arithmetic_alone_has_no_evidence(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "sum.yaml"
    claim = {"id": "a", "kind": "sum", "sentence": "{value}", "expected": "3", "parts": ["1", "2"]}
    file.write_text(json.dumps({"version": "2", "title": "T", "claims": [claim]}))
    with refused("no-evidence"):
        export_evidence(resolved(store, read_claims(file)), store, [], tmp_path / "e.zip")


def test_what_is_in_the_way(exported: Path, store: Store, held: ClaimsFile) -> None:
    before = exported.read_bytes()
    with refused("output-exists"):
        export_evidence(resolved(store, held), store, [], exported)
    assert exported.read_bytes() == before
    with refused("unknown-suffix") as caught:
        export_evidence(resolved(store, held), store, [], exported.with_suffix(".tar"))
    assert caught.value.where == str(exported.with_suffix(".tar"))


Change = Callable[[dict[str, bytes]], None]


def rewritten(path: Path, change: Change) -> Path:
    """The zip with its files changed."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def named(files: dict[str, bytes], end: str) -> str:
    return next(name for name in files if name.endswith(end))


def listed(files: dict[str, bytes], change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """The metadata with its entities changed."""
    about = json.loads(files[METADATA])
    change(about["@graph"])
    files[METADATA] = json.dumps(about).encode()


def first_file(graph: list[dict[str, Any]]) -> dict[str, Any]:
    return next(entity for entity in graph if entity["@type"] == "File")


def altered(files: dict[str, bytes]) -> None:
    name = named(files, "/benchmark.csv")
    files[name] = files[name].replace(b"0.76", b"0.96")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (altered, "export-changed", "benchmark.csv"),
        (
            lambda files: files.pop(named(files, "/benchmark.csv")),
            "export-changed",
            "benchmark.csv",
        ),
        (lambda files: files.pop(METADATA), "missing-metadata", METADATA),
        (lambda files: files.update({"../out.txt": b""}), "export-changed", "../out.txt"),
        (lambda files: files.update({METADATA: b"{"}), "invalid-json", METADATA),
        (lambda files: files.update({METADATA: b"[]"}), "invalid-metadata", METADATA),
        (lambda files: files.update({METADATA: b'{"@graph": [3]}'}), "invalid-metadata", METADATA),
        (
            lambda files: listed(files, lambda g: first_file(g).update({"@id": "../../x"})),
            "invalid-metadata",
            "../../x",
        ),
        (
            lambda files: listed(files, lambda g: first_file(g).pop("sha256")),
            "invalid-metadata",
            "sha256",
        ),
        (
            lambda files: listed(files, lambda g: first_file(g).update(contentSize="-1")),
            "export-changed",
            METADATA,
        ),
        (lambda files: files.update({"claims.yaml": b"- a"}), "export-changed", "claims.yaml"),
    ],
)
def test_a_zip_that_was_changed_says_where(
    exported: Path, tmp_path: Path, change: Change, code: str, told: str
) -> None:
    with refused(code) as caught:
        read(rewritten(exported, change))
    assert told in str(caught.value)
    assert not (tmp_path / "out.txt").exists()


def test_a_file_changed_with_its_listing_drifts(exported: Path) -> None:
    """Whoever writes a new hash into the metadata has to forge record, seal and receipts too."""

    def change(files: dict[str, bytes]) -> None:
        import hashlib

        name = named(files, "/benchmark.json")
        files[name] = files[name].replace(b'"total": 7', b'"total": 8')
        size, sha256 = str(len(files[name])), hashlib.sha256(files[name]).hexdigest()
        listed(
            files,
            lambda graph: next(e for e in graph if e["@id"] == name).update(
                contentSize=size, sha256=sha256
            ),
        )

    found = {claim.claim.id: claim.status for claim in read(rewritten(exported, change)).claims}
    assert found == {"total": "drifted", "f1": "drifted", "settings": "grounded"}


def test_a_listing_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(METADATA, "w") as into,
    ):
        for _ in range(65):
            into.write(b" " * (1 << 20))
    tracemalloc.start()
    with refused("archive-too-large") as caught, verified_evidence(bomb, None, PARTIAL):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.where == str(bomb)
    assert peak < 20 << 20


def test_a_zip_that_is_cut_off_or_none(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 25)):
        exported.write_bytes(data[:size])
        with refused("invalid-zip"):
            read(exported)
    with refused("missing-file"):
        read(tmp_path / "nowhere.zip")
    (tmp_path / "empty").mkdir()
    with refused("missing-metadata"):
        read(tmp_path / "empty")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), put=st.binary(min_size=1, max_size=8))
def test_any_byte_that_changed_is_found_or_means_nothing(
    exported: Path, at: float, put: bytes
) -> None:
    """Some bytes of a zip say nothing of its files, such as a time: then all files are whole."""
    data = bytearray(exported.read_bytes())
    place = int(at * len(data))
    data[place : place + len(put)] = put
    changed = exported.with_name("changed.zip")
    changed.write_bytes(data)
    try:
        assert read(changed).green
    except FerError:
        return


def test_a_claim_on_what_was_left_out_says_so(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    place = "file: review.html\n    pointer: /total"
    other.write_text(CLAIMS.replace("file: benchmark.json\n    pointer: /total", place))
    with verified_evidence(exported, other, PARTIAL) as found:
        (total, *_) = found.claims
    assert (total.status, total.reason) == (
        "ungrounded",
        "review.html is not in this copy of benchmark",
    )


def test_an_artifact_folder_may_not_lack_what_evidence_may(
    exported: Path, tmp_path: Path, store: Store, chain: dict[str, Artifact], held: ClaimsFile
) -> None:
    (chain["student_dkd"].folder / "best.pt").unlink()
    assert {claim.status for claim in resolved(store, held).claims} == {"drifted"}


def test_other_tools_read_it(exported: Path, chain: dict[str, Artifact]) -> None:
    crate = ROCrate(exported)
    claims = {entity["name"]: entity for entity in crate.get_by_type("Claim")}
    assert {name: claim["text"] for name, claim in claims.items()} == {
        "total": "It is 7.",
        "f1": "Its macro-F1 is 0.760.",
        "settings": "It ran with negative not set and epochs = 20.",
    }
    benchmark = claims["total"]["isBasedOn"]
    assert benchmark["identifier"] == chain["benchmark"].sha256
    facts = {fact["name"]: fact["value"] for fact in benchmark["additionalProperty"]}
    assert facts["gate/every_row_scored"] == "passed"
    actions = {action["name"]: action for action in crate.get_by_type("CreateAction")}
    made = actions["make classification_manifest"]
    assert sorted(e["name"] for e in made["object"]) == ["manifest/a", "manifest/b"]
    assert made["result"]["identifier"] == chain["classification_manifest"].sha256
    # The table itself is in it, for whoever has no tool at all.
    with zipfile.ZipFile(exported) as archive:
        table = archive.read(f"{folder_of(chain['benchmark'])}/benchmark.csv").decode()
    assert next(csv.DictReader(io.StringIO(table)))["f1"] == "0.75"


#: A Python that has roc-validator, whose rich is older than this project's.
VALIDATOR = os.environ.get("ROC_VALIDATOR") or (
    sys.executable if find_spec("rocrate_validator") else ""
)
#: What RO-Crate advises and nobody here knows: who ran it, who wrote it, who publishes it.
UNKNOWN = {"process-run-crate-0.5_8.6", "ro-crate-1.1_22.2", "ro-crate-1.1_22.3"}


@pytest.mark.skipif(not VALIDATOR, reason="needs roc-validator: ROC_VALIDATOR names its Python")
def test_it_is_a_process_run_crate(exported: Path) -> None:
    assert _violations(exported) <= {("RECOMMENDED", check) for check in UNKNOWN}
    rewritten(exported, lambda files: listed(files, lambda graph: graph[1].pop("license")))
    assert "REQUIRED" in {severity for severity, _ in _violations(exported)}


def _violations(path: Path) -> set[tuple[str, str]]:
    script = Path(__file__).with_name("validate_crate.py")
    context = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    command = [VALIDATOR, str(script), str(path), str(context)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {(severity, check) for severity, check, _ in json.loads(done.stdout.splitlines()[-1])}
