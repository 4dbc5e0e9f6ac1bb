"""Curated manifests: rows of the unified manifest that a recipe selects; one stage for each."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from fer_assets.stage import Given, Recipe, Stage, needs
from fer_assets.stages._manifests import ManifestLimits, judge
from fer_ml.recipes.profile import Curation, Profile, Split
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from fer_ml.validation.gates import manifest_gates

DESCRIBED = {
    "hq_train": "The rows that teachers and students train, select and calibrate "
    "on (`classification_manifest_hq_train.csv`), with splits as data.",
    "eval_only": "Test rows of sources that are set apart for evaluation: "
    "`classification_manifest_eval_only.csv`.",
    "test_all_sources": "The mixed-source benchmark: test rows of every source, "
    "`test_all_sources.csv`. Only reported, never selected on.",
}


#: A network trained on a smaller share of faces with colour has in effect learned grey faces.
LEAST_COLOUR = 0.05
COLOUR = Gate(
    "colour_as_prepared",
    f"at least {LEAST_COLOUR:.0%} of the training faces have colour, or the preprocessing is grey",
    'set preprocess.colour = "grey": a model that learned grey must be given grey',
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<name>.csv": "the [manifest](data.md#the-manifest)",
    "<name>.parquet": "the same rows",
    "colours.json": (
        "Only of `hq_train_manifest`: `by_source` with `rows`, `looked_at`, `grey` of its training"
        " faces"
    ),
    "curation.json": "`recipe`, `from` (manifest and hash), `rows_in`, `rows`, `by_source_split`",
    "classes.png": "rows by class and source",
}


@dataclass(frozen=True)
class TrainedOnLimits(ManifestLimits):
    """The limits of every manifest, and ``preprocess.colour`` of the profile."""

    colour: Literal["grey", "rgb"]

    @classmethod
    def of(cls, profile: Profile) -> "TrainedOnLimits":
        """Return the limits from the profile."""
        return cls(profile.near_rule, profile.preprocess.colour)


@dataclass(frozen=True)
class CuratedRecipe(Recipe):
    """Which rows are selected; see ``Curation`` of the profile."""

    sources: tuple[str, ...]
    splits: tuple[Split, ...]
    labels: tuple[str, ...]
    min_confidence: dict[str, float]
    min_side: int
    one_per: Literal["row", "sample", "group"]
    drop_twins: bool
    agree_with: tuple[str, ...]
    votes_added: dict[str, float]

    @classmethod
    def of(cls, name: str, profile: Profile, partition: str | None) -> "CuratedRecipe":
        """Return the curation ``name`` of the profile."""
        return cls(**dict(profile.curated[name]))

    def recorded(self) -> dict[str, Any]:
        """Return the recipe; later fields only if used, so that earlier records stay equal."""
        later = ("agree_with", "votes_added")
        return {k: v for k, v in super().recorded().items() if v or k not in later}


def build(run: RunFolder, job: Job[CuratedRecipe]) -> None:
    """Write one curated manifest, and its origin as ``curation.json``."""
    from fer_ml.manifests.curation import take

    take(run, job, Curation(**asdict(job.recipe)))


def judge_trained_on(artifact: Artifact, store: Store, limits: TrainedOnLimits) -> list[Outcome]:
    """Return the outcomes of all manifest gates, and of ``colour_as_prepared``.

    That gate judges whether enough training faces of the manifest have colour for the profile's
    ``preprocess.colour``.
    """
    from fer_ml.manifests.curation import COLOURS_FILE

    by_source = artifact.read_json(COLOURS_FILE)["by_source"]
    coloured = sum(
        counts["rows"] * (counts["looked_at"] - counts["grey"]) / counts["looked_at"]
        for counts in by_source.values()
    )
    share = coloured / sum(counts["rows"] for counts in by_source.values())
    summary = "; ".join(
        f"{source}: {counts['grey']} of {counts['looked_at']} grey"
        for source, counts in by_source.items()
    )
    passed = limits.colour == "grey" or share >= LEAST_COLOUR
    wanted = "-" if limits.colour == "grey" else LEAST_COLOUR
    detail = f"share with colour; prepared as {limits.colour}; {summary}"
    return [
        *judge(artifact, store, limits),
        Outcome(COLOUR.rule, passed, share, wanted, detail),
    ]


def _stage(name: str) -> Stage:
    trained_on = name == "hq_train"
    return Stage(
        asset=f"{name}_manifest",
        group="manifests",
        kinds=("csv", "polars"),
        describe=DESCRIBED.get(name, f"Curated by the recipe `curations.{name}` of the profile."),
        needs=needs("classification_manifest"),
        recipe=partial(CuratedRecipe.of, name),
        holds=HOLDS,
        build=build,
        gates=(*manifest_gates(f"{name}_manifest"), *(COLOUR,) * trained_on),
        judge=judge_trained_on if trained_on else judge,
        limits=TrainedOnLimits.of if trained_on else ManifestLimits.of,
        code_version="5" if trained_on else "4",
    )


def stages(given: Given) -> list[Stage]:
    """Return the three curated manifests of every profile, and the profile's own ``curations``."""
    return [_stage(name) for name in given.profile.curated]
