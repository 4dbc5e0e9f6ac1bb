"""``adopted_model``: the weights of an adopted run, measured on the rows of this profile."""

from fer_assets.stage import Given, Limits, Need, Recipe, Stage, needs
from fer_assets.stages._training import RUN_FILES
from fer_ml.base.labels import CLASSES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

_FIX = "adopt other weights, or materialize it again"
GATES = (
    Gate(
        "class_order",
        "the checkpoint names the classes in the canonical order, and no other order of its "
        "columns fits the labels of val significantly better",
        _FIX,
    ),
    Gate(
        "metrics_of_best",
        "metrics and temperature state the sha256 of best.pt, and n is that of the val split",
        _FIX,
    ),
    Gate("finite_weights", "no weight is NaN or infinite", _FIX),
    Gate("temperature_in_bounds", "the search for the temperature ended inside its bounds", _FIX),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    **{
        name: RUN_FILES[name] for name in ("best.pt", "reliabilitymetrics.json", "calibration.json")
    },
    "predictions_val.csv": "[predictions](#predictions)",
    "predictions_calib.csv": "[predictions](#predictions)",
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Write predictions on val and calib, a temperature fitted on calib, and metrics on val."""
    from fer_ml.evaluation.adopted import measure_adopted_model

    measure_adopted_model(run, job)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the weights by what was measured here."""
    from fer_ml.metrics.calibration import T_BOUNDS
    from fer_ml.metrics.predictions import read_predictions
    from fer_ml.runs.gates import judge_order
    from fer_ml.training.checkpoint import CHECKPOINT_FILE, read_checkpoint

    checkpoint = read_checkpoint(artifact.file(CHECKPOINT_FILE))
    metrics = artifact.read_json("reliabilitymetrics.json")
    _, y, logits = read_predictions(artifact.file("predictions_val.csv"))
    calibration = artifact.read_json("calibration.json")
    digest = artifact.record.files[CHECKPOINT_FILE].sha256
    source = {item.asset: item for item in artifact.record.inputs}["adopted"]
    adopted = store.find("adopted", source.partition, source.sha256)
    original = adopted.record.files[CHECKPOINT_FILE].sha256 if adopted is not None else "gone"
    bad = sum(not bool(tensor.isfinite().all()) for tensor in checkpoint.model.values())
    return [
        judge_order("class_order", y, logits)
        if checkpoint.classes == CLASSES
        else same("class_order", list(checkpoint.classes), list(CLASSES)),
        same(
            "metrics_of_best",
            (metrics["checkpoint_sha256"], calibration["checkpoint_sha256"], original),
            (digest, digest, digest),
            "(in reliabilitymetrics.json, in calibration.json, of the adopted best.pt)",
        ),
        at_most("finite_weights", bad, 0, "tensors with NaN or infinity"),
        Outcome(
            "temperature_in_bounds",
            calibration["inside_bounds"],
            calibration["global_temperature"],
            str(T_BOUNDS),
        ),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``adopted_model``; each adopted result with weights is a partition."""
    return [
        Stage(
            asset="adopted_model",
            group="adopted",
            kinds=("pytorch",),
            describe="The weights of an adopted run, measured on the rows of this profile: "
            "predictions on val and calib, val metrics, and a temperature fitted on calib. It is "
            "unknown which of these rows it was trained or selected on.",
            needs=(Need("adopted", "same"), *needs("hq_train_manifest")),
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            partitions="adopted",
        )
    ]
