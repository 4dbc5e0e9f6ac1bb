"""Recipes refuse what would train something else than was meant."""

import json
from dataclasses import asdict, replace

import pytest

from fer_ml.recipes.builtin import PROFILES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import (
    CE,
    DIST,
    KD,
    ArcFace,
    Imbalance,
    Locality,
    Negative,
    Prototype,
    Training,
    read_plain,
    read_recipe,
)
from tests.refusals import refused

BASE = Training(architecture="resnet18", task=CE(), init="none", epochs=3)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_recipe_survives_json(name: str) -> None:
    profile = PROFILES[name]()
    trainings = {**profile.teachers, **profile.students, **profile.experiments}
    assert trainings
    for training in trainings.values():
        assert read_recipe(json.loads(json.dumps(asdict(training)))) == training
    assert read_plain(Preprocess, profile.preprocess.plain(), "p") == profile.preprocess


def test_a_record_of_before_equals_one_of_today() -> None:
    """Fields that came later are in a record only where they are used."""
    later = ("precise_bn", "zero_init_residual", "init_package", "network_size", "average_flip")
    nested = replace(BASE, init="previous", first_stage=BASE)
    for training in (BASE, nested):
        held = training.recorded()
        assert not {*later} & {*held, *(held["first_stage"] or {})}
        assert read_recipe(json.loads(json.dumps(held))) == training
    used = replace(BASE, precise_bn=64, zero_init_residual=True)
    before = {name: value for name, value in asdict(BASE).items() if name not in later}
    assert used.recorded() == {**before, "precise_bn": 64, "zero_init_residual": True}
    within = replace(nested, first_stage=used).recorded()["first_stage"]
    assert within["precise_bn"] == 64


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_no_built_in_profile_asks_for_a_precision_by_name(name: str) -> None:
    profile = PROFILES[name]()
    trainings = (*profile.teachers.values(), *profile.students.values())
    every = [s for t in (*trainings, *profile.experiments.values()) for s in t.stages()]
    assert {training.precision for training in every} == {"auto"}


def held(**changes: object) -> dict:
    return {**json.loads(json.dumps(asdict(BASE))), **changes}


@pytest.mark.parametrize(
    ("changes", "code", "where"),
    [
        ({"learning_rate": 1}, "unknown-field", "recipe.learning_rate"),
        ({"epochs": "3"}, "invalid-value", "recipe.epochs"),
        ({"epochs": True}, "invalid-value", "recipe.epochs"),
        ({"epochs": 0}, "invalid-value", "recipe"),
        ({"lr": None}, "invalid-value", "recipe.lr"),
        ({"optimiser": "adam"}, "invalid-value", "recipe.optimiser"),
        ({"task": {"kind": "kdd"}}, "invalid-value", "recipe.task"),
        ({"task": "ce"}, "invalid-value", "recipe.task"),
        ({"task": {"kind": "kd", "alpha": 1}}, "unknown-field", "recipe.task.alpha"),
        ({"imbalance": 3}, "invalid-value", "recipe.imbalance"),
        ({"first_stage": {}}, "missing-field", "recipe.first_stage.architecture"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, code: str, where: str) -> None:
    with refused(code, where=where):
        read_recipe(held(**changes))


def test_equal_settings_have_one_digest() -> None:
    """Also where a card that was written by hand has whole numbers."""
    whole = Preprocess(size=48, clahe_clip=2, oversize=1)
    assert whole.digest() == Preprocess(size=48).digest()
    assert read_plain(Preprocess, {"size": 48, "clahe_clip": 2}, "p").digest() == whole.digest()


def test_an_unknown_field_comes_with_the_known_ones() -> None:
    with refused("unknown-field", where="recipe.learning_rate") as caught:
        read_recipe(held(learning_rate=1))
    assert caught.value.allowed is not None and "lr" in caught.value.allowed.split(", ")


def test_a_missing_field_is_named() -> None:
    with refused("missing-field", where="recipe.epochs"):
        read_recipe({key: value for key, value in held().items() if key != "epochs"})


def test_two_corrections_of_imbalance_need_saying_so() -> None:
    """Class-uniform sampling and class weights corrected the first teachers twice."""
    with pytest.raises(ValueError, match="class_weights"):
        Imbalance(sampler="balanced", class_weights="effective_number")
    both = Imbalance(sampler="balanced", class_weights="effective_number", several=True)
    assert both.used() == ["the balanced sampler", "class_weights"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mixup": 0.2, "task": KD()}, "mixup"),
        ({"mixup": 0.2, "task": ArcFace()}, "mixup"),
        ({"init": "file"}, "init_file"),
        ({"init_file": "a.pt"}, "init_file"),
        ({"first_stage": BASE}, "init"),
        ({"batch_size": 8, "accumulate": 5}, "accumulate"),
        ({"negative": None, "erase": 2.0}, "erase"),
        ({"accumulate": 2, "task": DIST()}, "task.intra_weight"),
        ({"accumulate": 2, "locality": Locality()}, "locality"),
        ({"accumulate": 2, "prototype": Prototype()}, "prototype"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, field: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        replace(BASE, **changes)
    with pytest.raises(ValueError, match="ratio"):
        Negative(ratio=2)


def test_stages_run_first_things_first() -> None:
    b = replace(BASE, first_stage=BASE, init="previous", size=384)
    c = replace(BASE, first_stage=b, init="previous", size=64)
    assert c.stages() == [BASE, b, c]
    assert BASE.stages() == [BASE]


def test_the_paper_profile_is_the_protocol_that_ran() -> None:
    """Sections 3 and 5 of what the first pipeline's code did."""
    paper = PROFILES["paper"]()
    teacher = paper.teachers["RN18"]
    assert (teacher.epochs, teacher.lr, teacher.weight_decay, teacher.batch_size) == (
        60,
        3e-4,
        0.05,
        64,
    )
    arc = teacher.task
    assert isinstance(arc, ArcFace)
    assert (arc.embedding, arc.dropout, arc.scale, arc.margin) == (512, 0.2, 30.0, 0.35)
    assert (arc.plain_epochs, arc.ramp_end) == (5, 15)
    assert teacher.imbalance.used() == ["the balanced sampler", "class_weights"]
    assert teacher.clip_norm == 0
    ce, kd, dkd = (paper.students[name] for name in ("ce", "kd", "dkd"))
    assert [s.epochs for s in (ce, kd, dkd)] == [10, 20, 10]
    assert [s.init for s in (ce, kd, dkd)] == ["imagenet", "imagenet", "previous"]
    assert (kd.task.ce_weight, kd.task.kd_weight, kd.task.temperature) == (0.5, 0.5, 2.0)
    # alpha 0.5 times beta 4: the weight of 8 that the code used is this one times T^2.
    assert dkd.task.nckd_weight * dkd.task.temperature**2 == 8
    stage_b = paper.experiments["RN18_stage_b"]
    assert [s.size for s in stage_b.stages()] == [None, 384]
    assert {"resnet50", "vit"} <= set(paper.experiments)
