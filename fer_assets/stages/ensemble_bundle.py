"""``ensemble_bundle``: the ensemble as one ONNX file with its card."""

from fer_assets.stage import Given, Need, Stage, needs
from fer_assets.stages._bundle import (
    NETWORK_FILES,
    NETWORK_GATES,
    PARITY_LIMIT,
    CardRecipe,
    judge_network,
)
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder


def build(run: RunFolder, job: Job[CardRecipe]) -> None:
    """Join the members' networks and their fusion into one file, and compare it with torch."""
    from fer_ml.bundles.cards import export_ensemble

    export_ensemble(run, job, job.recipe.origin(), PARITY_LIMIT)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``ensemble_bundle``, the same for every profile."""
    return [
        Stage(
            asset="ensemble_bundle",
            group="distillation",
            kinds=("onnx",),
            describe="The ensemble as one `model.onnx` with its `card.json`: its members' networks "
            "and their fusion, compared with torch on faces.",
            needs=(
                Need("teacher_bundle", "each"),
                Need("teacher", "each"),
                *needs("ensemble", "hq_train_manifest"),
            ),
            recipe=CardRecipe.of,
            holds=NETWORK_FILES,
            build=build,
            gates=NETWORK_GATES,
            judge=judge_network,
            code_version="3",
        )
    ]
