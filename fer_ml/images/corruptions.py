"""Image corruptions as by a camera and a detector, by kind and strength.

Each function takes a face ``[H, W, 3] uint8 RGB``, a strength in 0..1 and a random generator, and
returns a face of the same shape. Strength 0 leaves it nearly unchanged. ``CAMERA`` is the
augmentation ``camera`` of trainings; ``CORRUPTIONS`` are the sets on which models are measured.
"""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np

Face = np.ndarray
Corruption = Callable[[Face, float, np.random.Generator], Face]

#: The side of the smallest face, in px, before it is enlarged.
SMALLEST_PX = 12
#: The strengths at which models are measured.
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


def small(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Shrink and enlarge the face again; at strength 1 it was only ``SMALLEST_PX`` px high."""
    return resolved(face, small_side(len(face), strength))


def small_side(height: int, strength: float) -> int:
    """Return the side in px to which ``small`` shrinks a face of ``height`` px."""
    return round(height * float((min(SMALLEST_PX, height) / height) ** strength))


def resolved(face: Face, side: int) -> Face:
    """Return the face as if it had been ``side`` px high: shrunk, and enlarged again."""
    height, width = face.shape[:2]
    shrunk = cv2.resize(face, (max(1, side * width // height), side), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)


def blur(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Blur the face by a Gaussian with a sigma of up to 4% of its height."""
    sigma = 0.04 * strength * face.shape[0]
    return face if sigma < 0.2 else cv2.GaussianBlur(face, (0, 0), sigma)


def light(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Change the exposure: gamma 1/2 to 2, contrast 1/1.5 to 1.5, brightness by up to 12%."""
    gamma, gain = (np.exp(strength * np.log(most) * rng.uniform(-1, 1)) for most in (2.0, 1.5))
    offset = 0.12 * strength * rng.uniform(-1, 1)
    levels = (np.arange(256) / 255) ** gamma
    table = 255 * (0.5 + gain * (levels - 0.5) + offset)
    return np.asarray(cv2.LUT(face, np.clip(np.rint(table), 0, 255).astype(np.uint8)))


def noise(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Add noise with a sigma of up to 25 grey levels, the same in all three channels."""
    grain = rng.normal(0, 25 * strength, (*face.shape[:2], 1))
    return np.clip(np.rint(face + grain), 0, 255).astype(np.uint8)


def jpeg(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Compress the face by JPEG, with a quality of 95 down to 10."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(95 - 85 * strength)]
    coded = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), quality)[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None, "it was coded just now"
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def loose(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Cut the face up to 1.4 times as wide; beyond the picture its edge is repeated."""
    return _moved(face, scale=1 / (1 + 0.4 * strength))


def tight(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Cut the face down to 0.7 of its side, about its centre."""
    return _moved(face, scale=1 / (1 - 0.3 * strength))


def shift(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Shift the face by up to 20% of its side, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return _moved(face, along=(0.2 * strength * np.cos(angle), 0.2 * strength * np.sin(angle)))


def turn(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Turn the face in the picture by up to 30 degrees, to either side."""
    return _moved(face, degrees=30 * strength * rng.choice((-1, 1)))


def mirror(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Mirror the face left to right, from strength 0.5 on."""
    return np.ascontiguousarray(face[:, ::-1]) if strength >= 0.5 else face


def cover(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Cover up to 30% of the face by a rectangle of any grey, as a hand or a mask does."""
    (height, width), share = face.shape[:2], 0.3 * strength
    ratio = np.exp(np.log(2) * rng.uniform(-1, 1))
    tall, wide = (
        min(length, round(length * np.sqrt(share * part)))
        for length, part in ((height, ratio), (width, 1 / ratio))
    )
    top, left = np.rint(rng.random(2) * (height - tall, width - wide)).astype(int)
    covered = face.copy()
    covered[top : top + tall, left : left + wide] = rng.integers(256)
    return covered


def _moved(
    face: Face,
    *,
    scale: float = 1.0,
    degrees: float = 0.0,
    along: tuple[float, float] = (0.0, 0.0),
) -> Face:
    """Scale, turn and shift (in sides) the face about its centre; its edge is repeated."""
    height, width = face.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    matrix[:, 2] += np.multiply(along, (width, height))
    return np.asarray(
        cv2.warpAffine(
            face,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


#: In the order in which a camera does them.
CAMERA: dict[str, Corruption] = {
    "small": small,
    "blur": blur,
    "light": light,
    "noise": noise,
    "jpeg": jpeg,
}
#: What a camera does, and then how a face lies in the square that is cut for it.
CORRUPTIONS: dict[str, Corruption] = {
    **CAMERA,
    "loose": loose,
    "tight": tight,
    "shift": shift,
    "turn": turn,
    "mirror": mirror,
    "cover": cover,
}
#: Every kind and strength at which models are measured; a mirror has no strengths.
SETS = tuple(
    (kind, strength)
    for kind in CORRUPTIONS
    for strength in (STRENGTHS if kind != "mirror" else STRENGTHS[-1:])
)


def seen_by_a_camera(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Apply each of ``CAMERA`` with probability 1/2, at a random strength of 0 to ``strength``."""
    for corrupt in CAMERA.values():
        hit, share = rng.random(2)
        if hit < 0.5:
            face = corrupt(face, strength * share, rng)
    return face


def corrupted(face: Face, kind: str, strength: float, name: str, seed: int) -> Face:
    """Return ``face`` corrupted by ``kind``; ``name`` (a sample id) and ``seed`` decide all draws.

    So a face is shifted in one direction at all strengths, whichever other faces there are.
    """
    return CORRUPTIONS[kind](face, strength, np.random.default_rng(key_of(kind, name, seed)))


def key_of(what: str, name: str, seed: int) -> int:
    """Return a number of 64 bits that ``what``, a sample id and ``seed`` draw."""
    key = hashlib.blake2b(f"{seed}:{what}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "little")
