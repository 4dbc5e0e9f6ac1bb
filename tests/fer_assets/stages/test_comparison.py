"""A comparison's recipe and inputs, and its gates against what was trained and measured."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fer_assets.stage import Given, Limits, Need
from fer_assets.stages import comparison
from fer_assets.stages.comparison import GATES, ComparisonRecipe, _unequal
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Comparison
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Record
from tests.fer_ml.evaluation.conftest import ARMS


@pytest.fixture(scope="module")
def compared(lineage: Any) -> Artifact:
    """Nine random networks; the records say that they are of equal trainings."""
    trainings = lineage.train_arms()
    compared = Comparison(arms=ARMS, baseline="ce", rows="deduplicated")
    inputs = [f"student_experiment[{name}]" for name in trainings]
    job = lineage.job(
        "comparison/it",
        [*inputs, "test_all_sources_manifest"],
        recipe=ComparisonRecipe(**dict(compared), order=tuple(compared.arms), trainings=trainings),
    )
    return lineage.made(comparison.build, job)


def test_the_gate_looks_at_what_was_trained(compared: Artifact, lineage: Any) -> None:
    def failed() -> set[str]:
        outcomes = comparison.judge(compared, lineage.store, Limits())
        assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
        return {outcome.rule for outcome in outcomes if outcome.passed is False}

    assert failed() == set()
    path = lineage.held["student_experiment[d_2]"].folder / "record.json"
    text = path.read_text()
    path.write_text(text.replace('"strength":1.0', '"strength":0.9'))
    assert path.read_text() != text
    assert failed() == {"arms_equal_as_declared"}
    path.write_text(text.replace(lineage.held["hq_train_manifest"].sha256, "0" * 64))
    assert path.read_text() != text
    assert failed() == {"arms_equal_as_declared"}
    path.write_text(text)
    path = compared.file("predictions/kd.csv")
    rows = path.read_text()
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert failed() == {"every_row_scored"}
    path.write_text(rows)
    path = compared.file("comparison.json")
    held = json.loads(path.read_text())
    held["arms"]["kd"]["macro_f1"]["low"] = float("nan")
    path.write_text(json.dumps(held))
    assert failed() == {"intervals_finite"}


def test_whatever_differs_and_may_not_is_named() -> None:
    def record(**training: Any) -> Record:
        return Record.model_construct(recipe={"training": training})

    def named(*records: Record | None, varies: tuple[str, ...] = ()) -> list[str]:
        told = dict(enumerate(records))
        arm = {"experiments": list(told)}
        seeds = {
            n: {"seed": r.recipe["training"].get("seed", n) if r else n} for n, r in told.items()
        }
        return _unequal({"varies": varies, "arms": {"arm": arm}, "experiments": seeds}, told)

    one, more = record(lr=1, seed=1, task="ce"), "arm: its runs differ in more than the seed"
    assert named(one, record(lr=1, seed=2, task="ce")) == []
    assert named(one, one) == ["arm: the same seed twice"]
    assert named(one, record(lr=2, seed=2, task="ce")) == ["1.lr", more]
    assert named(one, record(lr=1, seed=2, task="kd")) == [more], "tasks differ between arms alone"
    # A field that either of them lacks.
    assert named(one, record(seed=2, task="ce")) == ["1.lr", more]
    assert named(one, record(lr=1, decay=0, seed=2, task="ce")) == ["1.decay", more]
    assert named(one, record(seed=2, task="ce"), varies=("lr",)) == [more]
    assert "1: its training is no longer here" in named(one, None)


def test_students_and_experiments_are_compared_each_with_its_seed() -> None:
    arms = {"ce": ("student_ce", "ce_2"), "kd": ("student_kd", "kd_2")}
    compared = Comparison(arms=arms, baseline="ce", evaluation="hq_train_val")
    profile = sample(seed=7).model_copy(update={"comparisons": {"it": compared}})
    (stage,) = comparison.stages(Given(profile))
    assert stage.needs == (
        Need("student_experiment", "named", ("ce_2", "kd_2")),
        Need("student_ce"),
        Need("student_kd"),
        Need("hq_train_manifest"),
    )
    recipe = stage.recipe(profile, None).recorded()
    trainings = recipe.pop("trainings")
    assert recipe.pop("order") == ["ce", "kd"]
    assert recipe == compared.model_dump(mode="json")
    assert {name: training["seed"] for name, training in trainings.items()} == {
        "student_ce": 7,
        "ce_2": 2,
        "student_kd": 7,
        "kd_2": 2,
    }
    other = replace(profile.experiments["kd_2"], lr=0.5)
    changed = profile.model_copy(update={"experiments": {**profile.experiments, "kd_2": other}})
    assert stage.recipe(changed, None) != stage.recipe(profile, None)
    unused = profile.model_copy(update={"experiments": {**profile.experiments, "kd": other}})
    assert stage.recipe(unused, None) == stage.recipe(profile, None)
