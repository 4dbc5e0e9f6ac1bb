"""An adopted run's weights are measured on our rows."""

import shutil
from typing import Any

import pytest

from fer_assets.stage import Limits, Recipe
from fer_assets.stages import adopted_model
from fer_assets.stages.adopted_model import GATES
from fer_ml.base.errors import FerError
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder


@pytest.fixture(scope="module")
def measured(lineage: Any) -> Artifact:
    weights = lineage.held["student_ce"].file("best.pt")

    def write(run: RunFolder) -> None:
        shutil.copyfile(weights, run.path("best.pt"))

    lineage.put("adopted", write, partition="friend")
    job = lineage.job("adopted_model", ["adopted[friend]", "hq_train_manifest"], "friend", Recipe())
    return lineage.made(adopted_model.build, job)


def failed(artifact: Artifact, lineage: Any) -> set[str]:
    outcomes = adopted_model.judge(artifact, lineage.store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return {outcome.rule for outcome in outcomes if outcome.passed is False}


def test_it_is_measured_on_val_with_a_temperature_from_calib(
    measured: Artifact, lineage: Any
) -> None:
    assert measured.record.splits == {"checkpoint": "unknown", "temperature": "calib"}
    metrics = measured.read_json("reliabilitymetrics.json")
    assert metrics["n"] == 28
    assert metrics["manifest_sha256"] == lineage.held["hq_train_manifest"].sha256
    original = lineage.held["adopted[friend]"].record.files["best.pt"].sha256
    assert measured.record.files["best.pt"].sha256 == original
    assert failed(measured, lineage) == set()


def test_what_has_no_weights_cannot_be_measured(lineage: Any) -> None:
    def write(run: RunFolder) -> None:
        run.write_json("labels.json", {})
        run.summary.update(adopted="soft-label export")

    lineage.put("adopted", write, partition="labels")
    job = lineage.job("adopted_model", ["adopted[labels]"], "labels", Recipe())
    with pytest.raises(FerError) as caught:
        lineage.made(adopted_model.build, job)
    assert "soft-label export" in caught.value.what
