"""Every student's bundle: exported, and judged with the others."""

from dataclasses import replace
from typing import Any

import pytest

from fer_assets.stage import Limits
from fer_assets.stages._bundle import CardRecipe
from fer_assets.stages.candidate_bundles import GATES, build, judge
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import load_bundle
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from tests.fer_assets.stages.bundles import made, put_bundle, right_cards
from tests.fer_ml.evaluation.conftest import Lineage

# torch.onnx and torch.export warn about their own internals; the export is judged by its result.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize(
    ("change", "difference", "rule"),
    [
        ({}, 1e-6, None),
        ({}, 0.1, "torch_equals_onnx"),
        ({"model_sha256": "0" * 64}, 1e-6, "card_matches"),
        ({"classes": CLASSES[::-1]}, 1e-6, "class_order"),
        ({"checkpoint_sha256": "0" * 64}, 1e-6, "of_their_students"),
    ],
)
def test_every_candidate_is_judged(
    change: dict[str, Any], difference: float, rule: str | None, store: Store
) -> None:
    cards = right_cards(store)

    def fill(run: RunFolder) -> None:
        for name, card in cards.items():
            wrong = name == CANDIDATES[1]
            put_bundle(
                run,
                f"{name}/",
                card.model_copy(update=change) if wrong else card,
                difference if wrong else 1e-6,
            )

    needs = [store.current(name) for name in CANDIDATES]
    outcomes = judge(made(store, "candidate_bundles", fill, *needs), store, Limits())
    assert {o.rule for o in outcomes} == {gate.rule for gate in GATES}
    assert [o.rule for o in outcomes if o.passed is False] == ([rule] if rule else [])


def test_students_are_exported_with_what_the_recipe_says(lineage: Lineage) -> None:
    recipe = replace(CardRecipe.of(sample(), None), titles=("One", "Two"))
    inputs = {name: lineage.held[name] for name in (*CANDIDATES, "hq_train_manifest")}
    job = Job("candidate_bundles", None, lineage.store, recipe, inputs, {})
    artifact = lineage.made(build, job)
    assert all(outcome.passed for outcome in judge(artifact, lineage.store, Limits()))
    for name in CANDIDATES:
        card = load_bundle(artifact.folder / name).card
        assert (card.name, card.profile, card.metrics) == (name, "sample", {})
        assert card.data == "Drawn (synthetic) faces: One; Two"
        assert card.lineage["made_from"]["sha256"] == lineage.held[name].sha256
        assert artifact.read_json(f"{name}/parity.json")["limit"] == 1e-3
