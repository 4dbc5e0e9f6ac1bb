"""A short drawn film of people whose expressions change, with the true labels of each frame."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.sample.faces import Camera, Face, expression
from fer_ml.sample.pictures import draw_background, draw_person
from fer_ml.sample.styles import CLEAN, random_face

FPS = 25
WIDTH, HEIGHT = 640, 480
TRUTH_COLUMNS: tuple[str, ...] = (
    "frame_index",
    "face_id",
    "label",
    "bbox_left",
    "bbox_top",
    "bbox_right",
    "bbox_bottom",
)
#: Nobody is in the picture for this long, from this part of the film on.
_ABSENT_S, _ABSENT_FROM = 1.0, 0.46


@dataclass(frozen=True)
class Actor:
    """One person of the film: looks, place and size in px, and the classes shown in sequence.

    ``scenes`` are the parts of the film, as intervals in 0..1, in which the person is visible.
    """

    face: Face
    centre_px: tuple[float, float]
    radius_px: float
    roles: tuple[str, ...]
    scenes: tuple[tuple[float, float], ...]
    phase: float

    def weights(self, part: float) -> dict[str, float]:
        """Return the expression weights at ``part`` (0..1) of the film, blending role to role."""
        place = min(part, 1 - 1e-9) * len(self.roles)
        index = int(place)
        melt = np.clip((place - index - 0.6) / 0.4, 0, 1)
        onward = float(melt**2 * (3 - 2 * melt))
        following = self.roles[min(index + 1, len(self.roles) - 1)]
        weights = {self.roles[index]: 1 - onward}
        weights[following] = weights.get(following, 0.0) + onward
        return weights

    def pose(self, second: float) -> tuple[float, float, float]:
        """Return the head's x, y and radius in px after ``second`` seconds."""
        swing = np.sin(2 * np.pi * second / 4.3 + self.phase)
        nod = np.sin(2 * np.pi * second / 2.9 + 2 * self.phase)
        x, y = self.centre_px
        radius = self.radius_px * (1 + 0.06 * nod)
        return float(x + 0.4 * self.radius_px * swing), float(y + 6 * nod), float(radius)

    def at(self, second: float, part: float) -> Face:
        """Return the face at ``second``, which is ``part`` (0..1) of the film."""
        swing = np.sin(2 * np.pi * second / 5.1 + self.phase)
        since_blink = (second + self.phase) % 3.1
        return replace(
            self.face,
            expression=expression(self.weights(part)),
            yaw=float(13 * swing),
            roll=float(4 * np.sin(2 * np.pi * second / 3.7 + self.phase)),
            blink=float(max(0.0, 1 - abs(since_blink - 0.1) / 0.1)),
        )


def _cast(rng: np.random.Generator) -> tuple[Actor, Actor]:
    """Return the two people of the film; the one behind is first, so it is painted first."""
    others = [name for name in CLASSES if name != "Neutral"]
    front, behind = ([others[i] for i in rng.permutation(len(others))] for _ in range(2))
    first, second = (random_face(rng, {}, CLEAN) for _ in range(2))
    late = Actor(second, (480.0, 200.0), 60.0, ("Neutral", *behind), ((0.2, 0.4), (0.7, 0.95)), 1.7)
    early = Actor(first, (205.0, 215.0), 80.0, ("Neutral", *front), ((0.0, 1.0),), 0.4)
    return late, early


def _frames(seed: int, count: int) -> Iterator[tuple[np.ndarray, list[list[object]]]]:
    """Yield each frame ``[480, 640, 3] uint8 RGB`` with its rows of the truth table."""
    rng = np.random.default_rng([seed, 100])
    cast = _cast(rng)
    room = draw_background(HEIGHT, WIDTH, Camera(clutter=0.5, seed=int(rng.integers(0, 2**31))))
    # One field of grain, seen through a moving window: as good as new noise, and much cheaper.
    grain = rng.standard_normal((HEIGHT + 40, WIDTH + 40, 3), np.float32)
    absent_from = round(_ABSENT_FROM * count)
    for index in range(count):
        second, part = index / FPS, index / count
        picture, truth = room.copy(), []
        lamp = Camera(light_angle=90 + 50 * np.sin(second), light_strength=0.22)
        nobody = absent_from <= index < absent_from + round(_ABSENT_S * FPS)
        for face_id, actor in zip((1, 0), cast, strict=True):
            if nobody or not any(start <= part < end for start, end in actor.scenes):
                continue
            box = draw_person(picture, actor.at(second, part), lamp, *actor.pose(second))
            weights = actor.weights(part)
            truth.append([index, face_id, max(weights, key=weights.__getitem__), *box])
        brightness = np.float32(0.97 + 0.13 * np.sin(2 * np.pi * second / 3.3))
        noise = np.float32(3.5 + 2 * np.sin(2 * np.pi * second / 4.7))
        top, left = rng.integers(0, 41, 2)
        picture *= brightness
        picture += noise * grain[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8), sorted(truth, key=str)


def draw_video(folder: Path, seed: int, *, seconds: float = 10.0) -> None:
    """Draw ``folder/demo.avi`` (MJPG, 640x480, 25 fps) and write ``folder/demo_truth.csv``.

    The csv has a row for each face in each frame. Boxes are in px, right and bottom exclusive.
    While one expression blends into another, the label is the stronger one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.avi"
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), codec, FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise FerError(
            "OpenCV cannot write MJPG video here",
            code="video-not-written",
            where=path,
            fix="install this project's packages again; check the folder's rights",
        )
    try:
        with (folder / "demo_truth.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(TRUTH_COLUMNS)
            for frame, truth in _frames(seed, round(seconds * FPS)):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                table.writerows(truth)
    finally:
        writer.release()
