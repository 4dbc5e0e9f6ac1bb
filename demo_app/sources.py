"""Frames with times from a video file, a camera, a folder of images or a recorded session."""

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from demo_app.logs import (
    FRAMES_FOLDER,
    PER_FRAME_FILE,
    read_thresholds,
    recorded_frames,
    session_id,
)
from demo_app.parameters import Parameters
from fer_ml.base.errors import FerError
from fer_ml.base.reading import open_file, regular
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import FORMATS, MAX_PIXELS, read_image

#: Images in a folder carry no times: they count as a film of this rate.
FOLDER_FPS = 25.0
#: A video that states more frames a second states the clock of its container: 1000 in a browser's
#: recording. Neither that nor a count made of it says anything of its frames.
MAX_FPS = 240.0
#: Containers that hold their frames themselves, by FFmpeg's name, and how they begin.
#: It reads others too: lists that name more files or addresses, whatever the file is called.
CONTAINERS = {
    "mov": rb".{4}(ftyp|moov|mdat|free|skip|wide|pnot)",
    "avi": rb"RIFF.{4}AVI ",
    "matroska": rb"\x1aE\xdf\xa3",
    "gif": rb"GIF8[79]a",
    "h264": rb"\0{2,3}\x01",
}
#: Times are kept to the digits that are logged, so that a replay sees the very same ones.
TIME_DIGITS = 6


@dataclass(frozen=True)
class Frame:
    """``image [H, W, 3] uint8 RGB``, its index from 0, and its time in seconds from the start.

    Frames of a recorded session also carry the settings of the time of recording: ``parameters``,
    and ``manual_label`` (None if no label was set).
    """

    index: int
    time_s: float
    image: np.ndarray
    parameters: Parameters | None = None
    manual_label: str | None = None


class Source(AbstractContextManager["Source"], Protocol):
    """A source of frames.

    ``fps`` is the mean rate of the frames so far, None without media times. ``frames_stated`` is
    None if the source states no number. ``size_px`` is the first frame's (width, height).
    """

    name: str
    frames_stated: int | None

    @property
    def fps(self) -> float | None:
        """Mean rate of the frames so far, in frames a second; None without media times."""
        ...

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the first frame."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield all frames in order, once."""
        ...

    def ended_early(self, frames: int) -> bool:
        """Whether a source that gave ``frames`` frames should have given more."""
        ...


def open_source(source: Path | int, bundle: Bundle) -> Source:
    """Open a camera by its number, a video file, a recorded session or a folder of images.

    ``bundle`` is the bundle with which a recorded session will be replayed.
    """
    if isinstance(source, int) or not source.is_dir():
        return Video(source)
    if (source / PER_FRAME_FILE).is_file():
        return Recording(source, bundle)
    return ImageFolder(source)


class Video:
    """An opened video file, animated GIF or camera. Use as a context manager.

    Times of a file come from its container, counted from the first frame, so they are the same on
    every machine. A frame with no time, or one not after the frame before, is placed by the stated
    rate. Times of a camera are read from the clock. The first frame is read on opening, so a
    ``Video`` always has a frame; ``FerError`` if there is none.
    """

    def __init__(self, source: Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self.is_camera = isinstance(source, int)
        self._capture = _open_camera(source) if isinstance(source, int) else _open_file(source)
        try:
            self._rate = float(self._capture.get(cv2.CAP_PROP_FPS)) if not self.is_camera else 0.0
            self._last = (0, 0.0)  # Index and time of the frame given last.
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

    @property
    def fps(self) -> float | None:
        """Mean frames a second so far; None for a camera or a single frame."""
        index, time_s = self._last
        return None if self.is_camera or index == 0 else index / time_s

    def frames(self) -> Iterator[Frame]:
        """Yield all frames in order, once, until the source gives no more."""
        started = time.perf_counter()
        first_s = 0.0 if self.is_camera else self._position_s()
        image, index, time_s = self._first, 0, 0.0
        while image is not None:
            if self.is_camera:
                time_s = time.perf_counter() - started
            elif index:
                stated_s = self._position_s() - first_s
                time_s = stated_s if stated_s > time_s else time_s + self._interval_s()
            self._last = index, time_s
            yield Frame(index, round(time_s, TIME_DIGITS), image)
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
            raise FerError(
                f"a frame of the video cannot be decoded: {error.err}",
                code="frame-not-decoded",
                where=self.name,
                fix="write the video again, for instance with ffmpeg",
            ) from error
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if ok else None

    def _position_s(self) -> float:
        """Return the container's time (s) of the frame read last; 0 if it states none."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3

    def _interval_s(self) -> float:
        if not 0 < self._rate <= MAX_FPS:  # also refuses NaN
            raise FerError(
                f"the video gives no times for its frames, and states {self._rate:g} frames per "
                "second",
                code="unknown-frame-rate",
                where=self.name,
                allowed=f"more than 0 and at most {MAX_FPS:g} frames per second",
                fix="write the video again, for instance with ffmpeg",
            )
        return 1 / self._rate

    def _stated_frames(self) -> int | None:
        stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = math.isfinite(stated) and stated >= 1 and 0 < self._rate <= MAX_FPS
        return int(stated) if known else None

    def _no_frames(self) -> FerError:
        if self.is_camera:
            return FerError(
                "the camera opens but gives no frame",
                code="camera-without-frames",
                where=self.name,
                fix="close other programs that use it, or try another --number",
            )
        return FerError(
            "the video has no frame that can be decoded",
            code="video-without-frames",
            where=self.name,
            fix="write the video again, for instance with ffmpeg",
        )


class ImageFolder:
    """The images of a folder, ordered by the numbers in their names, as a film of ``FOLDER_FPS``.

    frame8 comes before frame10. Hidden files, which macOS stores beside each image, are ignored.
    """

    def __init__(self, folder: Path) -> None:
        suffixes = {suffix for group in FORMATS.values() for suffix in group}
        self._files = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "."),
            key=natural_key,
        )
        if not self._files:
            raise FerError(
                "the folder holds neither images nor a recorded session",
                code="folder-without-frames",
                where=folder,
                allowed=f"images ({', '.join(sorted(suffixes))}), or {PER_FRAME_FILE} beside "
                f"{FRAMES_FOLDER}/",
            )
        self.name = str(folder)
        self.fps: float | None = FOLDER_FPS
        self.frames_stated: int | None = len(self._files)
        self._first = read_image(self._files[0])

    def __enter__(self) -> "ImageFolder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the first image."""
        return self._first.shape[1], self._first.shape[0]

    def frames(self) -> Iterator[Frame]:
        """Yield all images in order; ``FerError`` for one that cannot be read."""
        for index, path in enumerate(self._files):
            yield Frame(index, round(index / FOLDER_FPS, TIME_DIGITS), read_image(path))

    def ended_early(self, frames: int) -> bool:
        """Whether ``frames`` is fewer than the number of images."""
        return frames < len(self._files)


class Recording:
    """The raw frames of a recorded session, with their times and the settings of that time.

    The limit of 'unsure' belongs to a bundle; with another bundle, that bundle's own limit is used.
    """

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self._frames = recorded_frames(folder)
        if session_id(folder) in bundle.card.sessions:
            raise FerError(
                f"{bundle.card.name} was trained on this session, so a replay measures nothing",
                code="session-in-training-data",
                where=folder,
                fix="replay another session",
            )
        same_bundle = read_thresholds(folder)["bundle_sha256"] == bundle.sha256
        self._limit = {} if same_bundle else {"unsure_below": bundle.card.unsure_below}
        self.name = str(folder)
        self.fps: float | None = None
        self.frames_stated: int | None = len(self._frames)
        self._first = read_image(self._frames[0].file)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the first frame."""
        return self._first.shape[1], self._first.shape[0]

    def frames(self) -> Iterator[Frame]:
        """Yield all recorded frames in order; ``FerError`` for one that cannot be read."""
        for frame in self._frames:
            yield Frame(
                frame.index,
                frame.time_s,
                read_image(frame.file),
                frame.parameters.model_copy(update=self._limit),
                frame.manual_label,
            )

    def ended_early(self, frames: int) -> bool:
        """Whether ``frames`` is fewer than the number of recorded frames."""
        return frames < len(self._frames)


def natural_key(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Return a sort key in which numbers within names count as numbers; then the name."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", path.stem)
    return [(text, int(number or -1)) for text, number in pieces], path.name


def _open_file(path: Path) -> cv2.VideoCapture:
    if stream := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path)):
        # The rest of it may hold a password.
        raise FerError(
            f"an address of a stream ({stream[1]}) is not a video file",
            code="stream-not-supported",
            allowed="a video file, an animated GIF, a folder of images or a recorded session",
            fix="write a part of it into a file first, for instance with ffmpeg; a camera of this "
            "machine is 'fer demo camera'",
        )
    try:
        with open_file(path) as file:
            start = file.read(12)
    except OSError as error:
        raise FerError(
            f"the video cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="check the path",
        ) from error
    if re.match(b"|".join(CONTAINERS.values()), start, re.DOTALL):
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
            f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS)}"
        )
        # One decoder, so that frames, frame rate and times are the same on every machine. FFmpeg
        # reads 'concat:a' as an address, and nothing that begins with a folder.
        capture = cv2.VideoCapture(str(regular(path).absolute()), cv2.CAP_FFMPEG)
        width, height = (
            int(capture.get(what)) for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_PIXELS:
            capture.release()
            raise FerError(
                f"the video's frames have {width}x{height} px",
                code="frame-too-large",
                where=path,
                allowed=f"at most {MAX_PIXELS:,} px",
                fix="write the video again with smaller frames, for instance with ffmpeg",
            )
        if capture.isOpened():
            return capture
    raise FerError(
        "the video cannot be opened: it is damaged, or not a video",
        code="video-not-opened",
        where=path,
        allowed="MP4 or MOV, AVI, MKV or WebM, animated GIF, H.264 without a container",
    )


def _open_camera(index: int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise FerError(
            f"camera {index} cannot be opened",
            code="camera-not-opened",
            fix="check that it is plugged in and free, try another --number, or name a video file",
        )
    return capture
