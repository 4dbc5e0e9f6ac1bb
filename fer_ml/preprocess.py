"""The preprocessing that travels with every model. Only a description; images.py carries it out."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field


class Preprocess(BaseModel):
    """How a face becomes a network input. Frozen, hashed, and stored with every model.

    ``size`` is the side of the square input in px; ``margin`` widens a detected or annotated box
    on each side by that fraction of its longer side; ``clahe_clip`` 0 switches CLAHE off;
    ``mean`` and ``std`` are for RGB in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=16, le=1024)
    margin: float = Field(default=0.15, ge=0, le=1)
    clahe_clip: float = Field(default=2.0, ge=0, le=40)
    clahe_tiles: int = Field(default=8, ge=1, le=32)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def digest(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()
