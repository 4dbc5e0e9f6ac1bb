"""The gates of a run folder: a training that did nothing, or lies about itself, is stopped here."""

from fer_ml.evaluation.calibration import T_BOUNDS
from fer_ml.gates import NOT_BELOW_PREVIOUS, RUN_FILES, RUN_GATES, Gate, Outcome, at_least, same
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import manifest_file
from fer_ml.manifests.schema import read_manifest
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, weights_hash


def gate_run(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge a teacher's or student's run folder."""
    missing = [name for name in RUN_FILES if name not in artifact.record.files]
    complete = Outcome("run_complete", not missing, len(missing), 0, ", ".join(missing))
    if missing:
        return [complete, *(_unjudged(gate) for gate in RUN_GATES[1:])]
    checkpoint = load_checkpoint(artifact.file(CHECKPOINT_FILE))
    training = artifact.read_json("training.json")
    metrics = artifact.read_json("reliabilitymetrics.json")
    calibration = artifact.read_json("calibration.json")
    digest = artifact.record.files[CHECKPOINT_FILE].sha256
    manifest = _manifest_of(artifact, store)
    val_rows = -1
    if manifest is not None:
        frame = read_manifest(manifest.file(manifest_file("hq_train_manifest")))
        val_rows = int((frame["split"] == "val").sum())
    bad = sum(
        1
        for t in checkpoint.model.values()
        if t.is_floating_point() and not bool(t.isfinite().all())
    )
    return [
        complete,
        same("class_order", list(checkpoint.classes), list(CLASSES)),
        Outcome(
            "budget_as_planned",
            training["steps"] > 0 and training["epochs_run"] == training["epochs_planned"],
            f"{training['epochs_run']} epochs, {training['steps']} steps",
            f"{training['epochs_planned']} epochs",
        ),
        Outcome(
            "weights_changed",
            training["initial_weights_sha256"] != weights_hash(checkpoint.model),
            weights_hash(checkpoint.model)[:12],
            f"not {training['initial_weights_sha256'][:12]}",
        ),
        same(
            "metrics_of_best",
            (metrics["checkpoint_sha256"], calibration["checkpoint_sha256"], metrics["n"]),
            (digest, digest, val_rows),
            "(sha256 in reliabilitymetrics.json, in calibration.json, n)",
        ),
        Outcome("finite_weights", bad == 0, bad, 0, "tensors with NaN or infinity"),
        Outcome(
            "temperature_in_bounds",
            calibration["inside_bounds"],
            calibration["global_temperature"],
            str(T_BOUNDS),
        ),
        at_least("above_floor", metrics["raw"]["macro_f1"], profile.floor_macro_f1),
    ]


def gate_student(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge a student after another: its run folder, and whether it lost to the one before."""
    outcomes = gate_run(artifact, store, profile)
    if not outcomes[0].passed:
        return [*outcomes, _unjudged(NOT_BELOW_PREVIOUS)]
    baseline = artifact.read_json("training.json")["baseline"]
    metrics = artifact.read_json("reliabilitymetrics.json")
    if metrics["manifest_sha256"] != baseline["manifest_sha256"]:
        comparable = Outcome(
            "not_below_previous",
            False,
            "not comparable",
            baseline["manifest_sha256"][:12],
            "the two were measured on different manifests",
        )
    else:
        comparable = at_least(
            "not_below_previous",
            metrics["raw"]["macro_f1"],
            baseline["macro_f1"],
            f"val macro-F1 against {baseline['asset']}",
        )
    return [*outcomes, comparable]


def _manifest_of(artifact: Artifact, store: Store) -> Artifact | None:
    for item in artifact.record.inputs:
        if item.asset == "hq_train_manifest":
            return store.find(item.asset, None, item.sha256)
    return None


def _unjudged(gate: Gate) -> Outcome:
    return Outcome(
        gate.rule, False, "not judged", "complete run folder", "not judged: files missing"
    )
