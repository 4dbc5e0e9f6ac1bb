"""Faces of image files, prepared and written into an array file.

It runs in worker processes over shards of faces, so it imports little.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.images.identity import photo_hash, sample_hash
from fer_ml.images.pixels import Box, prepare_packed, read_image
from fer_ml.recipes.preprocess import Preprocess


@dataclass(frozen=True)
class Faces:
    """Faces to prepare: image files below ``root``, the box and the hash of each.

    They are written to ``file``, from byte ``start`` on.
    """

    root: Path
    names: list[str]
    boxes: list[Box | None]
    sample_ids: list[str]
    preprocess: Preprocess
    file: Path
    start: int


def prepare_faces(faces: Faces) -> int:
    """Write ``[N, P, P, 3] uint8 RGB`` and return N; ``FerError`` if an image is another one."""
    side = faces.preprocess.packed_size
    packed = np.empty((len(faces.names), side, side, 3), np.uint8)
    rows = zip(faces.names, faces.boxes, faces.sample_ids, strict=True)
    for index, (name, box, sample_id) in enumerate(rows):
        image = read_image(faces.root / name)
        if sample_hash(photo_hash(image), box) != sample_id:
            raise FerError(
                "the image is not the one that the manifest was written about",
                code="changed-image",
                where=faces.root / name,
                fix="materialize the manifests again; nothing trains on changed pixels",
            )
        packed[index] = prepare_packed(image, box, faces.preprocess)
    with faces.file.open("r+b") as file:
        file.seek(faces.start)
        file.write(packed.data)
    return len(packed)
