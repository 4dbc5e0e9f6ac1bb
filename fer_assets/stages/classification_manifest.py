"""``classification_manifest``: all sources in one manifest, with final splits."""

from dataclasses import dataclass

from fer_assets.stage import Given, Recipe, Stage, needs
from fer_assets.stages._manifests import ManifestLimits, judge
from fer_ml.recipes.profile import Draw, Near, Profile, Split
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.validation.gates import MANIFEST_GATES

#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<name>.csv": "the [manifest](data.md#the-manifest)",
    "<name>.parquet": "the same rows",
    "quarantine.csv": "rows with a twin in a split that takes precedence, as in `manifest`",
    "clean_report.json": (
        "`canonical`, `mode`, `apply`, `out_root`, `reports` (by source: `type` of the adapter, "
        "`dataset`, `source`, `output`, `source_root`, `splits`, `excluded` and `quarantined` by "
        "rule, `missing_images`, `rows_in`, `rows_kept`, `rows_excluded`, `rows_quarantined`, "
        "`notes`), `warnings`, `manifest`"
    ),
    "leakage.json": (
        "`test_twins` by source (`test_rows`, `with_twin`, `share`), `test_twins_by_kind`, "
        "`groups` (`photos`, `groups`, `joined_by_nearness`, `largest_group_rows`, "
        "`largest_group_photos`), `overlaps` (`a`, `b`, `samples`, `same_label`, "
        "`share_of_smaller`)"
    ),
    "classes.png": "rows by class and source",
}


@dataclass(frozen=True)
class UnifiedRecipe(Recipe):
    """The sources in ``order``, their publishers' splits, and how other rows are split.

    ``near`` defines when two faces are copies of one photo.
    """

    sources: dict[str, dict[str, Split]]
    order: tuple[str, ...]
    near: Near
    draw: Draw
    seed: int

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "UnifiedRecipe":
        """Return the recipe from the profile."""
        sources = {source.name: source.splits for source in profile.sources}
        return cls(sources, tuple(sources), profile.near_rule, profile.draw, profile.seed)


def build(run: RunFolder, job: Job[UnifiedRecipe]) -> None:
    """Concatenate the sources, group near-identical faces, and split by group."""
    from fer_ml.manifests.unify import unify

    recipe = job.recipe
    unify(run, job, recipe.sources, recipe.near, recipe.draw, recipe.seed)


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``classification_manifest``; its inputs are all source manifests."""
    return [
        Stage(
            asset="classification_manifest",
            group="manifests",
            kinds=("csv", "polars"),
            describe="All sources in one manifest with final splits, drawn and checked by group; "
            "rows with a twin in a split that takes precedence are quarantined. "
            "`leakage.json` says how many test rows had a twin in training.",
            needs=needs(*(f"manifest/{source.name}" for source in given.profile.sources)),
            recipe=UnifiedRecipe.of,
            holds=HOLDS,
            build=build,
            gates=MANIFEST_GATES,
            judge=judge,
            limits=ManifestLimits.of,
            code_version="6",
        )
    ]
