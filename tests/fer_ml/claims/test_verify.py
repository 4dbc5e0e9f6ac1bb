"""An artifact folder that was copied elsewhere verifies on its own, without Dagster."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_ml.base.versions import versions_of
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolved import STATUSES
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import CLAIMS_ASSET, CLAIMS_COPY, verify, verify_folder
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import Put
from tests.refusals import refused

Chain = dict[str, Artifact]

CLAIMS = """
version: 2
title: T
claims:
  - id: total
    kind: number
    sentence: "It is {value}."
    asset: benchmark
    file: benchmark.json
    pointer: /total
    expected: 7
  - id: rows
    kind: number
    sentence: "There are {value}."
    asset: manifest/b
    file: clean_report.json
    pointer: /rows
"""


@pytest.fixture
def copied(store: Store, chain: Chain, put: Put, raw: dict[str, Input], tmp_path: Path) -> Path:
    """The artifact root elsewhere, with its claims, and without its raw folders."""
    put(CLAIMS_ASSET, {CLAIMS_COPY: CLAIMS}, [chain["benchmark"].as_input()])
    folder = tmp_path / "elsewhere" / "copy"
    shutil.copytree(store.root, folder)
    shutil.rmtree(store.root)
    for item in raw.values():
        shutil.rmtree(str(item.root))
    return folder


def test_a_copied_folder_keeps_its_claims(copied: Path) -> None:
    found = verify_folder(copied)
    assert found.green
    assert found.counts == {**dict.fromkeys(STATUSES, 0), "grounded": 2}
    assert found.not_looked_at == ["raw/a", "raw/b"]
    told = found.to_json()
    assert told["schema_version"] == versions_of("claims.json").written
    named = {(step["asset"], step["sha256"]) for step in told["lineage"]}
    for claim in told["claims"]:
        assert {(s["asset"], s["sha256"]) for s in claim["rests_on"]} <= named
    gated = next(s for s in told["lineage"] if s["asset"] == "classification_manifest")
    assert gated["receipts"]["leakage"] is True
    assert json.loads(json.dumps(told)) == told


def test_raw_folders_can_be_held_against_it(copied: Path, raw: dict[str, Input]) -> None:
    now = {item.asset: item.sha256 for item in raw.values()}
    found = verify_folder(copied, fingerprints=now)
    assert found.green and not found.not_looked_at
    found = verify_folder(copied, fingerprints={**now, "raw/a": "0" * 64})
    assert [claim.status for claim in found.claims] == ["stale", "grounded"]


def test_other_claims_can_be_held_against_it(copied: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(CLAIMS.replace("expected: 7", "expected: 8"))
    found = verify_folder(copied, own)
    assert [claim.status for claim in found.claims] == ["contradicted", "grounded"]
    assert not found.green


def test_what_is_no_folder_with_claims(copied: Path, store: Store, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing", copied / "benchmark"):
        with refused("no-claims-kept"):
            verify_folder(folder)
    kept = Store(copied, "test").current(CLAIMS_ASSET)
    assert kept is not None
    (kept.folder / CLAIMS_COPY).write_text(CLAIMS.replace("expected: 7", ""))
    with refused("artifact-changed"):
        verify_folder(copied)


def test_what_names_no_artifact_needs_no_folder(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent.parent
    found = verify(
        read_claims(root / "claims" / "interim_report.yaml"), Tracer(Store(tmp_path / "no", "x"))
    )
    by_id = {claim.claim.id: claim.status for claim in found.claims}
    assert by_id["sources-add-up"] == by_id["hq-splits-add-up"] == "grounded"
    for student in ("ce", "kd", "dkd"):
        assert by_id[f"{student}-on-carved-val"] == "grounded"
        assert by_id[f"{student}-on-test"] == by_id[f"{student}-on-val"] == "contradicted"
    assert by_id["ensemble-below-teacher"] == "not_comparable"
    assert by_id["unified-rows"] == by_id["students"] == "ungrounded"


def test_the_interim_reports_claims_are_its_own_words() -> None:
    root = Path(__file__).parent.parent.parent.parent
    report = root.parent / "shared" / "docs" / "interim_report.md"
    if not report.is_file():
        pytest.skip("the report is not beside this project")
    numbers = set(re.findall(r"[\d,]*\d(?:\.\d+)?", report.read_text()))
    for claim in read_claims(root / "claims" / "interim_report.yaml").claims:
        if claim.id == "ensemble-weights":
            continue  # That weights add up to 1 is what the check says, not the report.
        expected = getattr(claim, "expected", None)
        rows = expected.values() if isinstance(expected, dict) else [[expected]]
        assert {text for row in rows for text in row if text} <= numbers, claim.id


def test_neither_the_command_nor_the_library_imports_dagster(copied: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from fer_assets.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'dagster', 'torch', 'polars', 'numpy', 'cv2', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "claims", "verify", str(copied), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    told, _, heavy = done.stdout.strip().rpartition("\n")
    assert json.loads(told)["counts"]["grounded"] == 2
    assert heavy == "[]"
