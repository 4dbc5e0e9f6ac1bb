"""``softlabels``: the training targets of students, with hashes of everything they derive from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.runs.parts import Softened

GATES = (
    Gate("aligned_hashes", "index, manifest and ensemble state the same hashes", "export again"),
    Gate("covers_train", "one row for each training row, in the same order", "export again"),
    Gate("class_order", "classorder.json is the canonical order", "export again"),
    Gate("labels_agree", "the labels y equal those of the manifest", "export again"),
    Gate(
        "soft_enough",
        "mean entropy at the KD temperature, in nats: a one-hot teacher teaches nothing",
        "raise the temperature (softlabels.target_entropy)",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "softlabels.npz": (
        "`logits` float16 [N, V, 7], `y` uint8, `sample_id` S32, `fold` int8 (-1: in-sample), "
        "`view_seed` (-1: one centre view); the training rows in their order"
    ),
    "softlabels_centre.npz": "the same with one view",
    "softlabels_in_sample.npz": (
        "Only with `softlabels.folds`: the same by teachers that trained on the rows"
    ),
    "softlabels_raw.npz": "the same before calibration",
    "softlabels_index.jsonl": "by row: `i`, `image_path`, `source`, `y`, `sample_id`, `fold`",
    "classorder.json": "list of the classes",
    "hash_manifest.json": (
        "`manifest`, `sha256` (of the csv), `manifest_sha256`, `ensemble_sha256`, `teachers` "
        "(`sha256`, `checkpoint_sha256`, `folds`, `temperature`, `fold_temperatures`), "
        "`out_of_fold`, `views`, `preprocess_sha256`"
    ),
    "sharpness.json": (
        "`kd_temperature`, `target_entropy`, `mean_max_probability`, `by_temperature` "
        "(`temperature`, `mean_entropy` in nats); the same for each of `kinds`"
    ),
    "ensemble_metrics.json": "`split` (train), `out_of_fold`, `view` and its metrics, scaled",
    "alignmentreport.json": (
        "`time`, `manifest`, `manifest_sha256`, `split`, `rows`, `image_size`, `use_clahe`, "
        "`clahe_clip`, `clahe_tile`, `ensemble`, `logits_kind`, `ensemble_space`, `note`"
    ),
}


@dataclass(frozen=True)
class SoftLabelsRecipe(Recipe):
    """How the teachers label the training rows; see ``SoftLabels`` of the profile."""

    target_entropy: float
    folds: int
    views: int
    preprocess: Preprocess

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "SoftLabelsRecipe":
        """Return the recipe from the profile."""
        return cls(**dict(profile.softlabels), preprocess=profile.preprocess)


def part(job: Job[SoftLabelsRecipe]) -> "Softened":
    """Return the soft labels as part of a packed job."""
    from fer_ml.runs.parts import Softened

    return Softened(job, job.recipe.target_entropy)


def build(run: RunFolder, job: Job[SoftLabelsRecipe]) -> None:
    """Export the fused logits of the training rows, softened to the target entropy."""
    from fer_ml.runs.softlabels import export_softlabels

    export_softlabels(run, job, job.recipe.target_entropy, job.recipe.preprocess)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the export against the manifest and the ensemble that it names."""
    from fer_ml.runs.softlabels import judge_softlabels

    return judge_softlabels(artifact, store)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``softlabels``, the same for every profile."""
    return [
        Stage(
            asset="softlabels",
            group="distillation",
            kinds=("numpy", "json"),
            describe="Training targets of the students: `softlabels.npz` for the training rows, "
            "its index, hashes, entropy by temperature, and the KD temperature derived from it.",
            needs=(Need("teacher_logits", "each"), *needs("ensemble", "hq_train_manifest")),
            recipe=SoftLabelsRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            part=part,
            code_version="3",
        )
    ]
