"""Bundles of networks that are measured already: teachers, adopted ones, and the ensemble."""

from dataclasses import asdict

import numpy as np
import pytest

from fer_assets.stage import Limits
from fer_assets.stages import adopted_bundle, ensemble_bundle, teacher_bundle
from fer_assets.stages._bundle import NETWORK_GATES, CardRecipe, judge_network
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.distillation.fusion import fuse
from fer_ml.distillation.logits import Logits, write_logits
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.preprocess import FRAMES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from tests.fer_ml.evaluation.conftest import Lineage, noisy_logits

# torch.onnx and torch.export warn about their own internals; the export is judged by its result.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RECIPE = CardRecipe("test", False, ("One", ""), FRAMES)
TEMPERATURES = {"RN18": 1.5, "B3": 0.7}
METRICS = {"macro_f1": 0.5}


def judged(artifact: Artifact, lineage: Lineage) -> Bundle:
    """The bundle, which passes every gate."""
    outcomes = judge_network(artifact, lineage.store, Limits())
    assert [o.rule for o in outcomes] == [gate.rule for gate in NETWORK_GATES]
    assert all(o.passed for o in outcomes)
    return load_bundle(artifact.folder)


def measure(lineage: Lineage, asset: str, partition: str, seed: int) -> None:
    """A training with its metrics of val."""
    lineage.train("trained", seed, t=TEMPERATURES.get(partition, 1.0))
    trained = lineage.held["trained"]

    def write(run: RunFolder) -> None:
        for name in trained.record.files:
            run.path(name).write_bytes(trained.file(name).read_bytes())
        run.write_json("reliabilitymetrics.json", METRICS)

    lineage.put(asset, write, ("hq_train_manifest",), partition)


def test_a_teacher_and_an_adopted_run_carry_their_metrics(lineage: Lineage) -> None:
    for module, asset in ((teacher_bundle, "teacher"), (adopted_bundle, "adopted_model")):
        measure(lineage, asset, "CNXT", 3)
        inputs = {label: lineage.held[label] for label in (f"{asset}[CNXT]", "hq_train_manifest")}
        job = Job(module.__name__.rpartition(".")[2], "CNXT", lineage.store, RECIPE, inputs, {})
        card = judged(lineage.made(module.build, job), lineage).card
        assert (card.name, card.profile, card.temperature) == (f"{asset}[CNXT]", "test", 1.0)
        assert card.metrics == {"hq_train_val": METRICS}
        assert card.data == "Photographs: One; "


def test_the_ensemble_is_one_network_of_its_members(lineage: Lineage) -> None:
    weights = {"RN18": 0.25, "B3": 0.75}
    members = {}
    for seed, key in enumerate(weights):
        measure(lineage, "teacher", key, seed)
        inputs = {label: lineage.held[label] for label in (f"teacher[{key}]", "hq_train_manifest")}
        job = Job("teacher_bundle", key, lineage.store, RECIPE, inputs, {})
        members[key] = lineage.made(teacher_bundle.build, job)

    def write(run: RunFolder) -> None:
        ids = tuple(lineage.frame["sample_id"])
        write_logits(run.folder, Logits(noisy_logits(lineage.frame, 2, 2.5), ids))
        told = {key: {"temperature": value} for key, value in TEMPERATURES.items()}
        run.write_json(
            "ensemble.json",
            {"weights": weights, "fusion": "calibrated", "temperature": 1.2, "members": told},
        )
        run.write_json("ensemble_metrics.json", METRICS)

    lineage.put("ensemble", write)
    labels = ("teacher[RN18]", "teacher[B3]", "ensemble", "hq_train_manifest")
    inputs = {f"teacher_bundle[{key}]": member for key, member in members.items()}
    inputs |= {label: lineage.held[label] for label in labels}
    job = Job("ensemble_bundle", None, lineage.store, RECIPE, inputs, {})
    bundle = judged(lineage.made(ensemble_bundle.build, job), lineage)
    assert (bundle.card.temperature, bundle.card.metrics) == (1.2, {"hq_train_val": METRICS})
    assert bundle.card.architecture == "test_resnet + test_resnet"
    faces = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    own = [load_bundle(member.folder).logits(faces) for member in members.values()]
    wanted = fuse(own, list(weights.values()), "calibrated", list(TEMPERATURES.values()))
    np.testing.assert_allclose(bundle.logits(faces), wanted, atol=1e-4)


def test_the_recipe_names_what_was_trained_on() -> None:
    recipe = CardRecipe.of(sample(), None)
    trained_on = sample().hq_train.sources
    assert recipe.recorded() == {
        "profile": "sample",
        "drawn": True,
        "titles": [each.title for each in sample().sources if each.name in trained_on],
        "frames": {name: asdict(frame) for name, frame in sample().demo.frames.items()},
    }
    narrower = sample().model_copy(
        update={"hq_train": sample().hq_train.model_copy(update={"sources": trained_on[:1]})}
    )
    assert len(CardRecipe.of(narrower, None).titles) == 1 < len(recipe.titles)
