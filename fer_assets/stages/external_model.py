"""``external_model``: a model from elsewhere: a copy of its files, checked and calibrated."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fer_assets.stage import Given, Limits, Recipe, Stage, Surroundings, needs
from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "bytes_as_named",
        "the files are the same as those at the path in the profile",
        "make it again",
    ),
    Gate(
        "class_order",
        "no other order of its columns fits the labels of calib significantly better",
        "export the model with its classes in the canonical order",
    ),
    Gate("finite", "no logit on calib is NaN or infinite", "look at the model's weights"),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "model.onnx": "Only of a bundle or an ONNX file: the model's own",
    "card.json": "Only of a bundle: its own",
    "best.pt": "Only of a checkpoint: its own",
    "model.json": (
        "`kind` (bundle, checkpoint, onnx), `checkpoint_sha256`, `files`, `preprocess`, `classes`,"
        " `assumed` (settings that its files do not state)"
    ),
    "calibration.json": (
        "`mode`, `global_temperature`, `inside_bounds` (the search did not end on a bound), "
        "`fitted_on`, `n`, `checkpoint_sha256`, `manifest_sha256`"
    ),
    "predictions_calib.csv": "[predictions](#predictions)",
}


@dataclass(frozen=True)
class ExternalRecipe(Recipe):
    """How faces are prepared for a model whose files do not state it."""

    preprocess: Preprocess

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "ExternalRecipe":
        """Return the recipe from the profile."""
        return cls(profile.preprocess)


def files(around: Surroundings, partition: str | None) -> dict[str, Any]:
    """Return the hashes of the model's files; null while they are missing."""
    from fer_ml.sources.raw import model_files

    path = around.model_path(str(partition))
    hashes = None
    with suppress(FerError):
        hashes = {name: sha256_file(file) for name, file in model_files(path)[1].items()}
    return {"files": hashes}


def build(run: RunFolder, job: Job[ExternalRecipe]) -> None:
    """Copy the files, check that they form a model, and fit its temperature on calib."""
    from fer_ml.evaluation.external import keep_external_model

    keep_external_model(run, job, job.recipe.preprocess)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge an external model: its bytes, class order and logits."""
    import numpy as np

    from fer_ml.evaluation.external import ABOUT_FILE
    from fer_ml.metrics.predictions import read_predictions
    from fer_ml.runs.gates import judge_order

    about = artifact.read_json(ABOUT_FILE)
    kept = {name: artifact.record.files[name].sha256 for name in about["files"]}
    _, y, logits = read_predictions(artifact.file("predictions_calib.csv"))
    bad = int((~np.isfinite(logits)).sum())
    return [
        same("bytes_as_named", kept, artifact.record.recipe["files"]),
        judge_order("class_order", y, logits),
        at_most("finite", bad, 0),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``external_model``; each of the profile's ``models`` is a partition."""
    return [
        Stage(
            asset="external_model",
            group="models",
            kinds=("onnx", "pytorch"),
            describe="A model from elsewhere (`models` of the profile): its own files, checked, "
            "and its temperature, fitted on calib. The benchmark measures it like any other.",
            needs=needs("hq_train_manifest"),
            recipe=ExternalRecipe.of,
            files=files,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            partitions="models",
        )
    ]
