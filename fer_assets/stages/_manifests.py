"""Judge any manifest, whichever stage makes it."""

from dataclasses import dataclass

from fer_assets.stage import Limits
from fer_ml.recipes.profile import Near, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Store


@dataclass(frozen=True)
class ManifestLimits(Limits):
    """When two faces count as copies of one photo, which must not lie in two splits."""

    near: Near

    @classmethod
    def of(cls, profile: Profile) -> "ManifestLimits":
        """Return the limits from the profile."""
        return cls(profile.near_rule)


def judge(artifact: Artifact, store: Store, limits: ManifestLimits) -> list[Outcome]:
    """Judge a manifest by its gates, on every row and every image."""
    from fer_ml.validation.manifests import manifest_outcomes

    return manifest_outcomes(artifact, store, limits.near)
