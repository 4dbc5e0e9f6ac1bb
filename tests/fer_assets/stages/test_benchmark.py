"""The benchmark's inputs, its recipe and its limits."""

from dataclasses import replace
from typing import Any

import pytest

from fer_assets.stage import Given
from fer_assets.stages import all_stages, benchmark
from fer_assets.stages.benchmark import GATES, BenchmarkLimits, BenchmarkRecipe
from fer_ml.evaluation import benchmark as library
from fer_ml.evaluation.models import benchmark_models
from fer_ml.metrics.chance import Chance
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Curation
from fer_ml.runs.gates import above_floor
from fer_ml.storage.artifact import Artifact


@pytest.fixture(scope="module")
def measured(lineage: Any) -> Artifact:
    """Of networks with random weights, but they determine no vector scaling: others answer."""
    models = [
        replace(model, predict=lineage.noisy(seed))
        for seed, model in enumerate(benchmark_models(lineage.job("benchmark")))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "benchmark_models", lambda job: models)
        job = lineage.job("benchmark", recipe=BenchmarkRecipe("vector"))
        return lineage.made(benchmark.build, job)


def failed(artifact: Artifact, lineage: Any, floor: float = 0.0) -> set[str]:
    outcomes = benchmark.judge(artifact, lineage.store, BenchmarkLimits(floor))
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return {outcome.rule for outcome in outcomes if outcome.passed is False}


def test_the_recipe_decides_what_is_measured(measured: Artifact, lineage: Any) -> None:
    assert BenchmarkRecipe.of(sample(), None).recorded() == {"calibration": "temperature"}
    assert measured.read_json("calibration/student_ce.json")["mode"] == "vector"
    assert failed(measured, lineage) == set()


def test_the_floor_is_that_of_the_profile(measured: Artifact, lineage: Any) -> None:
    profile = sample().model_copy(update={"floor_macro_f1": 0.25})
    assert BenchmarkLimits.of(profile).recorded() == {"floor_macro_f1": 0.25}
    entries = measured.read_json("benchmark.json")["entries"]
    worst = min(
        entries[f"student_{name}"]["test_all_sources"]["raw"]["macro_f1"]
        for name in ("ce", "kd", "dkd")
    )
    assert failed(measured, lineage, 0.0) == set()
    assert failed(measured, lineage, worst + 1e-9) == {"students_above_floor"}


def test_a_better_model_passes_a_floor_and_a_guesser() -> None:
    chance = Chance(0.2, {})
    assert above_floor("r", 0.3, 0.25, chance).passed
    assert not above_floor("r", 0.3, 0.35, chance).passed
    assert not above_floor("r", 0.2, 0.1, chance).passed
    assert not above_floor("r", 0.9, 0.1, None).passed


def manifests(needs: Any) -> list[str]:
    return [need.asset for need in needs if need.asset.endswith("_manifest")]


def test_own_curations_with_test_rows_are_sets_and_labelled_by_the_teachers() -> None:
    profile = sample().model_copy(
        update={
            "curations": {
                "dark": Curation(sources=("expw_full",)),
                "learn": Curation(sources=("expw_full",), splits=("train", "val")),
            }
        }
    )
    stages = all_stages(Given(profile))
    wanted = ["hq_train_manifest", "eval_only_manifest", "test_all_sources_manifest"]
    assert manifests(stages["benchmark"].needs) == [*wanted, "dark_manifest"]
    assert manifests(stages["teacher_logits"].needs) == manifests(stages["benchmark"].needs)
