"""``ensemble``: the fused teachers, with weights chosen on calib only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.runs.parts import Fused

GATES = (
    Gate("weights_sum_to_one", "the weights are in 0..1 and sum to 1", "make it again"),
    Gate(
        "chosen_on_calib",
        "weights and temperature were chosen on calib only",
        "never choose on test",
    ),
    Gate("class_order", "the columns are in the canonical order", "make it again"),
    Gate(
        "not_below_best_member",
        "calib NLL is at most that of the best member",
        "look at search.csv: one of the members may be broken",
        blocking=False,
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "logits.npy": "fused logits, in the format of `teacher_logits`",
    "rows.npz": "in the format of `teacher_logits`",
    "ensemble.json": (
        "`classes`, `fusion`, `weights` by teacher, `weight_sum`, `weights_from` (recipe, name, "
        "grid or convex fit), `weight_intervals` (95% over groups of calib), `chosen_on` (`split`,"
        " `n`, `nll`), `temperature`, `members` (input, `temperature`, `calib_nll`), "
        "`preprocess_sha256`, `manifests`"
    ),
    "search.csv": "a weight for each teacher, `calib_nll`, `temperature`; best first",
    "search.png": "Only with three teachers and a search: the triangle of their weights",
    "ensemble_metrics.json": "`split` (val) and its metrics, scaled",
}


@dataclass(frozen=True)
class EnsembleRecipe(Recipe):
    """The teachers and how they are fused; see ``Ensemble`` of the profile."""

    fusion: Literal["logits", "probabilities", "calibrated"]
    weights: tuple[float, ...] | Literal["interim_report"] | None
    step: float
    teachers: tuple[str, ...]

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "EnsembleRecipe":
        """Return the recipe from the profile."""
        return cls(**dict(profile.ensemble), teachers=tuple(profile.teachers))


def build(run: RunFolder, job: Job[EnsembleRecipe]) -> None:
    """Choose the weights on calib, fuse the logits of every face, measure on val."""
    from fer_ml.runs.ensemble import fuse_teachers

    recipe = job.recipe
    fuse_teachers(run, job, recipe.teachers, recipe.fusion, recipe.weights, recipe.step)


def part(job: Job[EnsembleRecipe]) -> "Fused":
    """Return the fusion as part of a packed job."""
    from fer_ml.runs.parts import Fused

    recipe = job.recipe
    return Fused(job, recipe.teachers, recipe.fusion, recipe.weights, recipe.step)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the fusion by its own records."""
    document = artifact.read_json("ensemble.json")
    weights = list(document["weights"].values())
    best = min(member["calib_nll"] for member in document["members"].values())
    total = sum(weights)
    return [
        Outcome(
            "weights_sum_to_one",
            abs(total - 1) < 1e-9 and min(weights) >= 0,
            total,
            1.0,
            str(document["weights"]),
        ),
        same(
            "chosen_on_calib",
            sorted({document["chosen_on"]["split"], *artifact.record.splits.values()}),
            ["calib"],
        ),
        same("class_order", document["classes"], list(CLASSES)),
        Outcome(
            "not_below_best_member",
            document["chosen_on"]["nll"] <= best + 1e-6,
            document["chosen_on"]["nll"],
            best,
            "NLL in nats on calib",
        ),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``ensemble``, the same for every profile."""
    return [
        Stage(
            asset="ensemble",
            group="distillation",
            kinds=("numpy",),
            describe="The fused teachers: weights searched on calib (`search.csv`), one "
            "temperature, and the fused logits of every face.",
            needs=(Need("teacher_logits", "each"), *needs("hq_train_manifest")),
            recipe=EnsembleRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            part=part,
            code_version="3",
        )
    ]
