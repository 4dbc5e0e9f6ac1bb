"""``student_experiment``: further trainings of the profile; an ablation is a backfill."""

from fer_assets.stage import TRAINING, Given, Need, Stage
from fer_assets.stages._training import (
    RUN_FILES,
    RUN_GATES,
    TrainingLimits,
    TrainingRecipe,
    build,
    first_weights_of,
    judge,
    part,
)
from fer_ml.recipes.profile import Profile


def recipe(profile: Profile, partition: str | None) -> TrainingRecipe:
    """Return ``experiments.<partition>`` of the profile."""
    return TrainingRecipe.of(profile, "experiments", partition)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``student_experiment``; each experiment of the profile is a partition."""
    return [
        Stage(
            asset="student_experiment",
            group="experiments",
            kinds=("pytorch",),
            describe="Further trainings, one in each partition: a recipe of the profile's "
            "`experiments`, from its own initial weights. An ablation is a backfill.",
            needs=(Need("hq_train_manifest"), Need("softlabels", "distilled")),
            partitions="experiments",
            recipe=recipe,
            files=first_weights_of(recipe),
            holds=RUN_FILES,
            build=build,
            gates=RUN_GATES,
            judge=judge,
            limits=TrainingLimits.of,
            part=part,
            pool=TRAINING,
            on_request=True,
        )
    ]
