"""What one asset's build function is given: its profile, its verified inputs, its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ml.errors import FerError
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, Store, asset_label


@dataclass(frozen=True)
class Job:
    """One materialization.

    ``inputs`` holds gated artifacts by label, in declared order; ``paths`` says where things lie
    outside the store: ``raw/<source>``, ``video``, ``claims``, ``report`` (its template), and
    ``yunet`` when there is one; ``device`` is where a training computes.
    """

    asset: str
    partition: str | None
    profile: Profile
    store: Store
    recipe: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    paths: Mapping[str, Path]
    device: str = "auto"

    @property
    def label(self) -> str:
        """``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)

    def input(self, asset: str, partition: str | None = None) -> Artifact:
        """One input; ``FerError`` when the stage does not declare it."""
        key = asset_label(asset, partition)
        if key not in self.inputs:
            raise FerError(
                f"{self.label} does not declare the input {key}", allowed=", ".join(self.inputs)
            )
        return self.inputs[key]
