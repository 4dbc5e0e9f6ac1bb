"""What makes two samples the same: their decoded pixels and their box, never their path."""

import hashlib
from typing import Any

import numpy as np

from fer_ml.images.pixels import Box


def photo_digest(image: np.ndarray) -> bytes:
    """128-bit hash of ``image``, uint8 ``[H, W]`` grey or ``[H, W, 3]`` RGB.

    Grey stored as RGB is grey: the same face as a grey and as a coloured file is one sample.
    """
    if image.ndim == 3:
        red = image[..., 0]
        if np.array_equal(red, image[..., 1]) and np.array_equal(red, image[..., 2]):
            image = red
    shape = image.shape
    if shape not in _STARTED:
        # SHA-256, because processors have instructions for it, cut to 128 bits.
        _STARTED[shape] = hashlib.sha256(f"{'x'.join(map(str, shape[::-1]))}:".encode())
    digest = _STARTED[shape].copy()
    digest.update(np.ascontiguousarray(image))
    return bytes(digest.digest()[:16])


#: Hashes that have seen a shape: most images share one, and starting anew takes longer than a face.
_STARTED: dict[tuple[int, ...], Any] = {}


def photo_hash(image: np.ndarray) -> str:
    """``photo_digest``, hexadecimal."""
    return photo_digest(image).hex()


def sample_hash(photo: str, box: Box | None) -> str:
    """128-bit hash of a face: its photo's hash and its box in that photo, if any."""
    if box is None:
        return photo
    return hashlib.blake2b(f"{photo}:{box}".encode(), digest_size=16).hexdigest()
