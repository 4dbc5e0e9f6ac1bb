"""What judges every manifest, whichever stage makes it."""

from fer_assets.stage import Limits
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Store


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """The gates of a manifest, on every row and every image."""
    from fer_ml.validation.manifests import manifest_outcomes

    return manifest_outcomes(artifact, store)
