"""``teacher[RN18, B3, CNXT]``: the networks that the students learn from."""

from fer_assets.stage import TRAINING, Given, Stage, needs
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
    """Return ``teachers.<partition>`` of the profile."""
    return TrainingRecipe.of(profile, "teachers", partition)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``teacher``, with a partition for each teacher of the profile."""
    return [
        Stage(
            asset="teacher",
            group="teachers",
            kinds=("pytorch", "timm"),
            describe="One teacher in each partition (RN18, B3, CNXT), trained with ArcFace: "
            "`best.pt` by val macro-F1, `history.json`, metrics and temperature of those bytes.",
            needs=needs("hq_train_manifest"),
            partitions="teachers",
            recipe=recipe,
            files=first_weights_of(recipe),
            holds=RUN_FILES,
            build=build,
            gates=RUN_GATES,
            judge=judge,
            limits=TrainingLimits.of,
            part=part,
            code_version="2",
            pool=TRAINING,
        )
    ]
