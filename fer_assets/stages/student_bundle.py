"""``student_bundle``: the selected student, ready to be deployed."""

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_assets.stages._bundle import NETWORK_FILES, NETWORK_GATES, checkpoint_of, judge_network
from fer_assets.stages._serving import SERVING_GATES, judge_serving, measure_serving
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    *NETWORK_GATES,
    Gate("is_selected", "the checkpoint is that of the selected student", "export again"),
    *SERVING_GATES,
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "serving.json": (
        "`splits`, `n`, `seed`, `detectors` (`found`, `pictures`; `direct` and `shown` with "
        "`accuracy` and `ece`)"
    ),
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Copy the selected candidate with its benchmark, and test it with the demo's input."""
    from fer_ml.bundles.bundle import load_bundle
    from fer_ml.bundles.cards import deploy

    deploy(run, job)
    measure_serving(run, job, load_bundle(run.folder))


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the student's bundle by the bytes that would be deployed."""
    from fer_ml.bundles.bundle import read_card

    chosen = next(i for i in artifact.record.inputs if i.asset == "student_selection")
    selection = store.find(chosen.asset, None, chosen.sha256)
    selected = None
    if selection is not None:
        document = selection.read_json("selection.json")
        selected = checkpoint_of(store, document["selected"], document["sha256"])
    card = read_card(artifact.folder)
    return [
        *judge_network(artifact, store, limits),
        same("is_selected", card.checkpoint_sha256, selected or "no such selection"),
        *judge_serving(artifact),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``student_bundle``, the same for every profile."""
    return [
        Stage(
            asset="student_bundle",
            group="deployment",
            kinds=("onnx",),
            describe="The selected student as `model.onnx` with its `card.json`: classes, "
            "preprocessing, temperature, threshold, hashes; torch and ONNX compared on faces, and "
            "the demo's input with that of training (`serving.json`).",
            needs=needs(
                *("student_selection", "candidate_bundles", "benchmark", "robustness"),
                "hq_train_manifest",
            ),
            holds={**NETWORK_FILES, **HOLDS},
            build=build,
            gates=GATES,
            judge=judge,
            code_version="6",
        )
    ]
