"""The preprocessing that travels with every model: a description, which ``images`` carries out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from fer_ml.base.versions import with_frame
from fer_ml.recipes.training import STRICT, read_plain


def _within(held: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in limits.items():
        value = getattr(held, name)
        if not low <= value <= high:
            raise ValueError(f"{name} = {value} is outside {low} to {high}")


@dataclass(frozen=True)
class Frame:
    """The square that is cut for a face, told by a box about the face.

    ``side`` is its side and ``down`` how far its centre lies below that of the box, both in heights
    of the box.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    side: float = 1.0
    down: float = 0.0

    def __post_init__(self) -> None:
        # The centre stays in the box, and so in the picture.
        _within(self, {"side": (0.2, 5), "down": (-0.4, 0.4)})


#: By detector: the square that FER's publishers would have cut, as ``benchmarks/framing.py`` finds
#: it on faces of FER+'s training part.
FRAMES: dict[str, Frame] = {"haar": Frame(1.01, 0.0), "yunet": Frame(0.92, -0.01)}


@dataclass(frozen=True)
class Preprocess:
    """How a face becomes a network input. Frozen, hashed, and stored with every model.

    ``size`` is the side of the square input in px. ``frame`` is the square about an annotated box;
    a published crop is a square already. ``colour`` grey takes the colour away, as from faces that
    are grey from the start. ``oversize`` is the side to which the square is resized, as a multiple
    of ``size``, before the centre ``size`` px are cut out. ``clahe_clip`` 0 switches CLAHE off; it
    has ``clahe_tiles`` tiles a side, or fewer where they would be under ``clahe_tile_px`` px.
    ``mean`` and ``std`` are for RGB in 0..1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    size: int
    frame: Frame = Frame()
    colour: Literal["grey", "rgb"] = "rgb"
    oversize: float = 1.0
    clahe_clip: float = 2.0
    clahe_tiles: int = 8
    #: A tile of 16 px has as many pixels as there are greys: below that, OpenCV raises every clip
    #: limit to the same one.
    clahe_tile_px: int = 16
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        limits = {
            "size": (16, 1024),
            "oversize": (1, 2),
            "clahe_clip": (0, 40),
            "clahe_tiles": (1, 32),
            "clahe_tile_px": (1, 1024),
        }
        _within(self, limits)

    @property
    def packed_size(self) -> int:
        """The side in px of a packed face, of which the network sees the centre."""
        return round(self.size * self.oversize)

    @property
    def tiles(self) -> int:
        """CLAHE's tiles a side, on a packed face."""
        return max(1, min(self.clahe_tiles, self.packed_size // self.clahe_tile_px))

    def plain(self) -> dict[str, Any]:
        """All fields as JSON values."""
        held: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return held

    def digest(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def read_preprocess(values: Any) -> Preprocess:
    """A preprocessing from JSON values, also from those of before the frame.

    ``FerError`` names the field that is wrong.
    """
    held: Preprocess = read_plain(Preprocess, with_frame(values), "preprocess")
    return held
