"""The random people and recording conditions of each source, by one ``Style`` per source.

The styles differ as real sources do: in sensor, blur, light, head pose, occlusion and strength of
expression.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_ml.base.labels import CLASSES
from fer_ml.sample.faces import ACTION_UNITS, OCCLUSIONS, Camera, Face, expression

_HAIR_RGB = np.array(
    [[22, 20, 22], [48, 33, 25], [84, 58, 38], [150, 112, 64], [205, 172, 112], [120, 116, 114]]
)
_IRIS_RGB = np.array([[62, 42, 30], [88, 62, 38], [84, 104, 78], [82, 112, 146], [100, 106, 112]])


@dataclass(frozen=True)
class Style:
    """The variation of a source's pictures; a pair is the range of a uniform draw.

    ``strength`` is the strength of the class's expression (0..1), ``distractor`` the largest weight
    of a second expression, ``spread`` the sigma of the differences between people; ``yaw`` and
    ``roll`` are sigmas in degrees; ``occlusion`` is a probability. See ``Camera`` for the rest.
    """

    strength: tuple[float, float] = (0.75, 1.0)
    distractor: float = 0.0
    spread: float = 0.08
    yaw: float = 6.0
    roll: float = 3.0
    light: tuple[float, float] = (0.05, 0.3)
    brightness: tuple[float, float] = (0.9, 1.1)
    contrast: tuple[float, float] = (0.95, 1.05)
    warmth: tuple[float, float] = (-0.2, 0.4)
    blur: tuple[float, float] = (0.0, 0.4)
    noise: tuple[float, float] = (1.0, 3.0)
    clutter: tuple[float, float] = (0.1, 0.4)
    occlusion: float = 0.0
    grey: bool = False
    jpeg: int = 0


#: Nothing in the way of the expression: for tests, and for showing what is drawn.
CLEAN = Style()

STYLES: dict[str, Style] = {
    "affectnet_full_balanced": Style(
        strength=(0.85, 1.0),
        distractor=0.1,
        spread=0.14,
        yaw=10,
        roll=5,
        light=(0.05, 0.45),
        brightness=(0.75, 1.15),
        warmth=(-0.3, 0.7),
        blur=(0.0, 0.8),
        noise=(1, 5),
        clutter=(0.2, 0.8),
        occlusion=0.06,
    ),
    "fer2013_uniform_7": Style(
        strength=(0.85, 1.0),
        distractor=0.1,
        spread=0.14,
        yaw=8,
        roll=7,
        light=(0.1, 0.5),
        contrast=(0.7, 1.1),
        blur=(0.2, 0.9),
        noise=(2, 5),
        occlusion=0.05,
        grey=True,
    ),
    "ferplus": Style(
        strength=(0.8, 1.0),
        distractor=0.1,
        spread=0.14,
        yaw=11,
        roll=6,
        light=(0.1, 0.5),
        brightness=(0.75, 1.1),
        contrast=(0.75, 1.1),
        blur=(0.2, 1.0),
        noise=(2, 6),
        occlusion=0.06,
        grey=True,
    ),
    "rafdb_basic": Style(
        strength=(0.85, 1.0),
        distractor=0.1,
        spread=0.14,
        yaw=8,
        roll=2,
        light=(0.05, 0.4),
        brightness=(0.9, 1.2),
        warmth=(0.2, 0.9),
        blur=(0.0, 0.6),
        noise=(1, 4),
        clutter=(0.1, 0.6),
        occlusion=0.05,
    ),
    "rafdb_compound_mapped": Style(
        strength=(0.5, 0.9),
        spread=0.14,
        yaw=8,
        roll=2,
        brightness=(0.9, 1.2),
        warmth=(0.2, 0.9),
        blur=(0.0, 0.6),
        noise=(1, 4),
        occlusion=0.05,
    ),
    "rafml_argmax": Style(
        strength=(0.6, 0.95),
        spread=0.14,
        yaw=9,
        roll=3,
        brightness=(0.85, 1.2),
        warmth=(0.0, 0.8),
        blur=(0.0, 0.7),
        noise=(1, 4),
        occlusion=0.05,
    ),
    "expw_full": Style(
        strength=(0.55, 0.95),
        distractor=0.3,
        spread=0.24,
        yaw=15,
        roll=8,
        light=(0.1, 0.65),
        brightness=(0.55, 1.25),
        contrast=(0.75, 1.15),
        warmth=(-0.8, 1.0),
        blur=(0.05, 0.4),
        noise=(3, 9),
        clutter=(0.4, 1.0),
        occlusion=0.2,
        jpeg=60,
    ),
}


def between(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Draw a number uniformly from ``limits``."""
    return float(rng.uniform(*limits))


def random_weights(rng: np.random.Generator, label: str, style: Style) -> dict[str, float]:
    """Draw expression weights: most for ``label``, and some for one other class."""
    strength = between(rng, style.strength)
    weights = {label: strength}
    other = str(rng.choice([name for name in CLASSES if name not in (label, "Neutral")]))
    leak = between(rng, (0.0, style.distractor))
    # A neutral face has no strength of its own to outweigh a second expression with.
    weights[other] = leak * (0.5 if label == "Neutral" else strength)
    return weights


def random_face(rng: np.random.Generator, weights: Mapping[str, float], style: Style) -> Face:
    """Draw a new person who shows the expression ``weights``."""
    units = len(ACTION_UNITS)
    shade = float(rng.beta(1.1, 1.6))
    dark_haired = shade > 0.45 or rng.random() < 0.4
    hair = _HAIR_RGB[rng.integers(0, 2 if dark_haired else len(_HAIR_RGB))]
    bearded = rng.random() < 0.22
    styles, odds = ("short", "fringe", "long", "bald"), (0.4, 0.2, 0.3, 0.1)
    hair_style = str(rng.choice(styles, p=odds))
    return Face(
        expression=expression(weights),
        skin=shade,
        hair_rgb=_tint(rng, hair, 6),
        hair_style="short" if bearded and hair_style == "long" else hair_style,
        iris_rgb=_tint(rng, _IRIS_RGB[0 if dark_haired else rng.integers(0, len(_IRIS_RGB))], 10),
        lip_redness=between(rng, (0, 1)),
        jaw_width=between(rng, (0.75, 1.3)),
        face_height=between(rng, (0.94, 1.07)),
        eye_distance=float(0.43 + 0.2 * style.spread * rng.standard_normal()),
        eye_size=between(rng, (0.86, 1.16)),
        brow_height=float(0.42 + 0.25 * style.spread * rng.standard_normal()),
        brow_thickness=between(rng, (0.05, 0.095)),
        nose_width=between(rng, (0.85, 1.25)),
        nose_length=between(rng, (0.9, 1.1)),
        mouth_width=between(rng, (0.87, 1.15)),
        mouth_height=float(0.72 + 0.2 * style.spread * rng.standard_normal()),
        lip_fullness=between(rng, (0.7, 1.35)),
        beard=between(rng, (0.4, 1.0)) if bearded else 0.0,
        age=between(rng, (0, 1)),
        glasses=bool(rng.random() < 0.15),
        gaze=(between(rng, (-0.8, 0.8)), between(rng, (-0.6, 0.6))),
        asymmetry=float(np.clip(1.5 * style.spread * rng.standard_normal(), -0.6, 0.6)),
        gains=tuple(np.clip(1 + 1.5 * style.spread * rng.standard_normal(units), 0.4, 1.4)),
        offsets=tuple(np.abs(0.5 * style.spread * rng.standard_normal(units))),
        yaw=float(np.clip(style.yaw * rng.standard_normal(), -28, 28)),
        pitch=float(np.clip(0.5 * style.yaw * rng.standard_normal(), -10, 10)),
        roll=float(np.clip(style.roll * rng.standard_normal(), -15, 15)),
    )


def random_camera(rng: np.random.Generator, style: Style) -> Camera:
    """Draw light, lens and sensor for one picture."""
    hidden = rng.random() < style.occlusion
    tone = between(rng, (60, 190))
    return Camera(
        light_angle=between(rng, (20, 160)),
        light_strength=between(rng, style.light),
        brightness=between(rng, style.brightness),
        contrast=between(rng, style.contrast),
        warmth=between(rng, style.warmth),
        blur_percent=between(rng, style.blur),
        noise=between(rng, style.noise),
        occlusion=str(rng.choice(OCCLUSIONS[1:])) if hidden else "none",
        occlusion_side=int(rng.choice([-1, 1])),
        grey=style.grey,
        jpeg=style.jpeg,
        background=_tint(rng, np.array([tone, tone, tone]), 25),
        clutter=between(rng, style.clutter),
        seed=int(rng.integers(0, 2**31)),
    )


def _tint(rng: np.random.Generator, rgb: np.ndarray, spread: float) -> tuple[int, int, int]:
    red, green, blue = np.clip(rgb + rng.uniform(-spread, spread, 3), 4, 250).astype(int).tolist()
    return red, green, blue
