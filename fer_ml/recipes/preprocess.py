"""The preprocessing that travels with every model. Only a description; images.py carries it out."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Preprocess:
    """How a face becomes a network input. Frozen, hashed, and stored with every model.

    ``size`` is the side of the square input in px; ``margin`` widens a detected or annotated box
    on each side by that fraction of its longer side; ``oversize`` is the side to which the face is
    resized, as a multiple of ``size``, before the centre ``size`` px are cut out; ``clahe_clip`` 0
    switches CLAHE off; ``mean`` and ``std`` are for RGB in 0..1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    size: int
    margin: float = 0.15
    oversize: float = 1.0
    clahe_clip: float = 2.0
    clahe_tiles: int = 8
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        limits = {
            "size": (16, 1024),
            "margin": (0, 1),
            "oversize": (1, 2),
            "clahe_clip": (0, 40),
            "clahe_tiles": (1, 32),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value} is outside {low} to {high}")

    @property
    def packed_size(self) -> int:
        """The side in px of a packed face, of which the network sees the centre."""
        return round(self.size * self.oversize)

    def plain(self) -> dict[str, Any]:
        """All fields as JSON values."""
        held: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return held

    def digest(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()
