"""The preprocessing that travels with every model: a description, which ``images`` carries out."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fer_ml.base.versions import with_frame
from fer_ml.recipes.training import Ranged, Within, read_plain


@dataclass(frozen=True)
class Frame(Ranged):
    """The square that is cut for a face, told by a box about the face, in heights of the box."""

    side: Annotated[float, Within(0.2, 5)] = 1.0
    """Side of the square."""
    # The centre stays in the box, and so in the picture.
    down: Annotated[float, Within(-0.4, 0.4)] = 0.0
    """How far the centre of the square lies below that of the box."""


#: By detector: the square that FER's publishers would have cut, as ``benchmarks/framing.py`` finds
#: it on faces of FER+'s training part.
FRAMES: dict[str, Frame] = {"haar": Frame(1.01, 0.0), "yunet": Frame(0.92, -0.01)}


@dataclass(frozen=True)
class Preprocess(Ranged):
    """How a face becomes a network input. Frozen, hashed, and stored with every model."""

    size: Annotated[int, Within(16, 1024)]
    """Side of the square input in px."""
    frame: Frame = Frame()
    """The square about an annotated box; a published crop is a square already."""
    colour: Literal["grey", "rgb"] = "rgb"
    """`grey` takes the colour away, as from faces that are grey from the start."""
    oversize: Annotated[float, Within(1, 2)] = 1.0
    """Side to which the square is resized before its centre is cut out, as a multiple of `size`."""
    clahe_clip: Annotated[float, Within(0, 40)] = 2.0
    """Clip limit of CLAHE; 0 switches it off."""
    clahe_tiles: Annotated[int, Within(1, 32)] = 8
    """Tiles of CLAHE a side, or fewer where they would be under `clahe_tile_px`."""
    # A tile of 16 px has as many pixels as there are greys: below that, OpenCV raises every clip
    # limit to the same one.
    clahe_tile_px: Annotated[int, Within(1, 1024)] = 16
    """Least side of a tile in px."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green and blue in 0 to 1; it is subtracted."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Of the same; the rest is divided by it."""

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
        json_values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return json_values

    def digest(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def read_preprocess(values: Any) -> Preprocess:
    """A preprocessing from JSON values, also from those of before the frame.

    ``FerError`` names the field that is wrong.
    """
    preprocess: Preprocess = read_plain(Preprocess, with_frame(values), "preprocess")
    return preprocess
