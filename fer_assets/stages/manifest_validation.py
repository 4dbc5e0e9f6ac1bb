"""``manifest_validation``: a report on each manifest, and a table of every finding."""

from dataclasses import dataclass

from fer_assets.stage import DECODING, Given, Limits, Recipe, Stage, needs
from fer_ml.recipes.profile import Near, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, none_found
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate("all_passed", "every manifest's report passed", "look at the report that failed"),
    Gate(
        "of_current_manifests",
        "each report is about the current manifest",
        "materialize manifest_validation again",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "manifest_validation_<name>.json": (
        "a report: `manifest`, `out_root`, `rows_total`, `rows_valid` (without a fault of their "
        "own), `bad_labels`, `missing_paths`, `decode` (`attempted`, `ok`, `fail`), `counts`, "
        "`test_twins` by source (`test_rows`, `with_twin`), `canonical`, `rules` (`passed`, "
        "`blocking`, `value`, `limit`, `detail`, `examples`), `passed`, `manifest_sha256`"
    ),
    "findings.csv": (
        "every finding: `manifest`, `rule`, `line` (the header is 1), `image_path`, `detail`"
    ),
    "classes.png": "heatmap of classes by source",
    "faces.png": "contact sheet of each class and source",
    "findings.png": "Only with findings: examples of each",
    "timing.json": (
        "`validated_at`; `checked` by manifest: rows `decoded` now, rows `unchanged` since when"
    ),
}


@dataclass(frozen=True)
class ValidationRecipe(Recipe):
    """The profile's name, with which reports name the image folder; and when faces are copies."""

    profile: str
    near: Near

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "ValidationRecipe":
        """Return the recipe from the profile."""
        return cls(profile.name, profile.near_rule)


def build(run: RunFolder, job: Job[ValidationRecipe]) -> None:
    """Check every row and every image of every manifest."""
    from fer_ml.validation.manifests import validate_manifests

    recipe, manifests = job.recipe, list(job.inputs.values())
    validate_manifests(run, job.store, manifests, f"FER_HOME/{recipe.profile}", recipe.near)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge whether all reports passed, and whether each is about the current manifest."""
    from fer_ml.validation.manifests import report_name

    failed, old = [], []
    for asset in (item.asset for item in artifact.record.inputs):
        report = artifact.read_json(report_name(asset))
        current = store.current(asset)
        if not report["passed"]:
            failed.append(report_name(asset))
        if current is None or report["manifest_sha256"] != current.sha256:
            old.append(report_name(asset))
    return [
        none_found("all_passed", failed),
        none_found("of_current_manifests", old),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``manifest_validation``: a report on each manifest of the profile."""
    curated = (f"{name}_manifest" for name in given.profile.curated)
    return [
        Stage(
            asset="manifest_validation",
            group="manifests",
            kinds=("json",),
            describe="One report for each manifest, after checking every row and every image: "
            "`manifest_validation_*.json`, with the first pipeline's keys; every finding in "
            "`findings.csv`, with pictures.",
            needs=needs("classification_manifest", *curated),
            recipe=ValidationRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="4",
            pool=DECODING,
            fresh_hours=26,
        )
    ]
