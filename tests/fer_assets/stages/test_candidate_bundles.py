"""Every student's bundle is exported with what the recipe says."""

from dataclasses import replace

import pytest

from fer_assets.stage import Limits
from fer_assets.stages._bundle import CardRecipe
from fer_assets.stages.candidate_bundles import build, judge
from fer_ml.bundles.bundle import load_bundle
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.job import Job
from tests.fer_ml.evaluation.conftest import Lineage

# torch.onnx and torch.export warn about their own internals; the export is judged by its result.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


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
