"""Drawn faces: a parametric head whose expression is set by facial action units.

Coordinates are *head units*: x and y in half face widths, y downwards, (0, 0) between the eyes'
height and the nose; the eyes lie at y = -0.12, the mouth at 0.72, the chin at 1.22. Everything is
drawn larger than asked for and shrunk. Needs only OpenCV and numpy.

At rest the face is neutral; the classes follow FACS: Happy 6+12, Sad 1+4+15, Surprise 1+2+5+26,
Fear 1+2+4+5+20+25, Angry 4+5+7+23, Disgust 9+15+16, each with its usual companions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_ml.base.labels import CLASS_INDEX, CLASSES

#: Facial action units that the drawing knows, by their FACS numbers.
ACTION_UNITS: tuple[int, ...] = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 16, 17, 20, 23, 25, 26)
OCCLUSIONS: tuple[str, ...] = ("none", "hand", "scarf", "edge", "sunglasses")

_PATTERNS: dict[str, dict[int, float]] = {
    "Angry": {4: 1.0, 5: 0.35, 7: 0.8, 17: 0.4, 23: 1.0},
    "Disgust": {4: 0.45, 7: 0.5, 9: 1.0, 10: 0.8, 15: 0.7, 16: 0.7, 17: 0.2},
    "Fear": {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 1.0, 25: 0.9, 26: 0.25},
    "Happy": {6: 1.0, 12: 1.0, 25: 0.7, 26: 0.1},
    "Sad": {1: 1.0, 4: 0.45, 7: 0.3, 15: 1.0, 17: 0.6},
    "Surprise": {1: 1.0, 2: 1.0, 5: 0.9, 25: 0.8, 26: 1.0},
    "Neutral": {},
}
#: ``[7, 16]``: how far each class at full strength moves each action unit.
_PATTERN_MATRIX = np.array(
    [[_PATTERNS[name].get(unit, 0.0) for unit in ACTION_UNITS] for name in CLASSES]
)


@dataclass(frozen=True)
class Face:
    """A person's looks, expression and head pose.

    Sizes are in head units; factors are around 1; ``expression`` holds one weight in 0..1 for each
    of ``CLASSES`` (Neutral's weight moves nothing); ``gains`` and ``offsets`` scale and shift each
    of ``ACTION_UNITS`` for this person. Angles are in degrees.
    """

    expression: tuple[float, ...] = (0.0,) * 6 + (1.0,)
    skin: float = 0.3  # 0 light .. 1 dark
    hair_rgb: tuple[int, int, int] = (60, 40, 28)
    hair_style: str = "short"  # or fringe, long, bald
    iris_rgb: tuple[int, int, int] = (70, 50, 35)
    lip_redness: float = 0.5  # 0..1
    jaw_width: float = 1.0
    face_height: float = 1.0
    eye_distance: float = 0.43
    eye_size: float = 1.0
    brow_height: float = 0.42
    brow_thickness: float = 0.07
    nose_width: float = 1.0
    nose_length: float = 1.0
    mouth_width: float = 1.0
    mouth_height: float = 0.72
    lip_fullness: float = 1.0
    beard: float = 0.0  # 0 shaved .. 1 full
    age: float = 0.3  # 0 smooth .. 1 wrinkled
    glasses: bool = False
    gaze: tuple[float, float] = (0.0, 0.0)  # -1..1 of the eye's width and height
    blink: float = 0.0  # 0 open .. 1 closed
    asymmetry: float = 0.0  # -1..1: the mouth's corners move unequally
    gains: tuple[float, ...] = (1.0,) * len(ACTION_UNITS)
    offsets: tuple[float, ...] = (0.0,) * len(ACTION_UNITS)
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def action_units(self) -> dict[int, float]:
        """Return the activation of each action unit: 0 at rest, 1 full, 1.2 at most."""
        drive = np.asarray(self.expression) @ _PATTERN_MATRIX
        level = np.clip(drive * np.asarray(self.gains) + np.asarray(self.offsets), 0.0, 1.2)
        return dict(zip(ACTION_UNITS, level.tolist(), strict=True))


@dataclass(frozen=True)
class Camera:
    """The recording conditions of a picture: light, lens and sensor.

    ``light_angle`` is in degrees, 0 from the right, 90 from above; ``light_strength`` 0 is flat;
    ``blur_percent`` is the Gaussian sigma in hundredths of the image's longer side, so that it
    means the same at every size; ``noise`` is the sensor noise's sigma in grey levels; ``jpeg`` is
    the quality of one compression, 0 for none. ``seed`` settles noise and background texture.
    """

    light_angle: float = 110.0
    light_strength: float = 0.2
    brightness: float = 1.0
    contrast: float = 1.0
    warmth: float = 0.0  # -1 blue .. 1 yellow
    blur_percent: float = 0.0
    noise: float = 0.0
    occlusion: str = "none"
    occlusion_side: int = 1  # 1 the picture's right, -1 its left
    grey: bool = False
    jpeg: int = 0
    background: tuple[int, int, int] = (120, 125, 130)
    clutter: float = 0.3  # 0 plain .. 1 busy
    seed: int = 0


def expression(weights: Mapping[str, float]) -> tuple[float, ...]:
    """Convert weights in 0..1 by class name to ``Face.expression``; missing classes are 0."""
    values = [0.0] * len(CLASSES)
    for name, weight in weights.items():
        values[CLASS_INDEX[name]] = float(weight)
    return tuple(values)
