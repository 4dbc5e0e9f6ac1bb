"""``comparison/<name>``: methods at equal budget and seeds on one evaluation set."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_ml.recipes.profile import Comparison, Profile
from fer_ml.recipes.training import Training
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, none_found, same
from fer_ml.storage.job import Job
from fer_ml.storage.record import Record, asset_label
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "arms_equal_as_declared",
        "by their records, the trainings differ only in seed, task and the declared fields, and "
        "were made from the same bytes",
        "train the experiments again from the profile's recipes",
    ),
    Gate(
        "every_row_scored",
        "n of every training equals the rows of the evaluation set",
        "make it again",
    ),
    Gate("intervals_finite", "no figure or interval is NaN or infinite", "look at the predictions"),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "comparison.json": (
        "what it is of (`evaluation`, `manifest`, `manifest_sha256`, `split`, `rows`, `n`, "
        "`preprocess_sha256`, `views`, `selection_split`, `caption`), `baseline`, `varies`, "
        "`experiments` (hashes, `seed`, `temperature`, metrics), `arms` (`experiments`, `differs`,"
        " by metric `mean`, `spread`, `low`, `high`), `against_baseline` and `steps` (`before`, "
        "`arm`) by metric (`difference`, `low`, `high`, `p_value`, `p_holm`, `verdict`), `tests`, "
        "`level`"
    ),
    "comparison.csv": "a row for each arm and metric",
    "predictions/<experiment>.csv": "[predictions](#predictions)",
    "comparison.png": "means and differences with their intervals",
}


@dataclass(frozen=True)
class ComparisonRecipe(Recipe):
    """A ``Comparison`` of the profile, the order of its arms, its trainings with their seeds."""

    arms: dict[str, tuple[str, ...]]
    baseline: str
    varies: tuple[str, ...]
    evaluation: str
    rows: Literal["official", "deduplicated"]
    seeds: int
    order: tuple[str, ...]
    trainings: dict[str, Training]

    @classmethod
    def of(cls, name: str, profile: Profile, partition: str | None) -> "ComparisonRecipe":
        """Return the recipe from the profile."""
        comparison = profile.comparisons[name]
        trainings = {each: profile.student(each) for each in _trainings(comparison)}
        return cls(
            **dict(comparison),
            order=tuple(comparison.arms),
            trainings={
                each: training
                if training.seed is not None
                else replace(training, seed=profile.seed)
                for each, training in trainings.items()
            },
        )


def _trainings(comparison: Comparison) -> list[str]:
    """Return the trainings of all arms, in the order of the arms."""
    return [name for names in comparison.arms.values() for name in names]


def build(run: RunFolder, job: Job[ComparisonRecipe]) -> None:
    """Predict with every training; compare each arm with the baseline and the previous arm."""
    from fer_ml.evaluation.comparison import compare_arms

    fields = {name: getattr(job.recipe, name) for name in Comparison.model_fields}
    compare_arms(run, job, Comparison(**fields), job.recipe.trainings)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge whether trainings and measurements are as the comparison declares."""
    from fer_ml.evaluation.comparison import METRICS
    from fer_ml.metrics.predictions import read_predictions

    comparison = artifact.read_json("comparison.json")
    inputs = {item.key: item for item in artifact.record.inputs}
    trained = {}
    for name in comparison["experiments"]:
        item = inputs.get(asset_label("student_experiment", name)) or inputs[name]
        made = store.find(item.asset, item.partition, item.sha256, item.recipe_sha256)
        trained[name] = made.record if made else None
    unequal = [*_unequal(comparison, trained), *_other_data(trained)]
    rows = _rows(comparison, inputs[comparison["manifest"]].sha256, store)
    counted = [
        read_predictions(artifact.file(f"predictions/{name}.csv"))[0].height
        for name in comparison["experiments"]
    ]
    figures = [
        value
        for gaps in (*comparison["against_baseline"].values(), *comparison["arms"].values())
        for metric in METRICS
        for value in gaps[metric].values()
        if isinstance(value, float)
    ]
    bad = sum(not math.isfinite(value) for value in figures)
    return [
        none_found("arms_equal_as_declared", unequal),
        same("every_row_scored", sorted({*counted, comparison["n"]}), [rows]),
        at_most("intervals_finite", bad, 0),
    ]


def _other_data(trained: dict[str, Record | None]) -> list[str]:
    """Return trainings made from other bytes of an asset than an earlier training."""
    seen: dict[str, str] = {}
    return [
        f"{name}: made from another {item.key}"
        for name, record in trained.items()
        for item in (record.inputs if record else ())
        if seen.setdefault(item.key, item.sha256) != item.sha256
    ]


def _unequal(comparison: dict[str, Any], records: dict[str, Record | None]) -> list[str]:
    """Return undeclared differences between the trainings' records; seed and task may differ."""
    free = {"seed", "task", *comparison["varies"]}
    faults = [f"{name}: its training is no longer here" for name, r in records.items() if r is None]
    trained = {
        name: record.recipe["training"] if record else {} for name, record in records.items()
    }
    first = next(iter(trained.values()))
    for name, recipe in trained.items():
        keys = (first.keys() | recipe.keys()) - free
        faults += [f"{name}.{key}" for key in sorted(keys) if first.get(key) != recipe.get(key)]
    for arm, about in comparison["arms"].items():
        within = [{**trained[name], "seed": None} for name in about["experiments"]]
        faults += [f"{arm}: its runs differ in more than the seed"] * any(
            recipe != within[0] for recipe in within
        )
        seeds = [comparison["experiments"][name]["seed"] for name in about["experiments"]]
        faults += [f"{arm}: the same seed twice"] * (len(set(seeds)) != len(seeds))
    return faults


def _rows(comparison: dict[str, Any], sha256: str, store: Store) -> int:
    """Count the rows of the evaluation set again."""
    from fer_ml.manifests.curation import manifest_file
    from fer_ml.manifests.schema import read_manifest

    manifest = store.find(comparison["manifest"], None, sha256)
    if manifest is None:
        return -1
    frame = read_manifest(manifest.file(manifest_file(comparison["manifest"])))
    frame = frame.filter(frame["split"] == comparison["split"])
    return frame["twin_in"].null_count() if comparison["rows"] == "deduplicated" else frame.height


def stages(given: Given) -> list[Stage]:
    """Return one stage ``comparison/<name>`` for each comparison of the profile."""
    return [
        Stage(
            asset=f"comparison/{name}",
            group="comparisons",
            kinds=("csv", "json"),
            describe=f"`comparisons.{name}` of the profile: {', '.join(comparison.arms)} over the "
            "same seeds at one budget, on one evaluation set. `comparison.json` compares each "
            "with the baseline and with the arm before it.",
            needs=_needs(given.profile, comparison),
            recipe=partial(ComparisonRecipe.of, name),
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
            on_request=True,
            code_version="2",
        )
        for name, comparison in given.profile.comparisons.items()
    ]


def _needs(profile: Profile, comparison: Comparison) -> tuple[Need, ...]:
    """Return the inputs: the trainings (experiments or students) and the evaluation manifest."""
    names = _trainings(comparison)
    experiments = tuple(name for name in names if name in profile.experiments)
    students = [name for name in names if name not in profile.experiments]
    val = comparison.evaluation == "hq_train_val"
    manifest = "hq_train_manifest" if val else f"{comparison.evaluation}_manifest"
    return (Need("student_experiment", "named", experiments), *needs(*students, manifest))
