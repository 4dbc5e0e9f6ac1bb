"""``teacher_fold``: teachers trained without one fold of the training rows, which they label."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_assets.stage import TRAINING, Given, Stage, needs
from fer_assets.stages._training import (
    RUN_FILES,
    RUN_GATES,
    TrainingLimits,
    TrainingRecipe,
    first_weights_of,
    judge,
)
from fer_ml.base.errors import FerError
from fer_ml.recipes.profile import Profile
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

if TYPE_CHECKING:
    from fer_ml.runs.parts import Trained


@dataclass(frozen=True)
class FoldRecipe(TrainingRecipe):
    """The teacher's recipe; training rows form ``folds`` folds by group, one is left out."""

    without_fold: int
    folds: int


def recipe(profile: Profile, partition: str | None) -> FoldRecipe:
    """Return the recipe of a partition: ``RN18_1`` is ``teachers.RN18`` without the first fold."""
    if str(partition) not in profile.folds:
        raise FerError(
            f"profile {profile.name} has no fold {partition}",
            code="not-in-profile",
            allowed=", ".join(profile.folds),
        )
    teacher, fold = profile.folds[str(partition)]
    whole = TrainingRecipe.of(profile, "teachers", teacher)
    folds = profile.softlabels.folds
    return FoldRecipe(whole.training, whole.preprocess, whole.seed, fold, folds)


def part(job: Job[FoldRecipe]) -> "Trained":
    """Return the training as part of a packed job."""
    from fer_ml.runs.parts import Trained

    fold_recipe = job.recipe
    return Trained(
        job,
        fold_recipe.training,
        fold_recipe.preprocess,
        fold_recipe.seed,
        fold=fold_recipe.without_fold,
        folds=fold_recipe.folds,
    )


def build(run: RunFolder, job: Job[FoldRecipe]) -> None:
    """Train on the other folds."""
    from fer_ml.runs.trainings import train

    train(run, part(job))


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``teacher_fold``, or an empty list if the profile has no folds."""
    return [
        Stage(
            asset="teacher_fold",
            group="folds",
            kinds=("pytorch", "timm"),
            describe="A teacher trained without one fold of the training rows, which it labels: "
            "`RN18_1` is RN18 without the first fold.",
            needs=needs("hq_train_manifest"),
            partitions="folds",
            recipe=recipe,
            files=first_weights_of(recipe),
            holds=RUN_FILES,
            build=build,
            gates=RUN_GATES,
            judge=judge,
            limits=TrainingLimits.of,
            part=part,
            pool=TRAINING,
        )
    ] * bool(given.profile.folds)
