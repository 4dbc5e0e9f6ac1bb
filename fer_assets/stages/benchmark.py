"""``benchmark``: every model on every evaluation set; each number states its set and split."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_ml.base.reading import as_text
from fer_ml.recipes.profile import CANDIDATES, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, none_found
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    import polars as pl

    from fer_ml.metrics.chance import Chance

GATES = (
    Gate(
        "every_row_scored",
        "n and the number of predictions of each entry equal the rows of its evaluation set",
        "rows were lost: materialize the benchmark again",
    ),
    Gate(
        "calibrated_on_calib",
        "every temperature was fitted on calib and states the hash of its checkpoint",
        "materialize the benchmark again",
    ),
    Gate(
        "no_choice_on_test", "no choice about any model used a test split", "never choose on test"
    ),
    Gate(
        "students_above_floor",
        "every student's macro-F1 on test_all_sources is at least the profile's floor, and above "
        "that of 95 of 100 guessers on the same faces; a floor of 0 asks nothing",
        "train for more epochs, or check the training data",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "benchmark.json": (
        "`entries` by model and set: what it is of (hashes, `split`, `rows` official or "
        "deduplicated, `n`, `groups`, `views`), what chose the model (`chosen_on` by choice, "
        "`selection_split`, `chosen_here` by these rows), `epochs` with those of what it goes on "
        "from, `architecture`, metrics as `raw`, `temperature_scaled` and `vector_scaled` with "
        "`intervals`, `ece_by_chance` (the ECE if every confidence were true), `by_source` and "
        "`by` (source, brightness, size, age, sex, ethnicity) with `gaps`, `looked_before`. "
        "`tables` by set: comparable tables (`names`, `why_apart`); `same_rows`: deduplicated sets "
        "that lack no row; `sets_without_rows`"
    ),
    "benchmark.csv": (
        "a row for each cell, figures with `_low` and `_high`; `_scaled` by temperature, `_vector`"
        " by vector scaling"
    ),
    "slices.csv": (
        "`model`, `set`, `selection_split`, `by` (class, source, brightness, size, age, sex, "
        "ethnicity), `value`, `n`, `metric`, `figure`, `low`, `high`"
    ),
    "pairs.csv": (
        "each two models of a table, and an external model with each model that only prepares "
        "faces in another way (`same_preprocess` false): `difference` (a - b), `low`, `high`, "
        "`p_value`, `p_holm`, and McNemar's test"
    ),
    "ledger.json": (
        "`models`: `checkpoint_sha256`, and `chosen`: `split`, `manifest`, `manifest_sha256`, "
        "`recorded_in` of each choice"
    ),
    "calibration/<model>.json": (
        "`mode`, `global_temperature`, with vector scaling `weights` and `bias`, `fitted_on`, `n`,"
        " `nll` on calib, `checkpoint_sha256`, `manifest_sha256`"
    ),
    "predictions/<model>__<set>.csv": "[predictions](#predictions)",
    "matrix.png": "figures by model and set",
    "reliability.png": "reliability diagrams",
    "risk_coverage.png": "risk by coverage",
    "by_source.png": "figures by source",
    "by_brightness.png": "figures by brightness",
    "by_size.png": "figures by the face's size",
}


@dataclass(frozen=True)
class BenchmarkRecipe(Recipe):
    """What is measured besides each model's temperature; the inputs determine models and sets."""

    calibration: Literal["temperature", "vector"]

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "BenchmarkRecipe":
        """Return the recipe from the profile."""
        return cls(profile.calibration)


@dataclass(frozen=True)
class BenchmarkLimits(Limits):
    """The least macro-F1 of a student, 0..1; 0 requires nothing."""

    floor_macro_f1: float

    @classmethod
    def of(cls, profile: Profile) -> "BenchmarkLimits":
        """Return the limits from the profile."""
        return cls(profile.floor_macro_f1)


def build(run: RunFolder, job: Job[BenchmarkRecipe]) -> None:
    """Write predictions of every model on every set, one metrics matrix, and paired comparisons."""
    from fer_ml.evaluation.benchmark import measure_models

    measure_models(run, job, job.recipe.calibration)


def judge(artifact: Artifact, store: Store, limits: BenchmarkLimits) -> list[Outcome]:
    """Judge the benchmark: all rows scored, no choice on a test split, students above the floor."""
    from fer_ml.evaluation.sets import MAIN_SET
    from fer_ml.runs.gates import above_floor

    entries = artifact.read_json("benchmark.json")["entries"]
    cells = [(model, name, cell) for model, row in entries.items() for name, cell in row.items()]
    frames = _manifests(artifact, store)
    counts = [_rows(frames[c["manifest"]], c["split"], c["rows"]) for _, _, c in cells]
    scored = [_scored(artifact, model, name) for model, name, _ in cells]
    lost = [
        f"{model} on {name}: n {cell['n']}, {rows} predictions, of {count}"
        for (model, name, cell), rows, count in zip(cells, scored, counts, strict=True)
        if not cell["n"] == rows == count
    ]
    chosen = [
        f"{model}: {what}"
        for model, _, cell in cells
        for what, split in cell["chosen_on"].items()
        if split == "test"
    ]
    scalings = {model: artifact.read_json(f"calibration/{model}.json") for model in entries}
    unbound = [
        model
        for model, scaling in scalings.items()
        if scaling["fitted_on"] != "calib"
        or {scaling["checkpoint_sha256"]}
        != {cell["checkpoint_sha256"] for cell in entries[model].values()}
    ]
    worst = min(entries[student][MAIN_SET]["raw"]["macro_f1"] for student in CANDIDATES)
    return [
        none_found("every_row_scored", lost),
        none_found("calibrated_on_calib", unbound),
        none_found("no_choice_on_test", chosen),
        above_floor("students_above_floor", worst, limits.floor_macro_f1, _chance(frames)),
    ]


def _chance(frames: "dict[str, pl.DataFrame]") -> "Chance | None":
    """Return the score that a guesser reaches on the main set."""
    from fer_ml.evaluation.sets import MAIN_SET
    from fer_ml.metrics.chance import guesser_scores
    from fer_ml.runs.logits import labels_of

    frame = frames.get(f"{MAIN_SET}_manifest")
    if frame is None:
        return None
    part = frame.filter(frame["split"] == "test")
    return guesser_scores(labels_of(part), part["group_id"].to_numpy())


def _manifests(artifact: Artifact, store: Store) -> "dict[str, pl.DataFrame]":
    """Return the manifests that an artifact was made from, by asset."""
    from fer_ml.manifests.curation import manifest_file
    from fer_ml.manifests.schema import read_manifest

    frames = {}
    for item in artifact.record.inputs:
        if item.asset.endswith("_manifest"):
            manifest = store.find(item.asset, None, item.sha256)
            if manifest is not None:
                frames[item.asset] = read_manifest(manifest.file(manifest_file(item.asset)))
    return frames


def _scored(artifact: Artifact, model: str, name: str) -> int:
    """Return the number of rows in a model's predictions on a set."""
    import polars as pl

    file = artifact.file(f"predictions/{model}__{name}.csv")
    return pl.read_csv(as_text(file), glob=False, columns=["sample_id"]).height


def _rows(frame: "pl.DataFrame", split: str, rows: str) -> int:
    """Return the number of rows in a split, or of its rows without a twin in another split."""
    frame = frame.filter(frame["split"] == split)
    return frame["twin_in"].null_count() if rows == "deduplicated" else frame.height


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``benchmark``; its inputs include every evaluation set of the profile."""
    # What models are selected on, and every evaluation set.
    manifests = ("hq_train_manifest", *(f"{name}_manifest" for name in given.profile.tested))
    return [
        Stage(
            asset="benchmark",
            group="evaluation",
            kinds=("csv", "json"),
            describe="Every model on every evaluation set from stored per-sample predictions, with "
            "intervals and paired tests: `benchmark.json`, where each cell states its set and "
            "the split that chose the model; `ledger.json`, which split each choice used.",
            needs=(
                Need("teacher_logits", "each"),
                Need("external_model", "each"),
                Need("adopted_model", "each"),
                *needs("ensemble", *CANDIDATES, *manifests),
            ),
            recipe=BenchmarkRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
            limits=BenchmarkLimits.of,
            code_version="8",
        )
    ]
