"""A comparison's recipe and inputs, and what may not differ between its trainings."""

from dataclasses import replace
from typing import Any

from fer_assets.stage import Given, Need
from fer_assets.stages import comparison
from fer_assets.stages.comparison import _unequal
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Comparison
from fer_ml.storage.record import Record


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
