"""A model from elsewhere is the bytes that the profile names, and they answer sanely."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_assets.stage import Limits
from fer_assets.stages import external_model
from fer_assets.stages.external_model import GATES, ExternalRecipe
from fer_ml.base.reading import sha256_file
from fer_ml.metrics.predictions import read_predictions, write_predictions
from fer_ml.recipes.builtin import sample
from fer_ml.storage.artifact import Artifact
from tests.fer_ml.evaluation.conftest import SPEC


def at(path: Path) -> Any:
    """What ``files`` asks of a pipeline: where a model lies."""
    return SimpleNamespace(model_path=lambda name: path)


@pytest.fixture
def kept(lineage: Any) -> Artifact:
    """The weights of a student, from elsewhere."""
    best = lineage.held["student_ce"].file("best.pt")
    recipe = ExternalRecipe(SPEC)
    job = replace(
        lineage.job("external_model", ["hq_train_manifest"], "copy", recipe), paths={"model": best}
    )
    recorded = {**recipe.recorded(), **external_model.files(at(best), "copy")}
    with lineage.store.begin(job.asset, job.partition, recipe=recorded) as run:
        external_model.build(run, job)
    artifact: Artifact = lineage.store.current(job.asset, job.partition)
    return artifact


def failed(artifact: Artifact, lineage: Any) -> set[str]:
    outcomes = external_model.judge(artifact, lineage.store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return {outcome.rule for outcome in outcomes if outcome.passed is False}


def test_each_gate_fails_for_its_own_reason(kept: Artifact, lineage: Any) -> None:
    assert failed(kept, lineage) == set()
    predictions = kept.file("predictions_calib.csv")
    before, calib = predictions.read_text(), lineage.frame.filter(pl.col("split") == "calib")
    _, y, logits = read_predictions(predictions)
    many = pl.concat([calib] * 8)
    write_predictions(predictions, many, np.tile(np.eye(7)[(y + 1) % 7], (8, 1)))
    assert failed(kept, lineage) == {"class_order"}
    predictions.write_text(before)
    logits = logits.copy()
    logits[3, 0] = np.inf
    write_predictions(predictions, calib, logits)
    assert failed(kept, lineage) == {"finite"}


def test_other_bytes_than_those_named_are_seen(kept: Artifact, lineage: Any) -> None:
    recipe = {**kept.record.recipe, "files": {"best.pt": "0" * 64}}
    record = kept.record.model_copy(update={"recipe": recipe})
    assert failed(replace(kept, record=record), lineage) == {"bytes_as_named"}


def test_the_record_names_the_files_and_how_faces_are_prepared(tmp_path: Path) -> None:
    profile = sample()
    assert ExternalRecipe.of(profile, "any").recorded() == {
        "preprocess": profile.preprocess.plain()
    }
    path = tmp_path / "any.onnx"
    assert external_model.files(at(path), "any") == {"files": None}
    path.write_bytes(b"x")
    assert external_model.files(at(path), "any") == {"files": {"model.onnx": sha256_file(path)}}
