"""``manifest_validation``: a report for each manifest."""

import polars as pl
import pytest

from fer_ml.storage.store import Store
from tests.fer_assets.stages.manifests import (
    ROWS,
    all_made,
    held,
    profile_of_two,
    stages_of,
)

PROFILE = profile_of_two()
STAGES = stages_of(PROFILE)
STAGE = STAGES["manifest_validation"]
MANIFESTS = [need.asset for need in STAGE.needs]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All manifests of the two sources."""
    return all_made(tmp_path_factory.mktemp("made"))


def test_it_needs_every_manifest() -> None:
    assert MANIFESTS == [
        "classification_manifest",
        "hq_train_manifest",
        "eval_only_manifest",
        "test_all_sources_manifest",
        "sad_manifest",
    ]


def test_one_report_for_each_manifest(store: Store) -> None:
    artifact = held(store, STAGE.asset)
    names = ("all", "hq_train", "eval_only", "test_all_sources", "sad")
    for asset, name in zip(MANIFESTS, names, strict=True):
        report = artifact.read_json(f"manifest_validation_{name}.json")
        assert report["manifest_sha256"] == held(store, asset).sha256
        assert report["rows_total"] == artifact.record.summary[f"{asset}_rows"]
        assert report["out_root"] == "FER_HOME/sample"
        assert report["passed"]
    findings = pl.read_csv(artifact.file("findings.csv"))
    assert set(findings["manifest"]) <= set(MANIFESTS)
    assert findings.height == artifact.record.summary["findings"] > 0
    pictures = {"classes.png", "faces.png", "findings.png"}
    assert pictures <= set(artifact.record.files)
    assert artifact.record.summary["classification_manifest_rows"] <= 2 * ROWS
