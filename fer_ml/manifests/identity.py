"""What makes two samples the same: their decoded pixels and their box, never their path."""

import hashlib

import numpy as np

from fer_ml.images import Box


def photo_hash(image: np.ndarray) -> str:
    """128-bit hash of ``image [H, W, 3] uint8`` and its size, hexadecimal."""
    digest = hashlib.blake2b(f"{image.shape[1]}x{image.shape[0]}:".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def sample_hash(photo: str, box: Box | None) -> str:
    """128-bit hash of a face: its photo's hash and its box in that photo, if any."""
    if box is None:
        return photo
    return hashlib.blake2b(f"{photo}:{box}".encode(), digest_size=16).hexdigest()
