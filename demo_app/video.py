"""Frames of a video file or a camera, with their times in seconds."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from fer_ml.errors import FerError


@dataclass(frozen=True)
class Frame:
    """``image [H, W, 3] uint8 RGB``, its index from 0, and its time in seconds from the start."""

    index: int
    time_s: float
    image: np.ndarray


class Video:
    """An opened video file, animated GIF or camera. Use as a context manager.

    A file's times are media times, index divided by the frame rate that its container states, so
    that they are the same on every machine. A camera's are read from the clock. The first frame is
    read on opening: ``FerError`` when there is none, so a ``Video`` always has a frame.
    """

    def __init__(self, source: Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self.is_camera = isinstance(source, int)
        self._capture = _open_camera(source) if isinstance(source, int) else _open_file(source)
        try:
            self.fps = None if self.is_camera else self._stated_fps()
            self.frames_stated = None if self.is_camera else self._stated_frames()
            self._first = self._read()
            if self._first is None:
                raise self._no_frames()
        except BaseException:
            self._capture.release()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.release()

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the first frame."""
        assert self._first is not None
        return self._first.shape[1], self._first.shape[0]

    def frames(self) -> Iterator[Frame]:
        """All frames in order, once. Ends when the source gives no more of them."""
        started = time.perf_counter()
        image, index = self._first, 0
        while image is not None:
            time_s = index / self.fps if self.fps else time.perf_counter() - started
            yield Frame(index, time_s, image)
            index += 1
            image = self._read()

    def ended_early(self, frames: int) -> bool:
        """True when ``frames`` is fewer than the container states, or the source is a camera.

        Some containers only estimate their number of frames: 1 % or one frame is allowed.
        """
        if self.frames_stated is None:
            return self.is_camera
        return frames < self.frames_stated - max(1, math.ceil(0.01 * self.frames_stated))

    def _read(self) -> np.ndarray | None:
        try:
            ok, image = self._capture.read()
        except cv2.error as error:
            raise FerError(f"a frame cannot be decoded: {error.err}", where=self.name) from error
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if ok else None

    def _stated_fps(self) -> float:
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if not 0 < fps <= 1000:  # also refuses NaN
            raise FerError(
                f"the video states a frame rate of {fps}",
                where=self.name,
                allowed="0 to 1000 frames per second",
                fix="write the video again, for instance with ffmpeg",
            )
        return fps

    def _stated_frames(self) -> int | None:
        stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return int(stated) if math.isfinite(stated) and stated >= 1 else None

    def _no_frames(self) -> FerError:
        if self.is_camera:
            return FerError(
                "the camera opens but gives no frame",
                where=self.name,
                fix="close other programs that use it, or try another index",
            )
        return FerError("the video has no frame that can be decoded", where=self.name)


def _open_file(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise FerError("no such video file", where=path, fix="check the path")
    # One decoder, so that frames, frame rate and times are the same on every machine.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise FerError(
            "the video cannot be opened: it is damaged, or not a video",
            where=path,
            allowed="what FFmpeg reads: MP4, AVI, MKV, WebM, animated GIF",
        )
    return capture


def _open_camera(index: int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise FerError(
            f"camera {index} cannot be opened",
            fix="check that it is plugged in and free, try another index, or name a video file",
        )
    return capture
