"""Code shared by stages that export networks: the card's origin, and how a bundle is judged."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_assets.stage import Limits, Recipe
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Frame
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.bundles.bundle import Card
    from fer_ml.bundles.cards import Origin
    from fer_ml.bundles.export import Exporter

#: By how much a logit may differ between torch and ONNX Runtime.
PARITY_LIMIT = 1e-3

#: Gates of every exported network.
NETWORK_GATES = (
    Gate(
        "torch_equals_onnx",
        "the largest logit difference between torch and ONNX Runtime on real faces",
        "export again; a difference means that the served model is not the measured one",
    ),
    Gate("card_matches", "the card's sha256 is that of model.onnx", "export again"),
    Gate("class_order", "the card's classes are in the canonical order", "export again"),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
NETWORK_FILES = {
    "model.onnx": (
        "ONNX, opset 18: `input` float32 [N, 3, S, S], normalised, to `logits` float32 [N, 7]"
    ),
    "card.json": "a [card](#cardjson)",
    "parity.json": "`faces`, `largest_logit_difference`, `limit`, `checkpoint_sha256`",
}


@dataclass(frozen=True)
class CardRecipe(Recipe):
    """What a card states about the profile.

    Its name, whether its faces are synthetic, the titles of the training sources in the profile's
    order, and the square that each detector's box stands for.
    """

    profile: str
    drawn: bool
    titles: tuple[str, ...]
    frames: dict[str, Frame]

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "CardRecipe":
        """Return the recipe from the profile."""
        trained_on = {*profile.hq_train.sources, *profile.hq_train.votes_added}
        titles = tuple(each.title for each in profile.sources if each.name in trained_on)
        return cls(profile.name, profile.drawn, titles, profile.demo.frames)

    def origin(self) -> "Origin":
        """Return the recipe as the type that the library takes."""
        from fer_ml.bundles.cards import Origin

        return Origin(self.profile, self.drawn, self.titles, self.frames)


def export(
    run: RunFolder,
    job: Job[CardRecipe],
    trained: Artifact,
    metrics: dict[str, Any],
    exporter: "Exporter | None" = None,
) -> None:
    """Write ``model.onnx``, ``card.json`` and ``parity.json`` of the network in ``trained``.

    ``metrics`` are those of the card, by evaluation set.
    """
    from fer_ml.bundles.cards import export_training

    export_training(run, job, trained, metrics, job.recipe.origin(), PARITY_LIMIT, exporter)


def export_measured(run: RunFolder, job: Job[CardRecipe], trained: Artifact) -> None:
    """Call ``export`` with the val metrics that ``trained`` holds."""
    export(run, job, trained, {"hq_train_val": trained.read_json("reliabilitymetrics.json")})


def judge_network(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge any bundle by ``NETWORK_GATES``: does it compute, and state, what was trained."""
    from fer_ml.bundles.bundle import MODEL_FILE, PARITY_FILE, read_card

    card = read_card(artifact.folder)
    parity = artifact.read_json(PARITY_FILE)
    return [
        at_most(
            "torch_equals_onnx", apart(parity, card), PARITY_LIMIT, f"on {parity['faces']} faces"
        ),
        same("card_matches", card.model_sha256, artifact.record.files[MODEL_FILE].sha256),
        same("class_order", list(card.classes), list(CLASSES)),
    ]


def apart(parity: dict[str, Any], card: "Card") -> float:
    """Return the largest logit difference; infinite if measured on another checkpoint."""
    of_this = parity["checkpoint_sha256"] == card.checkpoint_sha256
    return float(parity["largest_logit_difference"]) if of_this else math.inf


def checkpoint_of(store: Store, student: str, sha256: str) -> str | None:
    """Return the hash of a student's ``best.pt``; None if the store lacks that student."""
    from fer_ml.training.checkpoint import CHECKPOINT_FILE

    artifact = store.find(student, None, sha256)
    return None if artifact is None else artifact.record.files[CHECKPOINT_FILE].sha256
