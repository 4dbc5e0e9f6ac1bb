"""``adopted_bundle``: an adopted run as an ONNX file with its card, for the demo."""

from fer_assets.stage import Given, Need, Stage, needs
from fer_assets.stages._bundle import (
    NETWORK_FILES,
    NETWORK_GATES,
    CardRecipe,
    export_measured,
    judge_network,
)
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder


def build(run: RunFolder, job: Job[CardRecipe]) -> None:
    """Export the adopted network; its card states the metrics that were measured here."""
    export_measured(run, job, job.input("adopted_model", job.partition))


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``adopted_bundle``, with a partition for each adopted run."""
    return [
        Stage(
            asset="adopted_bundle",
            group="adopted",
            kinds=("onnx",),
            describe="An adopted run as `model.onnx` with its `card.json`, for the demo: torch and "
            "ONNX compared on faces.",
            needs=(Need("adopted_model", "same"), *needs("hq_train_manifest")),
            partitions="adopted",
            on_request=True,
            recipe=CardRecipe.of,
            holds=NETWORK_FILES,
            build=build,
            gates=NETWORK_GATES,
            judge=judge_network,
            code_version="2",
        )
    ]
