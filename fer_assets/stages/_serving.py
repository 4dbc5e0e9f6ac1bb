"""Check that the demo gives a bundle the same faces as training did, by comparing both inputs.

The faces are those of val and calib: with val alone the difference of two accuracies has a standard
error of a point, which is the limit itself. Val chose the checkpoint by the published crops, so it
may flatter these a little: the loss is rather overstated.
"""

from typing import TYPE_CHECKING, Any

from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from demo_app.detection import Detector
    from fer_ml.bundles.bundle import Bundle

SERVING_FILE = "serving.json"
#: The splits whose faces are embedded, how many at most, and how many must be found for a verdict.
SPLITS, FACES, LEAST = ("val", "calib"), 3_000, 1_000
#: Pictures of each face, over which figures are averaged: answers near a boundary flip either way
#: when a face is enlarged and cut again.
PICTURES = 4
SEED = 0
#: By what accuracy may be lower, and ECE higher, both in 0..1.
LIMITS = {"accuracy": 0.01, "ece": 0.01}

_FIX = (
    "correct demo.frames of the profile: python benchmarks/framing.py says which square fits a "
    "detector's box; or preprocess.colour"
)
SERVING_GATES = tuple(
    Gate(
        f"demo_path_{name}",
        f"on the same val and calib faces, embedded in pictures, {asked} by way of each detector "
        f"is at most {limit:g} {worse} than on the faces as training saw them",
        _FIX,
    )
    for name, asked, worse, limit in (
        ("accuracy", "accuracy", "lower", LIMITS["accuracy"]),
        ("ece", "ECE", "higher", LIMITS["ece"]),
    )
)


def measure_serving(run: RunFolder, job: Job[Any], bundle: "Bundle") -> None:
    """Write ``serving.json``: the results on held-out faces by both inputs, per detector."""
    import numpy as np
    import polars as pl

    from demo_app.detection import DETECTORS, make_detector
    from fer_ml.base.labels import CLASS_INDEX
    from fer_ml.manifests.curation import read_curated
    from fer_ml.packed.packing import squares

    rows = read_curated(job, "hq_train_manifest").filter(pl.col("split").is_in(SPLITS))
    rows = rows.sample(min(FACES, rows.height), shuffle=True, seed=SEED)
    faces = squares(rows, job.store.root, bundle.card.preprocess.frame)
    y = np.array([CLASS_INDEX[label] for label in rows["label"]])
    by_detector = {name: figures(faces, y, bundle, make_detector(name)) for name in DETECTORS}
    run.write_json(
        SERVING_FILE,
        {
            "schema_version": 2,
            "splits": SPLITS,
            "n": len(y),
            "seed": SEED,
            "detectors": by_detector,
        },
    )
    run.splits.update({f"demo_path_{split}": split for split in SPLITS})
    for name, entry in by_detector.items():
        if entry["found"]:
            lost = entry["direct"]["accuracy"] - entry["shown"]["accuracy"]
            run.summary[f"{name}_accuracy_lost"] = lost


def figures(
    faces: "list[np.ndarray]", y: "np.ndarray", bundle: "Bundle", detector: "Detector"
) -> dict[str, Any]:
    """Return accuracy and ECE of both inputs on faces that ``detector`` found; zeros if none.

    They are averages over ``pictures`` embeddings of all faces, of which each finds at least
    ``found``. If the first finds too few for a verdict, no other is made.
    """
    from demo_app.embedding import both_ways
    from fer_ml.metrics.classification import expected_calibration_error

    found: list[int] = []
    sums = {way: dict.fromkeys(LIMITS, 0.0) for way in ("direct", "shown")}
    for seed in range(SEED, SEED + PICTURES):
        both = both_ways(faces, bundle, detector, seed)
        truth = y[both.rows]
        found.append(len(truth))
        for way, probs in (("direct", both.direct), ("shown", both.shown)):
            if len(truth):
                sums[way]["accuracy"] += float((probs.argmax(axis=1) == truth).mean())
                sums[way]["ece"] += expected_calibration_error(truth, probs)
        if len(truth) < LEAST:
            break
    means = {
        way: {metric: total / len(found) for metric, total in each.items()}
        for way, each in sums.items()
    }
    return {"found": min(found), "pictures": len(found), **means}


def judge_serving(artifact: Artifact) -> list[Outcome]:
    """Judge both losses for every detector that found enough faces."""
    document = artifact.read_json(SERVING_FILE)
    enough = {
        name: entry for name, entry in document["detectors"].items() if entry["found"] >= LEAST
    }
    summary = "; ".join(
        f"{name}: {entry['found']} of {document['n']} faces found"
        for name, entry in document["detectors"].items()
    )
    outcomes = []
    for metric, limit in LIMITS.items():
        rule = f"demo_path_{metric}"
        if not enough:
            why = f"{summary}; at least {LEAST} decide"
            outcomes.append(not_applicable(rule, why))
            continue
        sign = -1 if metric == "accuracy" else 1
        lost = {
            name: sign * (entry["shown"][metric] - entry["direct"][metric])
            for name, entry in enough.items()
        }
        worst = max(lost, key=lambda name: lost[name])
        ways = enough[worst]
        detail = (
            f"{worst}: {ways['shown'][metric]:.4f} against {ways['direct'][metric]:.4f}; {summary}"
        )
        # A difference of exactly the limit passes, whatever the last bit says.
        outcomes.append(at_most(rule, round(lost[worst], 9), limit, detail))
    return outcomes
