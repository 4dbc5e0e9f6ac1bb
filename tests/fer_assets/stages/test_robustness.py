"""The corruption sets' recipe, and what their gates find."""

import json
from typing import Any

import polars as pl
import pytest

from fer_assets.stage import Limits
from fer_assets.stages import robustness
from fer_assets.stages.robustness import GATES, RobustnessRecipe
from fer_ml.evaluation.benchmark import measure_models
from fer_ml.recipes.builtin import ferplus, sample
from fer_ml.storage.artifact import Artifact
from tests.fer_ml.evaluation.test_robustness import write_cards


@pytest.fixture(scope="module")
def made(lineage: Any) -> Artifact:
    path = lineage.held["ensemble"].file("ensemble.json")
    facts = json.loads(path.read_text())
    facts |= {"fusion": "logits", "weights": {"RN18": 1.0}}
    path.write_text(json.dumps({**facts, "members": {"RN18": {"temperature": 1.5}}}))
    # What is stored is what the networks answer, as in a real run.
    job = lineage.job("benchmark")
    lineage.held["benchmark"] = lineage.made(measure_models, job, "temperature")
    lineage.put("candidate_bundles", write_cards)
    return lineage.made(robustness.build, lineage.job("robustness", recipe=RobustnessRecipe(7, 1)))


def failed(artifact: Artifact, lineage: Any) -> set[str]:
    outcomes = robustness.judge(artifact, lineage.store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return {outcome.rule for outcome in outcomes if outcome.passed is False}


def test_the_recipe_is_the_number_of_faces_and_the_seed() -> None:
    assert RobustnessRecipe.of(sample(), None).recorded() == {"faces": 14, "seed": 1337}
    assert RobustnessRecipe.of(ferplus(seed=5), None).recorded() == {"faces": 1000, "seed": 5}


def test_the_gates_see_lost_rows_and_other_answers(made: Artifact, lineage: Any) -> None:
    """Students answer here as in the benchmark; a teacher's stored logits are made up."""
    assert failed(made, lineage) == {"clean_as_benchmark"}
    document = made.folder / "robustness.json"
    held = json.loads(document.read_text())
    students = {k: v for k, v in held["entries"].items() if k.startswith("student")}
    document.write_text(json.dumps({**held, "entries": students}))
    assert failed(made, lineage) == set()
    table = made.file("predictions/student_kd.csv")
    rows = pl.read_csv(table)
    rows[:-1].write_csv(table)
    assert failed(made, lineage) == {"every_set_scored"}
    rows.write_csv(table)
    document.write_text(json.dumps({**held, "entries": students, "most": 8}))
    assert failed(made, lineage) == {"every_set_scored"}
