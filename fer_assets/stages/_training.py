"""Code shared by all trainings: recipe, build function, gates and judge."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_assets.stage import Limits, Recipe, Surroundings
from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import Profile
from fer_ml.recipes.training import Training
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.runs.parts import Trained

RUN_GATES: tuple[Gate, ...] = (
    Gate(
        "run_complete",
        "the folder holds best.pt, history.json, reliabilitymetrics.json, calibration.json, "
        "alignmentreport.json",
        "train again",
    ),
    Gate("class_order", "the checkpoint's classes are in the canonical order", "train again"),
    Gate(
        "budget_as_planned",
        "the training ran all epochs of the recipe, and at least one step",
        "look at the run's log: it stopped early",
    ),
    Gate(
        "init_as_promised",
        "the initial weights are those that the recipe names, with a hash unless they are random",
        "train again; the initial weights came from another place",
    ),
    Gate(
        "weights_changed", "the best weights differ from the initial ones", "check lr and the data"
    ),
    Gate(
        "metrics_of_best",
        "metrics and temperature state the sha256 of best.pt, and n is that of the val split",
        "train again; the files come from different runs",
    ),
    Gate("finite_weights", "no weight is NaN or infinite", "lower lr, or switch bf16 off"),
    Gate(
        "temperature_in_bounds",
        "the search for the temperature ended inside its bounds",
        "the calib split is separated perfectly or not at all: give it more rows",
    ),
    Gate(
        "above_floor",
        "val macro-F1 is at least the profile's floor, and above that of 95 of 100 guessers on the "
        "same faces; a floor of 0 asks nothing",
        "train for more epochs, raise lr, or improve the data",
    ),
    Gate(
        "classes_above_chance",
        "each class's val F1 is above that of 95 of 100 guessers on the same faces",
        "look at the confusion matrix: the class is hardly ever predicted",
        blocking=False,
    ),
    Gate(
        "inference_fits",
        "training faces are answered in inference as with a batch's own BatchNorm statistics, and "
        "no face's features are out of range",
        "set precise_bn and zero_init_residual in its recipe, stem_stride = 1 for small faces, or "
        "lower lr; history.json has it by epoch",
        blocking=False,
    ),
    Gate(
        "confidence_informs",
        "val NLL, scaled, is below that of the same answers all given with one confidence",
        "logits of some faces run away: change its recipe, or fuse it by probabilities",
        blocking=False,
    ),
)


NOT_BELOW_PREVIOUS = Gate(
    "not_below_previous",
    "val macro-F1 is at least that of the student before, on the same rows",
    "compare the recipes: find out why distillation scores below CE",
    blocking=False,
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
RUN_FILES = {
    "best.pt": (
        "`schema_version`, `model` (weights), `recipe`, `preprocess`, `classes`, `epoch`; read "
        "without running code"
    ),
    "best.safetensors": "the same weights; the rest as JSON in its metadata, under `fer`",
    "history.json": (
        "by epoch: `epoch`, `train` (`loss` and its parts), `val` (metrics), `lr`, `steps` so far,"
        " `inference` (`nll_stored`, `nll_batch`, `feature_range`: training faces with BatchNorm's"
        " stored statistics and with their own), `coverage` of the training rows, `timing` "
        "(`epoch_sec`, `threads`)"
    ),
    "reliabilitymetrics.json": (
        "`epoch`, `split`, `n`, `checkpoint_sha256`, `manifest_sha256`, metrics as `raw` and "
        "`temperature_scaled` (with `mode` and `global_temperature`)"
    ),
    "calibration.json": (
        "`mode`, `global_temperature`, `inside_bounds` (the search did not end on a bound), "
        "`fitted_on`, `n`, `checkpoint_sha256`, `manifest_sha256`"
    ),
    "training.json": (
        "`steps`, `epochs_planned`, `epochs_run`, `best_epoch`, `coverage`, `init`, `init_from`, "
        "`init_sha256` (of the first weights' file), `initial_weights_sha256`, "
        "`best_weights_sha256`, `kd_temperature`, `baseline` (the student before: `asset`, "
        "`sha256`, `split`, `manifest_sha256`, `macro_f1`), `precision`, `emulation` (time of a "
        "step over that in fp32), `device`, `processes`, `parameters`"
    ),
    "predictions_val.csv": "[predictions](#predictions)",
    "predictions_calib.csv": "[predictions](#predictions)",
    "classorder.json": "list of the classes",
    "alignmentreport.json": (
        "`time`, `paths`, `seed`, `model`, `data`, `protocol`, `optim`, `batching`, `aug`, "
        "`calibration`, `init`: keys of the first pipeline"
    ),
    "environment.json": (
        "`python`, `platform`, `device`, `instruction_set`, `onednn_limit`, `threads`, `packages`,"
        " `finished_at`"
    ),
    "curves.png": "loss and metrics by epoch",
    "confusion.png": "confusion matrix on val",
    "reliability.png": "reliability diagram on val",
    "stage_1/<file>": "Only with a `first_stage`: the same files of it",
}


@dataclass(frozen=True)
class TrainingRecipe(Recipe):
    """The recipe of one training: its settings, how faces are prepared, and the random seed."""

    training: Training
    preprocess: Preprocess
    seed: int

    @classmethod
    def of(cls, profile: Profile, table: str, name: str | None) -> "TrainingRecipe":
        """Return the recipe ``name`` in ``table`` of the profile; ``FerError`` if there is none."""
        trainings: dict[str, Training] = getattr(profile, table)
        if str(name) not in trainings:
            raise FerError(
                f"profile {profile.name} has no {table}.{name}",
                code="not-in-profile",
                allowed=", ".join(trainings),
                fix=f"add {table}.{name} to the profile",
            )
        return cls(trainings[str(name)], profile.preprocess, profile.seed)


@dataclass(frozen=True)
class TrainingLimits(Limits):
    """``floor_macro_f1`` is the least val macro-F1 required, 0 to 1; 0 requires nothing."""

    floor_macro_f1: float

    @classmethod
    def of(cls, profile: Profile) -> "TrainingLimits":
        """Return the limits from the profile."""
        return cls(profile.floor_macro_f1)


def first_weights_of(
    recipe: Callable[[Profile, str | None], TrainingRecipe],
) -> Callable[[Surroundings, str | None], dict[str, Any]]:
    """Return the ``files`` function of training stages: hashes of files with initial weights."""

    def files(around: Surroundings, partition: str | None) -> dict[str, Any]:
        steps = recipe(around.profile, partition).training.stages()
        # Those of a package are in the recipe already, by their hash.
        named = [step.init_file for step in steps if step.init == "file"]
        hashes = {name: sha256_file(Path(name)) for name in named if name and Path(name).is_file()}
        return {"init_files": hashes} if hashes else {}

    return files


def part(job: Job[TrainingRecipe]) -> "Trained":
    """Return the training as part of a packed job."""
    from fer_ml.runs.parts import Trained

    return Trained(job, job.recipe.training, job.recipe.preprocess, job.recipe.seed)


def build(run: RunFolder, job: Job[TrainingRecipe]) -> None:
    """Train in the form of a packed job, and move the results into the run directory."""
    from fer_ml.runs.trainings import train

    train(run, part(job))


def judge(artifact: Artifact, store: Store, limits: TrainingLimits) -> list[Outcome]:
    """Judge a run directory; a training that did nothing or reports falsely fails here."""
    from fer_ml.runs.gates import judge_run

    rules = [gate.rule for gate in RUN_GATES]
    return judge_run(artifact, store, limits.floor_macro_f1, rules)
