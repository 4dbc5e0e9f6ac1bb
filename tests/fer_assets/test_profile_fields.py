"""Each field of a profile decides what is listed here, and nothing else.

The profile of this test uses everything that a profile can hold. Each of its values is changed,
one at a time, without the profile's own checks: which recipes and which limits then differ is
compared with the table below. A field on no line fails.
"""

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from fer_assets.stage import Given, Stage
from fer_assets.stages import all_stages
from fer_ml.base.errors import FerError
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Comparison, Curation, Near, Profile, SoftLabels

BUNDLES = {"teacher_bundle", "ensemble_bundle", "adopted_bundle", "candidate_bundles"}
STUDENTS = {"student_ce", "student_kd", "student_dkd"}
TRAININGS = {"teacher", "teacher_fold", *STUDENTS, "student_experiment"}
PREPARING = {*TRAININGS, "teacher_logits", "softlabels", "external_model"}
SESSIONS = {"candidate_sessions", "demo_session"}
CURATED = ("hq_train", "eval_only", "test_all_sources", "own")
#: What names the profile in its own text.
NAMED = {"manifest_validation", "report_claims", "report", *BUNDLES}

#: Fields by pattern: the assets whose recipe they decide, and those whose verdicts.
DECIDES: dict[str, tuple[set[str], set[str]]] = {
    r"name": (NAMED, set()),
    r"seed": (
        {
            *("classification_manifest", "teacher_logits", "comparison/two", "robustness"),
            *TRAININGS,
        },
        set(),
    ),
    r"drawn": ({"report_claims", "report", *BUNDLES}, set()),
    r"sources/expw_full/(adapter|options.*|labels.*)": ({"manifest/expw_full"}, set()),
    r"sources/expw_full/title": (BUNDLES, set()),
    r"sources/expw_full/splits.*": ({"classification_manifest"}, set()),
    r"near/.*": (
        {"classification_manifest", "manifest_validation"},
        {"classification_manifest", *(f"{name}_manifest" for name in CURATED)},
    ),
    r"draw/.*": ({"classification_manifest"}, set()),
    r"hq_train/sources.*": ({"hq_train_manifest", *BUNDLES}, set()),
    r"(hq_train|eval_only|test_all_sources)/.*": ({"{0}_manifest"}, set()),
    r"curations/own/.*": ({"own_manifest"}, set()),
    r"preprocess/colour": (PREPARING, {"hq_train_manifest"}),
    r"preprocess/.*": (PREPARING, set()),
    r"teachers/RN18/.*": ({"teacher", "teacher_fold"}, set()),
    r"ensemble/.*": ({"ensemble"}, set()),
    r"calibration": ({"benchmark"}, set()),
    r"softlabels/target_entropy": ({"softlabels"}, set()),
    r"softlabels/folds": ({"teacher_fold", "teacher_logits", "softlabels"}, set()),
    r"softlabels/views": ({"teacher_logits", "softlabels"}, set()),
    r"students/kd/(augment|strength|erase)": (
        {"student_kd", "teacher_logits", "comparison/two"},
        set(),
    ),
    r"students/kd/.*": ({"student_kd", "comparison/two"}, set()),
    r"students/(ce|dkd)/.*": ({"student_{0}"}, set()),
    r"experiments/one/.*": ({"student_experiment", "comparison/two"}, set()),
    r"comparisons/two/.*": ({"comparison/two"}, set()),
    r"robustness_faces": ({"robustness"}, set()),
    r"selection/flips_gain": ({"student_selection"}, {"demo_kpis"}),
    r"selection/.*": ({"student_selection"}, set()),
    r"demo/detector": (SESSIONS, set()),
    r"demo/frames/.*": (BUNDLES, set()),
    r"demo/session": (SESSIONS, set()),
    r"demo/p95_limit_ms": ({"demo_kpis"}, {"demo_kpis"}),
    r"demo/p95_blocks": (set(), {"demo_kpis"}),
    r"floor_macro_f1": (set(), {*TRAININGS, "benchmark"}),
}
#: Fields that decide nothing themselves, each with its reason.
DECIDES_NOTHING = {
    r"sources/expw_full/root": "a raw folder counts by its fingerprint, wherever it lies",
    r"models/.*": "a model from elsewhere counts by the hashes of its files",
    r"demo/video": "the clip counts by its hash",
    r"looked_at.*": "it marks numbers, and decides none",
}
#: Fields that no other value fits while the rest stays as it is.
NOT_ALONE = {
    r"sources/expw_full/name": "it is the name of the asset",
    r".*/init_(file|package)": "it goes with init",
    r"(students/kd|experiments/one)/mixup": "it is for tasks without a teacher, as students/ce has",
}


def everything() -> Profile:
    """The sample with one of each: a fold, a curation, an experiment, a comparison, a model."""
    base = sample()
    kd = base.students["kd"]
    return base.model_copy(
        update={
            "sources": tuple(s for s in base.sources if s.name == "expw_full"),
            "hq_train": base.hq_train.model_copy(update={"sources": ("expw_full",)}),
            "teachers": {"RN18": base.teachers["RN18"]},
            "near": Near(),
            "softlabels": SoftLabels(folds=2, views=2),
            "experiments": {"one": kd},
            "curations": {"own": Curation(sources=("expw_full",))},
            "comparisons": {
                "two": Comparison(arms={"a": ("one",), "b": ("student_kd",)}, baseline="a", seeds=1)
            },
            "models": {"friend": "friend.onnx"},
        }
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside, with the way to it; an empty table or list is one too."""
    if isinstance(value, BaseModel):
        parts: list[tuple[Any, Any]] = [(n, getattr(value, n)) for n in type(value).model_fields]
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [(each.name, getattr(value, each.name)) for each in fields(value)]
    elif isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, tuple):
        parts = [(getattr(v, "name", i), v) for i, v in enumerate(value)]
    else:
        parts = []
    if not parts:
        yield path, value
    for name, held in parts:
        yield from leaves(held, (*path, name))


def others(value: Any) -> list[Any]:
    """Other values of about that kind; some recipes refuse what makes no sense."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 1.5 + 0.01, value / 2]
    if value == {}:
        return [{"x": 0.5}]
    if value == ():
        return [("another",)]
    return ["another", "grey", "imagenet", "student_ce", 64, True, 0.5, sample().students["ce"]]


def _put(holder: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(holder, dict):
        return {**holder, name: _put(holder[name], rest, value)}
    if isinstance(holder, tuple):
        places = [getattr(v, "name", i) for i, v in enumerate(holder)]
        at = places.index(name)
        return (*holder[:at], _put(holder[at], rest, value), *holder[at + 1 :])
    copied = copy.copy(holder)
    inner = _put(getattr(copied, name), rest, value)
    if isinstance(copied, BaseModel):
        return copied.model_copy(update={name: inner})
    object.__setattr__(copied, name, inner)
    return copied


PROFILE = everything()
STAGES = all_stages(Given(PROFILE))


def recipes(profile: Profile, stage: Stage) -> list[dict[str, Any]]:
    keys: list[str | None] = [None]
    if stage.partitions == "adopted":
        keys = ["friend"]
    elif stage.partitions:
        keys = list(getattr(PROFILE, stage.partitions))
    return [stage.recipe(profile, key).recorded() for key in keys]


def decided_by(profile: Profile) -> tuple[set[str], set[str]]:
    """The assets whose recipe, and those whose limits, differ from those of ``PROFILE``."""
    stale = {a for a, s in STAGES.items() if recipes(profile, s) != recipes(PROFILE, s)}
    before, now = (
        {a: s.limits(p).recorded() for a, s in STAGES.items()} for p in (PROFILE, profile)
    )
    return stale, {asset for asset in STAGES if before[asset] != now[asset]}


LEAVES = {"/".join(map(str, path)): (path, value) for path, value in leaves(PROFILE)}


@pytest.mark.parametrize("name", LEAVES)
def test_a_field_decides_what_it_says(name: str) -> None:
    path, value = LEAVES[name]
    found = None
    for other in (each for each in others(value) if each != value):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, FerError):
            found = decided_by(_put(PROFILE, path, other))
            break
    if found is None:
        assert any(re.fullmatch(pattern, name) for pattern in NOT_ALONE), "no other value"
        return
    if any(re.fullmatch(pattern, name) for pattern in DECIDES_NOTHING):
        assert found == (set(), set())
        return
    for pattern, (stale, void) in DECIDES.items():
        match = re.fullmatch(pattern, name)
        if match:
            groups = match.groups()
            assert found == ({each.format(*groups) for each in stale}, void)
            return
    pytest.fail(f"{name} is on no list; it decides {found}")


def test_the_profile_uses_every_field() -> None:
    tops = {path[0] for path, _ in LEAVES.values()}
    assert tops == set(Profile.model_fields)
