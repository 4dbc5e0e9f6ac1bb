"""``student_ce``, ``student_kd``, ``student_dkd``: MobileNetV3-Large, trained in this order."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fer_assets.stage import TRAINING, Given, Stage, needs
from fer_assets.stages._training import (
    NOT_BELOW_PREVIOUS,
    RUN_FILES,
    RUN_GATES,
    TrainingLimits,
    TrainingRecipe,
    first_weights_of,
    judge,
)
from fer_ml.recipes.profile import STUDENTS, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.runs.parts import Trained


def recipe_of(name: str) -> Callable[[Profile, str | None], TrainingRecipe]:
    """Return the function that reads ``students.<name>`` of a profile."""
    return lambda profile, partition: TrainingRecipe.of(profile, "students", name)


def part(job: Job[TrainingRecipe], previous: str | None) -> "Trained":
    """Return the training as part of a packed job; ``previous`` is the student before."""
    from fer_ml.runs.parts import Trained

    recipe = job.recipe
    return Trained(job, recipe.training, recipe.preprocess, recipe.seed, previous=previous)


def build(run: RunFolder, job: Job[TrainingRecipe], previous: str | None) -> None:
    """Train, and record the metrics of the student ``previous`` on the same rows as a baseline."""
    from fer_ml.runs.trainings import train

    train(run, part(job, previous))


def judge_next(artifact: Artifact, store: Store, limits: TrainingLimits) -> list[Outcome]:
    """Judge a later student: its run directory, and whether it scores below the one before."""
    from fer_ml.runs.gates import judge_against_previous, unjudged

    outcomes = judge(artifact, store, limits)
    whole = outcomes[0].passed
    last = judge_against_previous(artifact) if whole else unjudged(NOT_BELOW_PREVIOUS.rule)
    return [*outcomes, last]


def stages(given: Given) -> list[Stage]:
    """Return the stages of the students: CE without a teacher, then KD and DKD.

    KD and DKD are each compared with the student before.
    """
    students = []
    before = [None, *(f"student_{name}" for name in STUDENTS)]
    for name, previous in zip(STUDENTS, before, strict=False):
        taught = () if previous is None else ("softlabels", previous)
        students.append(
            Stage(
                asset=f"student_{name}",
                group="students",
                kinds=("pytorch",),
                describe=f"MobileNetV3-Large trained by {name.upper()}: `best.pt` (weights by val "
                "macro-F1), metrics of exactly those bytes, and its temperature fitted on calib.",
                needs=needs("hq_train_manifest", *taught),
                recipe=recipe_of(name),
                files=first_weights_of(recipe_of(name)),
                holds=RUN_FILES,
                build=partial(build, previous=previous),
                gates=RUN_GATES if previous is None else (*RUN_GATES, NOT_BELOW_PREVIOUS),
                judge=judge if previous is None else judge_next,
                limits=TrainingLimits.of,
                part=partial(part, previous=previous),
                code_version="2",
                pool=TRAINING,
            )
        )
    return students
