"""Altered copies of grey faces, which a search for copies of one photo must find.

Each function takes a face ``[48, 48] uint8`` and a random generator, and returns an altered face
within the bounds that it states.
"""

from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator
Grey = np.ndarray


def jpeg(face: Grey, rng: Rng) -> Grey:
    data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def resized(face: Grey, rng: Rng) -> Grey:
    side = round(max(face.shape) * rng.uniform(0.6, 1))
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, face.shape[::-1], interpolation=cv2.INTER_LINEAR)


def relit(face: Grey, rng: Rng) -> Grey:
    gamma = np.exp(rng.uniform(-np.log(1.8), np.log(1.8)))
    changed = 255 * (face / 255) ** gamma * rng.uniform(0.6, 1.3) + rng.uniform(-30, 30)
    return np.clip(changed, 0, 255).astype(np.uint8)


def moved(face: Grey, shift: np.ndarray, degrees: float) -> Grey:
    height, width = face.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    turn[:, 2] += shift
    return cv2.warpAffine(face, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def shifted(face: Grey, rng: Rng) -> Grey:
    return moved(face, rng.uniform(-4, 4, 2), 0)


def turned(face: Grey, rng: Rng) -> Grey:
    return moved(face, np.zeros(2), rng.uniform(-8, 8))


def cropped(face: Grey, rng: Rng) -> Grey:
    height, width = face.shape
    share = rng.uniform(0.85, 1)
    high, wide = round(height * share), round(width * share)
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    part = face[top : top + high, left : left + wide]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)


def mirrored(face: Grey, rng: Rng) -> Grey:
    return face[:, ::-1].copy()


SINGLE: dict[str, Callable[[Grey, Rng], Grey]] = {
    "JPEG 30-95": jpeg,
    "resized to 0.6-1 and back": resized,
    "gamma, gain, offset": relit,
    "shifted up to 4 px": shifted,
    "turned up to 8 degrees": turned,
    "cropped up to 15%": cropped,
    "mirrored": mirrored,
}


def combined(face: Grey, rng: Rng) -> Grey:
    """Apply two to four alterations; geometric ones first, compression last."""
    some = rng.choice(len(SINGLE), int(rng.integers(2, 5)), replace=False)
    for index in sorted(some, reverse=True):
        face = list(SINGLE.values())[index](face, rng)
    return face


ALTERATIONS = {**SINGLE, "two to four of these": combined}
