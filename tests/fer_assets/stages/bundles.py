"""Artifacts that a function fills."""

from collections.abc import Callable

from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder, Store


def made(store: Store, asset: str, fill: Callable[[RunFolder], None], *needs: Artifact) -> Artifact:
    """The artifact of ``asset`` that ``fill`` writes."""
    with store.begin(asset, inputs=[artifact.as_input() for artifact in needs]) as run:
        fill(run)
    artifact = store.current(asset)
    assert artifact is not None
    return artifact
