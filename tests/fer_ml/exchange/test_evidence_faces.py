"""Faces are in a zip only when they are asked for: those of the rows behind its claims."""

from pathlib import Path

import pytest

from fer_ml.evidence.rows import manifest_file
from fer_ml.exchange.evidence import export_evidence, verified_evidence
from fer_ml.manifests.schema import read_manifest
from fer_ml.storage.artifact import Demands
from fer_ml.storage.store import Store
from tests.fer_ml.evidence.conftest import claim, home, verified
from tests.gates import gates_of

__all__ = ["home"]
CE = claim("ce", "benchmark", "benchmark.json", "/entries/student_ce/mixed/raw/macro_f1")


@pytest.mark.parametrize("faces", [True, False])
def test_faces_of_the_rows_behind_the_claims(home: Store, tmp_path: Path, faces: bool) -> None:
    files = export_evidence(verified(home, CE), home, [], tmp_path / "e.zip", faces=faces)
    found = {name.removeprefix("artifacts/") for name in files if "/cleaned/" in name}
    manifest = home.verified("test_all_sources_manifest")
    rows = read_manifest(manifest.file(manifest_file(manifest)))
    behind = set(rows.filter(split="test")["image_path"])
    assert len(behind) == 120
    assert found == (behind if faces else set())
    with verified_evidence(tmp_path / "e.zip", None, Demands(gates_of, whole=False)) as held:
        assert held.green


def test_what_a_purge_took_is_not_in_it(home: Store, tmp_path: Path) -> None:
    before = export_evidence(verified(home, CE), home, [], tmp_path / "a.zip", faces=True)
    gone = next(name for name in before if "/cleaned/" in name)
    (home.root / gone.removeprefix("artifacts/")).unlink()
    after = export_evidence(verified(home, CE), home, [], tmp_path / "b.zip", faces=True)
    assert set(before) - set(after) == {gone}
