"""``candidate_bundles``: every student as a bundle, for the demo half of the dual gate."""

from fer_assets.stage import Given, Limits, Stage, needs
from fer_assets.stages._bundle import (
    NETWORK_GATES,
    PARITY_LIMIT,
    CardRecipe,
    apart,
    checkpoint_of,
    export,
)
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    *NETWORK_GATES,
    Gate(
        "of_their_students",
        "each bundle was exported from the checkpoint of its student",
        "export again",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<student>/model.onnx": (
        "ONNX, opset 18: `input` float32 [N, 3, S, S], normalised, to `logits` float32 [N, 7]"
    ),
    "<student>/card.json": "a [card](#cardjson)",
    "<student>/parity.json": "`faces`, `largest_logit_difference`, `limit`, `checkpoint_sha256`",
}


def build(run: RunFolder, job: Job[CardRecipe]) -> None:
    """Export every student into a folder of its own."""
    from fer_ml.bundles.export import Exporter

    exporter = Exporter()
    for name in CANDIDATES:
        part = RunFolder(run.path(name))
        part.folder.mkdir()
        export(part, job, job.input(name), {}, exporter)
        run.splits.update(part.splits)
        run.summary.update({f"{name}_{key}": value for key, value in part.summary.items()})


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge every student's bundle; one of them will be deployed."""
    from fer_ml.bundles.bundle import MODEL_FILE, PARITY_FILE, read_card

    files, inputs = artifact.record.files, {item.asset: item for item in artifact.record.inputs}
    cards = {name: read_card(artifact.folder / name) for name in CANDIDATES}
    parities = {name: artifact.read_json(f"{name}/{PARITY_FILE}") for name in CANDIDATES}
    wrong = {
        "card_matches": [
            name
            for name, card in cards.items()
            if card.model_sha256 != files[f"{name}/{MODEL_FILE}"].sha256
        ],
        "class_order": [name for name, card in cards.items() if card.classes != CLASSES],
        "of_their_students": [
            name
            for name, card in cards.items()
            if card.checkpoint_sha256 != checkpoint_of(store, name, inputs[name].sha256)
        ],
    }
    return [
        at_most(
            "torch_equals_onnx",
            max(apart(parity, cards[name]) for name, parity in parities.items()),
            PARITY_LIMIT,
            f"on {parities[CANDIDATES[0]]['faces']} faces",
        ),
        *(at_most(rule, len(names), 0, "students", names) for rule, names in wrong.items()),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``candidate_bundles``, the same for every profile."""
    return [
        Stage(
            asset="candidate_bundles",
            group="evaluation",
            kinds=("onnx",),
            describe="Every student as `model.onnx` with its `card.json`, one folder each; torch "
            "and ONNX compared on faces. One of them becomes `student_bundle`.",
            needs=needs(*CANDIDATES, "hq_train_manifest"),
            recipe=CardRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="3",
        )
    ]
