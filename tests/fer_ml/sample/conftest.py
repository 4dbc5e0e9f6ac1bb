"""One small drawn sample for all tests of this folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_ml.sample.sources import draw_sources
from fer_ml.sample.video import draw_video

SEED = 11


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven sources at a fifth of their size, with all their faults."""
    root = tmp_path_factory.mktemp("sample")
    draw_sources(root, SEED, share=0.2)
    return root


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 6 s: any shorter and a class may fall into the second without people."""
    folder = tmp_path_factory.mktemp("film")
    draw_video(folder, SEED, seconds=6.0)
    return folder


@pytest.fixture(scope="session")
def detector() -> "HaarDetector":
    return HaarDetector()


class HaarDetector:
    """OpenCV's frontal-face cascade with the settings that the demo uses."""

    def __init__(self) -> None:
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self.cascade = cv2.CascadeClassifier(str(path))
        assert not self.cascade.empty()

    def boxes(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        """(left, top, right, bottom) of each face found in ``image [H, W, 3] uint8 RGB``."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = self.cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(40, 40)
        )
        return [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in found]

    def count(self, image: np.ndarray, truth: list[tuple[int, int, int, int]]) -> tuple[int, int]:
        """How many of ``truth`` are found with an IoU of at least 0.5; all boxes found."""
        found = self.boxes(image)
        return sum(any(_iou(box, one) >= 0.5 for box in found) for one in truth), len(found)


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
