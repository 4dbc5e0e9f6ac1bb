"""``teacher_bundle``: one teacher as an ONNX file with its card, for the demo."""

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
    """Export the teacher; its card states the metrics of its training."""
    export_measured(run, job, job.input("teacher", job.partition))


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``teacher_bundle``, with a partition for each teacher."""
    return [
        Stage(
            asset="teacher_bundle",
            group="teachers",
            kinds=("onnx",),
            describe="One teacher as `model.onnx` with its `card.json`, for the demo: torch and "
            "ONNX compared on faces.",
            needs=(Need("teacher", "same"), *needs("hq_train_manifest")),
            partitions="teachers",
            recipe=CardRecipe.of,
            holds=NETWORK_FILES,
            build=build,
            gates=NETWORK_GATES,
            judge=judge_network,
            code_version="3",
        )
    ]
