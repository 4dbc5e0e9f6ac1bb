"""``teacher_logits``: the logits of one teacher for every face that later stages need."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_assets.stage import TRAINING, Given, Limits, Need, Recipe, Stage, needs
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import Profile
from fer_ml.recipes.training import Views
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.runs.parts import Labelled

GATES = (
    Gate(
        "answered_by_inputs",
        "the logits come from the teacher and, for training rows, from the networks of its folds",
        "materialize teacher_logits again",
    ),
    Gate(
        "covers_manifests",
        "one row for each distinct face of hq_train_manifest, and of the other manifests' rows "
        "outside train",
        "make it again",
    ),
    Gate("class_order", "the columns are in the canonical order", "make it again"),
    Gate("finite", "no logit is NaN or infinite", "look at the teacher's weights"),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "logits.npy": (
        "float16 [N, 7], the centre of each face; training rows first, each by the network that "
        "left its fold out"
    ),
    "views.npy": (
        "Only with `softlabels.views`: float16 [T, V, 7], the augmented views of the training rows"
    ),
    "in_sample.npy": (
        "Only with `softlabels.folds`: float16 [T, 7], the training rows by the teacher itself"
    ),
    "rows.npz": "`sample_id` S32 [N], `fold` int8 [N] (-1: the teacher itself)",
    "logits.json": (
        "`classes`, `rows`, `train_rows`, `teacher` (input), `checkpoint_sha256`, `temperature`, "
        "`folds` (`checkpoint_sha256`, `temperature`), `out_of_fold`, `views` (`count`, `seed`, "
        "`augment`, `strength`, `erase`), `preprocess_sha256`, `manifests` (asset to hash)"
    ),
}


@dataclass(frozen=True)
class LogitsRecipe(Recipe):
    """The labelled views of each training face, and the networks that label them.

    The training rows form ``folds`` folds by group. Each fold is labelled by the teacher trained
    without it; ``by_folds`` are these partitions of ``teacher_fold``. With 0 folds the teacher
    itself labels.
    """

    views: Views | None
    preprocess: Preprocess
    folds: int
    by_folds: tuple[str, ...]

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "LogitsRecipe":
        """Return the recipe from the profile."""
        fold_names = [name for name, (teacher, _) in profile.folds.items() if teacher == partition]
        return cls(profile.views, profile.preprocess, profile.softlabels.folds, tuple(fold_names))


def part(job: Job[LogitsRecipe]) -> "Labelled":
    """Return the labelling as part of a packed job."""
    from fer_ml.runs.parts import Labelled

    recipe = job.recipe
    return Labelled(job, recipe.preprocess, recipe.views, recipe.folds, recipe.by_folds)


def build(run: RunFolder, job: Job[LogitsRecipe]) -> None:
    """Label every face in one pass."""
    from fer_ml.runs.logits import label_all

    label_all(run, job, job.recipe.preprocess, job.recipe.views, job.recipe.folds)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge one teacher's logits against its checkpoints and the manifests."""
    from fer_ml.runs.logits import judge_logits

    return judge_logits(artifact, store)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``teacher_logits``, with a partition for each teacher of the profile."""
    folds = (Need("teacher_fold", "folds"),) if given.profile.folds else ()
    tested = (f"{name}_manifest" for name in given.profile.tested)
    return [
        Stage(
            asset="teacher_logits",
            group="teachers",
            kinds=("numpy",),
            describe="The logits of one teacher for every distinct face that later stages need: "
            "`logits.npy`, float16, and `rows.npz` with their sample ids.",
            needs=(Need("teacher", "same"), *folds, *needs("hq_train_manifest", *tested)),
            partitions="teachers",
            recipe=LogitsRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            part=part,
            code_version="2",
            pool=TRAINING,
        )
    ]
