"""Curated manifests: the rows of the unified one that a recipe takes. One stage for each."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from fer_assets.stage import Given, Recipe, Stage, needs
from fer_assets.stages._manifests import ManifestLimits, judge
from fer_ml.recipes.profile import Curation, Profile, Split
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.validation.gates import manifest_gates

DESCRIBED = {
    "hq_train": "The rows that teachers and students train, select and calibrate "
    "on (`classification_manifest_hq_train.csv`), with splits as data.",
    "eval_only": "Test rows of sources that are set apart for evaluation: "
    "`classification_manifest_eval_only.csv`.",
    "test_all_sources": "The mixed-source benchmark: test rows of every source, "
    "`test_all_sources.csv`. Only reported, never selected on.",
}


@dataclass(frozen=True)
class CuratedRecipe(Recipe):
    """Which rows are taken: see ``Curation`` of the profile."""

    sources: tuple[str, ...]
    splits: tuple[Split, ...]
    labels: tuple[str, ...]
    min_confidence: dict[str, float]
    min_side: int
    one_per: Literal["row", "sample", "group"]
    drop_twins: bool

    @classmethod
    def of(cls, name: str, profile: Profile, partition: str | None) -> "CuratedRecipe":
        """The profile's curation ``name``."""
        return cls(**dict(profile.curated[name]))


def build(run: RunFolder, job: Job[CuratedRecipe]) -> None:
    """One curated manifest, with what it came from in ``curation.json``."""
    from fer_ml.manifests.curation import take

    take(run, job, Curation(**asdict(job.recipe)))


def stages(given: Given) -> list[Stage]:
    """The three of every profile, and its own ``curations``."""
    return [
        Stage(
            asset=f"{name}_manifest",
            group="manifests",
            kinds=("csv", "polars"),
            describe=DESCRIBED.get(
                name, f"Curated by the recipe `curations.{name}` of the profile."
            ),
            needs=needs("classification_manifest"),
            recipe=partial(CuratedRecipe.of, name),
            build=build,
            gates=manifest_gates(f"{name}_manifest"),
            judge=judge,
            limits=ManifestLimits.of,
            code_version="3",
        )
        for name in given.profile.curated
    ]
