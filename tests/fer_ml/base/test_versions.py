"""Steps from one version of a file to the next, and what is not read."""

from typing import Any

import pytest

from fer_ml.base.versions import GUIDE, STEPS, OtherVersion, upgraded, versions_of, with_frame
from tests.refusals import refused

V1_RECIPE = {"augment": 0.3, "bf16": True, "task": {"kind": "ce", "label_smoothing": 0.1}}
V2_RECIPE = {
    "strength": 0.3,
    "precision": "bf16",
    "task": {"kind": "ce"},
    "label_smoothing": 0.1,
}


def test_a_recipe_of_the_first_version() -> None:
    held = upgraded("checkpoint", {"recipe": V1_RECIPE}, "best.pt")
    assert held == {"recipe": V2_RECIPE, "schema_version": 2}
    new: dict[str, Any] = {"recipe": {"augment": "affine"}, "schema_version": 2}
    assert upgraded("checkpoint", new, "best.pt") is new


def test_settings_of_the_first_version_and_those_without_a_version() -> None:
    curation = {"sources": ["a"], "unique": True}
    old = {"profiles": {"p": {"hq_train": curation, "students": {"ce": V1_RECIPE}}}}
    new = {"hq_train": {"sources": ["a"], "one_per": "sample"}, "students": {"ce": V2_RECIPE}}
    assert upgraded("fer.toml", old, "", "version") == {"profiles": {"p": new}, "version": 3}
    # What has no version and is of today's form stays as it is.
    assert upgraded("fer.toml", {"profiles": {"p": new}}, "", "version")["profiles"] == {"p": new}
    assert upgraded("fer.toml", {"profiles": 3}, "", "version") == {"profiles": 3, "version": 3}


def test_a_packed_training_of_the_first_version() -> None:
    held = upgraded("packed training", {"steps": [{"name": "ce"}]}, "job.json")
    assert held["steps"] == [{"kind": "training", "name": "ce"}]


OLD_SPEC = {"size": 48, "margin": 0.15, "oversize": 1.0, "clahe_clip": 2.0, "clahe_tiles": 8}
NEW_SPEC = {
    "size": 48,
    "oversize": 1.0,
    "clahe_clip": 2.0,
    "clahe_tiles": 8,
    "clahe_tile_px": 1,
    "frame": {"side": 1.3, "down": 0.0},
}


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        ("Photographs: FER+, ten votes a face", "grey"),
        ("Photographs: FER+, ten votes a face; FER2013, the challenge's csv", "grey"),
        ("Photographs: FER+, ten votes a face; RAF-DB basic", "rgb"),
        ("Photographs: AffectNet, class folders", "rgb"),
        ("none", "rgb"),
    ],
)
def test_a_card_from_before_the_frame_is_served_as_it_was_trained(data: str, colour: str) -> None:
    held = upgraded("card.json", {"preprocess": OLD_SPEC, "data": data}, "card.json")
    assert held["preprocess"] == {**NEW_SPEC, "colour": colour}
    new = {"preprocess": held["preprocess"], "schema_version": 3, "data": data}
    assert upgraded("card.json", new, "card.json") is new
    assert upgraded("card.json", {**new, "schema_version": 2}, "card.json") == new
    assert with_frame(held["preprocess"]) is held["preprocess"]


def test_a_profiles_margin_is_its_frame() -> None:
    old = {"version": 2, "profiles": {"p": {"preprocess": {"size": 64, "margin": 0.2}}, "q": 3}}
    new = {"p": {"preprocess": {"size": 64, "frame": {"side": 1.4}}}, "q": 3}
    assert upgraded("fer.toml", old, "", "version") == {"profiles": new, "version": 3}


@pytest.mark.parametrize(
    "kind", ["record.json", "claims", "benchmark.json", "manifest_validation_all.json"]
)
def test_a_newer_version_is_refused_with_what_to_do(kind: str) -> None:
    newer = versions_of(kind).written + 1
    with refused("newer-version", where="/a/place") as caught:
        upgraded(kind, {"schema_version": newer}, "/a/place")
    assert isinstance(caught.value, OtherVersion)
    assert str(newer) in caught.value.what and GUIDE in str(caught.value.fix)


def test_what_cannot_be_carried_over_is_to_be_made_again() -> None:
    with refused("older-version") as caught:
        upgraded("benchmark.json", {"schema_version": 1}, "")
    assert isinstance(caught.value, OtherVersion)
    assert "fer materialize" in str(caught.value.fix)


@pytest.mark.parametrize("version", ["", "-1", "1.5", "x", "²", "0", None, [1]])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    with refused("invalid-version", where="here"):
        upgraded("claims", {"version": version}, "here", "version")


def test_steps_lead_from_the_oldest_to_the_current_version() -> None:
    for kind, version in STEPS:
        assert versions_of(kind).oldest <= version < versions_of(kind).written
