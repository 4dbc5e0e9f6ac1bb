"""Drawing of the whole sample in parallel: the film and each source are separate tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from fer_ml.base.processes import processors
from fer_ml.base.shards import in_processes
from fer_ml.sample.drawn_source import DrawnSource
from fer_ml.sample.sources import SOURCES, draw_source, finish_sources
from fer_ml.sample.video import draw_video

FILM = "film"
#: What takes longest begins first, so that no processor is left with a long task at the end.
_LONGEST_FIRST = ("expw_full", FILM, "affectnet_full_balanced", "fer2013_uniform_7")


def draw_sample(root: Path, seed: int) -> None:
    """Draw ``root/raw``, ``root/video`` and ``root/truth.json``; ``FerError`` if that fails."""
    parts = [*_LONGEST_FIRST, *(name for name in SOURCES if name not in _LONGEST_FIRST)]
    drawn = in_processes(partial(_draw, root, seed), parts, min(processors(), len(parts)))
    sources = [
        part for part in tqdm(drawn, "drawing sample", len(parts), disable=None) if part is not None
    ]
    finish_sources(root, seed, sources)


def _draw(root: Path, seed: int, part: str) -> DrawnSource | None:
    with _one_opencv_thread():
        if part != FILM:
            return draw_source(root, seed, part)
        draw_video(root / "video", seed)
    return None


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Limit OpenCV to one thread: for small pictures more threads only occupy other cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
