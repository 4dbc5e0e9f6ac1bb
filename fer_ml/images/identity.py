"""The identity of samples: a hash of decoded pixels and box, independent of the path."""

import hashlib
from typing import Any

import numpy as np

from fer_ml.images.pixels import Box


def photo_digest(image: np.ndarray) -> bytes:
    """Return a 128-bit hash of the pixels of ``image``, uint8 ``[H, W]`` grey or ``[H, W, 3]`` RGB.

    RGB with equal channels is hashed as grey, so both forms of a grey face are one sample.
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
    """Return ``photo_digest`` as hexadecimal text."""
    return photo_digest(image).hex()


def sample_hash(photo: str, box: Box | None) -> str:
    """Return a 128-bit hash of a face, from its photo's hash and its box in the photo, if any."""
    if box is None:
        return photo
    return hashlib.blake2b(f"{photo}:{box}".encode(), digest_size=16).hexdigest()
