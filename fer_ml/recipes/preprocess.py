"""The description of a model's preprocessing, stored with it; ``fer_ml.images`` executes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fer_ml.base.versions import with_frame
from fer_ml.recipes.training import Ranged, Within, read_plain


@dataclass(frozen=True)
class Frame(Ranged):
    """The square to cut around a face's box; both numbers are fractions of the box's height."""

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
    """The steps from a face to a network input. Frozen, hashed, and stored with every model."""

    size: Annotated[int, Within(16, 1024)]
    """Side of the square input in px."""
    frame: Frame = Frame()
    """The square to cut around an annotated box; published crops need none."""
    colour: Literal["grey", "rgb"] = "rgb"
    """`grey` removes the colour: all faces look like those of grey datasets."""
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
    """Mean of red, green and blue in 0 to 1, which is subtracted."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the same, by which the difference is divided."""

    @property
    def packed_size(self) -> int:
        """Return the side in px of a packed face, whose centre is the network's input."""
        return round(self.size * self.oversize)

    @property
    def tiles(self) -> int:
        """Return the number of CLAHE tiles along each side of a packed face."""
        return max(1, min(self.clahe_tiles, self.packed_size // self.clahe_tile_px))

    def plain(self) -> dict[str, Any]:
        """Return all fields as JSON values; a whole number in a fraction's place is a fraction."""
        json_values: dict[str, Any] = json.loads(
            json.dumps(asdict(read_plain(Preprocess, asdict(self), "preprocess")))
        )
        return json_values

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def read_preprocess(values: Any) -> Preprocess:
    """Build a preprocessing from JSON values; the older form with ``margin`` is converted.

    ``FerError`` names the field that is wrong.
    """
    preprocess: Preprocess = read_plain(Preprocess, with_frame(values), "preprocess")
    return preprocess
