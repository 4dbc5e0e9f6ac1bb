"""Image corruptions as by a camera and a detector, by kind and strength.

They are the augmentation ``camera`` of trainings. Each function takes a face ``[H, W, 3] uint8
RGB``, a strength in 0..1 and a random generator, and returns a face of the same shape. Strength 0
leaves it nearly unchanged.
"""

from collections.abc import Callable

import cv2
import numpy as np

Face = np.ndarray
Corruption = Callable[[Face, float, np.random.Generator], Face]

#: The side of the smallest face, in px, before it is enlarged.
SMALLEST_PX = 12


def small(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Shrink and enlarge the face again; at strength 1 it was only ``SMALLEST_PX`` px high."""
    height, width = face.shape[:2]
    side = round(height * (min(SMALLEST_PX, height) / height) ** strength)
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


#: In the order in which a camera does them.
CORRUPTIONS: dict[str, Corruption] = {
    "small": small,
    "blur": blur,
    "light": light,
    "noise": noise,
    "jpeg": jpeg,
}


def seen_by_a_camera(face: Face, strength: float, rng: np.random.Generator) -> Face:
    """Apply each corruption with probability 1/2, at a random strength of 0 to ``strength``."""
    for corrupt in CORRUPTIONS.values():
        hit, share = rng.random(2)
        if hit < 0.5:
            face = corrupt(face, strength * share, rng)
    return face
