"""``robustness``: every model on corrupted copies of test faces, by kind and strength."""

from dataclasses import dataclass

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_ml.base.reading import as_text
from fer_ml.recipes.profile import CANDIDATES, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, none_found
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

#: The share of clean faces that may get another label than in the benchmark, by rounding.
OTHER_LABELS = 0.02

GATES = (
    Gate(
        "every_set_scored",
        "each model has one prediction for each face and set, of the faces that the recipe draws",
        "rows were lost: materialize it again",
    ),
    Gate(
        "clean_as_benchmark",
        "the share of uncorrupted faces to which a model gives another label than in the benchmark",
        "the corrupted faces are not prepared as the benchmark's are: report it",
    ),
)

#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "robustness.json": (
        "`set`, `manifest`, `manifest_sha256`, `split`, `rows`, `n` (at `most`, of `drawn_from` "
        "faces), `seed`, `looked_before`; `entries` by model: `kinds` (`clean`, each kind over its "
        "strengths, `all` kinds alike) with `accuracy`, `macro_f1`, `lost` (accuracy below clean), "
        "their intervals, means of `ece`, `ece_scaled`, `ece_by_chance` (`_high`: 95%), in "
        "how many of how many sets the `temperature_holds`, of a student what its card's rule "
        "`answered` and how much of it is `wrong`, and the same by `strengths`; `accuracy` and "
        "`macro_f1` by kind and model"
    ),
    "robustness.csv": "a row for each model, kind and strength; no strength: over all of a kind",
    "robustness.png": "accuracy by strength, a panel for each kind",
    "predictions/<model>.csv": "[predictions](#predictions), with the set in place of `source`",
}


@dataclass(frozen=True)
class RobustnessRecipe(Recipe):
    """How many faces a set has at most, and the seed of what is drawn."""

    faces: int
    seed: int

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "RobustnessRecipe":
        """Return the recipe from the profile."""
        return cls(profile.robustness_faces, profile.seed)


def build(run: RunFolder, job: Job[RobustnessRecipe]) -> None:
    """Write every model's predictions and figures on each corruption set."""
    from fer_ml.evaluation.robustness import measure_robustness

    measure_robustness(run, job, job.recipe.faces, job.recipe.seed)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the sets: no row is lost, and clean faces are seen as the benchmark saw them."""
    import polars as pl

    from fer_ml.evaluation.robustness import CLEAN, EVERY

    document = artifact.read_json("robustness.json")
    item = next(item for item in artifact.record.inputs if item.asset == "benchmark")
    benchmark = store.find("benchmark", None, item.sha256)
    if benchmark is None:
        return [Outcome(gate.rule, False, "no benchmark", item.sha256, "", ()) for gate in GATES]
    measured = benchmark.read_json("benchmark.json")["entries"]
    lost, others = [], {}
    for name, entry in document["entries"].items():
        cell = measured[name][document["set"]]
        wanted = min(document["most"], cell["n"])
        rows = pl.read_csv(as_text(artifact.file(f"predictions/{name}.csv")), glob=False)
        sizes = rows.group_by("source").len()["len"].to_list()
        if not (sizes == [wanted] * len(EVERY) and document["n"] == wanted):
            lost.append(f"{name}: {rows.height} rows of {wanted} x {len(EVERY)}")
        path = benchmark.file(f"predictions/{name}__{document['set']}.csv")
        clean = rows.filter(pl.col("source") == CLEAN)
        both = clean.join(pl.read_csv(as_text(path), glob=False), "sample_id", suffix="_before")
        same = float((both["y_pred"] == both["y_pred_before"]).sum())
        of_this = entry["checkpoint_sha256"] == cell["checkpoint_sha256"]
        others[name] = 1 - same / max(1, clean.height) if of_this else 1.0
    worst = max(others, key=lambda name: others[name])
    return [
        none_found("every_set_scored", lost),
        at_most("clean_as_benchmark", others[worst], OTHER_LABELS, worst),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``robustness``; its models are those of the benchmark."""
    return [
        Stage(
            asset="robustness",
            group="evaluation",
            kinds=("csv", "json"),
            describe="Every model on corrupted copies of test faces (size, blur, light, noise, "
            "JPEG, crops, shift, turn, mirror, cover) at five strengths: accuracy, macro-F1 and "
            "ECE by kind and strength beside the clean faces, and whether calib's temperature "
            "holds there.",
            needs=(
                Need("teacher_logits", "each"),
                Need("external_model", "each"),
                Need("adopted_model", "each"),
                *needs("ensemble", *CANDIDATES, "candidate_bundles", "benchmark"),
                *needs("test_all_sources_manifest"),
            ),
            recipe=RobustnessRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
        )
    ]
