"""``classification_manifest``: what decides it, whose splits it has, and what its gates see."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.manifests.schema import read_manifest, write_manifest
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Receipt
from fer_ml.storage.store import Store
from fer_ml.validation.gates import MANIFEST_GATES
from tests.fer_assets.stages.manifests import (
    ROWS,
    all_made,
    held,
    profile_of_two,
    stages_of,
    verdicts,
)

PROFILE = profile_of_two()
STAGE = stages_of(PROFILE)["classification_manifest"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All manifests of the two sources."""
    return all_made(tmp_path_factory.mktemp("made"))


def rows_of(store: Store) -> pl.DataFrame:
    return read_manifest(held(store, STAGE.asset).file("classification_manifest.csv"))


def test_the_recipe_is_splits_draw_and_seed() -> None:
    assert STAGE.recipe(PROFILE, None).recorded() == {
        "sources": {"a": {}, "b": {"val": "calib"}},
        "order": ["a", "b"],
        "near": PROFILE.near_rule.model_dump(mode="json"),
        "draw": PROFILE.draw.model_dump(mode="json"),
        "seed": PROFILE.seed,
    }


def test_it_holds_all_sources_by_the_profiles_splits(store: Store) -> None:
    rows = rows_of(store)
    assert set(rows["source"]) == {"a", "b"}
    # The publisher's val of ``b`` means calib, and that of ``a`` is split between both.
    in_b = rows.filter(pl.col("source") == "b")
    assert set(in_b["split"]) == {"train", "calib", "test"}
    summary = held(store, STAGE.asset).record.summary
    assert (summary["rows_in"], summary["samples_in_two_sources"]) == (2 * ROWS, 2)


def test_its_gates_are_those_of_manifests_and_pass(store: Store) -> None:
    assert STAGE.gates == MANIFEST_GATES
    found = verdicts(STAGE, PROFILE, store)
    blocking = {gate.rule for gate in STAGE.gates if gate.blocking}
    assert all(found[rule].passed for rule in blocking)
    # The second face of both sources has two labels.
    assert found["label_conflicts"].value == 1
    assert "rows" in found["undecodable"].detail, "it says how rows were looked at"


def again(store: Store, rows: pl.DataFrame, recipe: dict[str, Any] | None = None) -> None:
    """The manifest once more, with other rows, as if made from the same inputs."""
    before = held(store, STAGE.asset)
    with store.begin(
        STAGE.asset, inputs=before.record.inputs, recipe=recipe or before.record.recipe
    ) as run:
        write_manifest(rows, run.path("classification_manifest.csv"))
        run.write_json("clean_report.json", before.read_json("clean_report.json"))


def test_it_is_compared_with_the_last_one_that_passed(tmp_path: Path) -> None:
    store = all_made(tmp_path)
    first, rows = held(store, STAGE.asset), rows_of(store)
    fewer = rows.filter(pl.col("label") != "Sad")
    again(store, fewer)
    assert verdicts(STAGE, PROFILE, store)["drift"].passed is None, "nothing was accepted before"
    for gate in STAGE.gates:
        accept(store, first, gate.rule)
    assert not verdicts(STAGE, PROFILE, store)["drift"].passed


def accept(store: Store, artifact: Artifact, rule: str) -> None:
    receipt = Receipt(
        asset=artifact.record.asset,
        partition=None,
        artifact_sha256=artifact.sha256,
        rule=rule,
        blocking=True,
        passed=True,
        value=0,
        limit=0,
        detail="",
        examples=(),
        checked_at="2026-01-02T03:04:05+00:00",
        run_id=None,
    )
    store.write_receipt(artifact, receipt)
