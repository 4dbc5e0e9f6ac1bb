"""Bundles of some bytes, whose cards say what they are."""

import hashlib
from collections.abc import Callable

from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import MODEL_FILE, PARITY_FILE, Card, write_card
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder, Store


def made(store: Store, asset: str, fill: Callable[[RunFolder], None], *needs: Artifact) -> Artifact:
    """The artifact of ``asset`` that ``fill`` writes."""
    with store.begin(asset, inputs=[artifact.as_input() for artifact in needs]) as run:
        fill(run)
    artifact = store.current(asset)
    assert artifact is not None
    return artifact


def put_bundle(run: RunFolder, part: str, card: Card, difference: float = 1e-6) -> None:
    """The bundle that ``right_cards`` speaks of, with ``card`` as its card."""
    run.write_text(f"{part}{MODEL_FILE}", f"network of {card.name}")
    write_card(run.path(f"{part}{MODEL_FILE}").parent, card)
    run.write_json(f"{part}{PARITY_FILE}", {"faces": 64, "largest_logit_difference": difference})


def right_cards(store: Store) -> dict[str, Card]:
    """Every student as an artifact of some bytes, and the right card of each."""
    found = {}
    for name in CANDIDATES:
        student = made(store, name, lambda run, name=name: run.write_text("best.pt", name))
        found[name] = Card(
            name=name,
            profile="test",
            architecture="test_resnet",
            classes=CLASSES,
            preprocess=Preprocess(size=32),
            temperature=1.7,
            unsure_below=0.4,
            model_sha256=hashlib.sha256(f"network of {name}".encode()).hexdigest(),
            checkpoint_sha256=student.record.files["best.pt"].sha256,
            data="none",
            licence="none",
            intended_use="tests",
        )
    return found
