"""Curated manifests: one stage for each curation, each with its recipe, rows and gates."""

from dataclasses import replace
from pathlib import Path

import pytest

from fer_assets.stages.curated_manifest import COLOUR
from fer_ml.manifests.curation import COLOURS_FILE, manifest_file
from fer_ml.manifests.schema import read_manifest
from fer_ml.recipes.profile import Curation
from fer_ml.storage.store import Store
from fer_ml.validation.gates import MANIFEST_GATES, TRAINING_MANIFEST_GATES
from tests.fer_assets.stages.manifests import (
    all_made,
    held,
    profile_of_two,
    stages_of,
    verdicts,
)

PROFILE = profile_of_two()
STAGES = stages_of(PROFILE)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All manifests of the two sources."""
    return all_made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", PROFILE.curated)
def test_the_recipe_is_the_curation(name: str) -> None:
    recorded = STAGES[f"{name}_manifest"].recipe(PROFILE, None).recorded()
    whole = PROFILE.curated[name].model_dump(mode="json")
    assert whole == {**whole, **recorded}
    assert not any(whole[left] for left in whole.keys() - recorded.keys())
    assert Curation.from_plain(recorded) == PROFILE.curated[name]


def test_only_what_is_trained_on_must_have_every_class() -> None:
    assert STAGES["hq_train_manifest"].gates == (*TRAINING_MANIFEST_GATES, COLOUR)
    assert STAGES["sad_manifest"].gates == MANIFEST_GATES
    assert (
        STAGES["sad_manifest"].describe == "Curated by the recipe `curations.sad` of the profile."
    )


def test_it_holds_the_rows_that_its_recipe_takes(store: Store) -> None:
    rows = read_manifest(held(store, "sad_manifest").file(manifest_file("sad_manifest")))
    assert (set(rows["source"]), set(rows["label"])) == ({"a"}, {"Sad"})
    curation = held(store, "sad_manifest").read_json("curation.json")
    assert curation["recipe"] == PROFILE.curations["sad"].model_dump(mode="json")
    assert curation["from"]["sha256"] == held(store, "classification_manifest").sha256
    assert curation["rows"] == rows.height


def test_its_blocking_gates_pass(store: Store) -> None:
    for name in PROFILE.curated:
        stage = STAGES[f"{name}_manifest"]
        found = verdicts(stage, PROFILE, store)
        assert all(found[gate.rule].passed for gate in stage.gates if gate.blocking), name


@pytest.mark.parametrize(
    ("grey", "colour", "passed"),
    [
        ({"a": 100, "b": 100}, "rgb", False),
        ({"a": 100, "b": 97}, "rgb", False),  # 1.5 % of all rows have colour
        ({"a": 100, "b": 91}, "rgb", False),
        ({"a": 100, "b": 90}, "rgb", True),  # 5 %
        ({"a": 100, "b": 50}, "rgb", True),
        ({"a": 0, "b": 0}, "rgb", True),
        ({"a": 100, "b": 100}, "grey", True),
        ({"a": 0, "b": 0}, "grey", True),
    ],
)
def test_grey_faces_must_be_prepared_as_grey(
    tmp_path: Path, grey: dict[str, int], colour: str, passed: bool
) -> None:
    store = all_made(tmp_path)
    stage, before = STAGES["hq_train_manifest"], held(store, "hq_train_manifest")
    looked = {name: {"rows": 500, "looked_at": 100, "grey": n} for name, n in grey.items()}
    record = before.record
    with store.begin(record.asset, inputs=record.inputs, recipe=record.recipe) as run:
        for name in record.files:
            run.path(name).write_bytes(before.file(name).read_bytes())
        run.write_json(COLOURS_FILE, {"schema_version": 1, "by_source": looked})
    prepared = replace(PROFILE.preprocess, colour=colour)
    profile = PROFILE.model_copy(update={"preprocess": prepared})
    found = verdicts(stage, profile, store)["colour_as_prepared"]
    assert found.passed == passed and COLOUR.blocking
    assert found.value == pytest.approx(1 - sum(grey.values()) / 200)


def test_the_colour_is_that_of_the_images(store: Store) -> None:
    looked = held(store, "hq_train_manifest").read_json(COLOURS_FILE)["by_source"]
    assert set(looked) == {"a", "b"}
    assert all(own["looked_at"] == own["rows"] and own["grey"] == 0 for own in looked.values())
