"""Embed published faces in larger pictures, to compare the demo's input with that of training.

A published crop is the square that training used. In a picture around that crop, a detector has to
find the face, and the crop computed from its box has to match the square.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo_app.detection import Detection, Detector
from demo_app.faces import classify, prepare_faces
from demo_app.tracking import iou
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import Box, prepare

#: Width and height of the pictures, and the sides that a face has in them, in px.
PICTURE_PX = (640, 480)
FACE_PX = (110, 260)
#: A detection is that of the face if their squares overlap so much.
MIN_IOU = 0.3


@dataclass(frozen=True)
class BothWays:
    """Probabilities of the faces that were found: ``rows [K]``, and ``probs [K, 7]`` each way.

    ``direct`` is from the published crop, as in training; ``shown`` is from the picture, as in the
    demo.
    """

    rows: np.ndarray
    direct: np.ndarray
    shown: np.ndarray


def embed(face: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, Box]:
    """Enlarge ``face [H, W, 3] uint8 RGB`` into a picture; return it and the face's square.

    Reducing the square again gives the published face. The edges of the face continue into the
    picture and fade into smooth noise.
    """
    rng, (width, height) = np.random.default_rng(seed), PICTURE_PX
    side = int(rng.integers(*FACE_PX))
    left, top = (int(rng.integers(0, length - side + 1)) for length in PICTURE_PX)
    large = _enlarged(face, side)
    noise = rng.integers(40, 216, (6, 8, 1), np.uint8).repeat(3, axis=2)
    noise = cv2.resize(noise, PICTURE_PX, interpolation=cv2.INTER_CUBIC)
    around = (top, height - top - side, left, width - left - side)
    edges = cv2.copyMakeBorder(large, *around, borderType=cv2.BORDER_REPLICATE)
    inside = np.zeros((height, width), np.uint8)
    inside[top : top + side, left : left + side] = 1
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)[..., None]
    share = np.clip(1 - 3 * away / side, 0, 1)
    picture = share * cv2.GaussianBlur(edges, (0, 0), side / 24) + (1 - share) * noise
    picture = picture.round().astype(np.uint8)
    picture[top : top + side, left : left + side] = large
    return picture, (left, top, left + side, top + side)


def _enlarged(face: np.ndarray, side: int) -> np.ndarray:
    """Return a smooth ``[side, side, 3] uint8`` with area average ``face`` (back-projection)."""
    wanted = face.astype(np.float32)
    large = np.zeros((side, side, 3), np.float32)
    for _ in range(4):
        missing = wanted - cv2.resize(large, face.shape[1::-1], interpolation=cv2.INTER_AREA)
        large += cv2.resize(missing, (side, side), interpolation=cv2.INTER_CUBIC)
    return large.round().clip(0, 255).astype(np.uint8)


def find(picture: np.ndarray, box: Box, detector: Detector) -> Detection | None:
    """Return the best detection of the face in ``box``, or ``None`` if it was missed."""
    detections = detector.detect(picture)
    return next((each for each in detections if iou(each.box_xyxy_px, box) >= MIN_IOU), None)


def both_ways(
    faces: Sequence[np.ndarray], bundle: Bundle, detector: Detector, seed: int
) -> BothWays:
    """Predict with ``bundle`` on published ``faces``, and on the same faces found in pictures."""
    rows, direct, shown = [], [], []
    for row, face in enumerate(faces):
        picture, box = embed(face, (seed, row))
        detection = find(picture, box, detector)
        if detection is None:
            continue
        seen = prepare_faces(picture, [detection], bundle, detector.name)
        direct += classify(prepare(face, None, bundle.card.preprocess)[None], bundle).probs
        shown += classify(seen, bundle).probs
        rows.append(row)
    return BothWays(
        np.array(rows, int), np.array(direct).reshape(-1, 7), np.array(shown).reshape(-1, 7)
    )
