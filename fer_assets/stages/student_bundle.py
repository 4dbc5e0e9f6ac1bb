"""``student_bundle``: the selected student, ready to be deployed."""

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_assets.stages._bundle import NETWORK_GATES, checkpoint_of, judge_network
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    *NETWORK_GATES,
    Gate("is_selected", "the checkpoint is the one that was selected", "export again"),
)


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Take over the bytes of the selected candidate, with its benchmark on the card."""
    from fer_ml.bundles.cards import deploy

    deploy(run, job)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the student's bundle, by the bytes that would be deployed."""
    from fer_ml.bundles.bundle import read_card

    chosen = next(i for i in artifact.record.inputs if i.asset == "student_selection")
    selection = store.find(chosen.asset, None, chosen.sha256)
    selected = None
    if selection is not None:
        held = selection.read_json("selection.json")
        selected = checkpoint_of(store, held["selected"], held["sha256"])
    card = read_card(artifact.folder)
    return [
        *judge_network(artifact, store, limits),
        same("is_selected", card.checkpoint_sha256, selected or "no such selection"),
    ]


def stages(given: Given) -> list[Stage]:
    """The one stage."""
    return [
        Stage(
            asset="student_bundle",
            group="deployment",
            kinds=("onnx",),
            describe="The selected student as `model.onnx` with its `card.json`: classes, "
            "preprocessing, temperature, threshold, hashes; torch and ONNX compared on faces.",
            needs=needs("student_selection", "candidate_bundles", "benchmark"),
            build=build,
            gates=GATES,
            judge=judge,
            code_version="2",
        )
    ]
