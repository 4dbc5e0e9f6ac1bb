from pathlib import Path

import cv2
import numpy as np
import pytest

from demo_app.sources import FOLDER_FPS, Video, open_source
from fer_ml.base.errors import FerError


def frames(count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), (8 * i, 0, 0), np.uint8) for i in range(count)]


def test_times_are_media_times_and_colours_are_rgb(write_video) -> None:
    with Video(write_video(frames(12), fps=12.5)) as video:
        read = list(video.frames())
        assert (video.fps, video.frames_stated, video.size_px) == (12.5, 12, (64, 48))
        assert not video.ended_early(len(read))
    assert [frame.time_s for frame in read] == pytest.approx([i / 12.5 for i in range(12)])
    assert read[11].image[..., 0].mean() == pytest.approx(88, abs=8)
    assert read[11].image[..., 2].mean() < 12


def test_absent_corrupt_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="no such video"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(FerError, match="no such video"):
        Video(tmp_path)
    for name, data in (("noise.mp4", bytes(range(256)) * 40), ("empty.avi", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FerError, match="cannot be opened") as caught:
            Video(tmp_path / name)
        assert name in str(caught.value)


def test_a_video_without_frames(write_video, tmp_path: Path) -> None:
    whole = write_video(frames(3)).read_bytes()
    path = tmp_path / "header.avi"
    path.write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(FerError):
        Video(path)


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(FerError, match="camera 99"):
        Video(99)


class FakeCamera:
    """Gives the frames it is made with, then nothing, as a camera that is unplugged."""

    def __init__(self, count: int) -> None:
        self._left = frames(count)
        self.released = False

    def isOpened(self) -> bool:  # OpenCV's name
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self._left.pop(0)) if self._left else (False, None)

    def release(self) -> None:
        self.released = True


def test_a_camera_that_goes_away_ended_early(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(3)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera)
    with Video(0) as video:
        read = list(video.frames())
        assert (video.fps, video.frames_stated) == (None, None)
        assert video.ended_early(len(read))
    assert camera.released
    times = [frame.time_s for frame in read]
    assert len(times) == 3 and times == sorted(times) and 0 <= times[0] < times[2]


def test_a_camera_without_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera)
    with pytest.raises(FerError, match="gives no frame"):
        Video(0)
    assert camera.released


def test_a_truncated_file_ends_early(write_video, tmp_path: Path) -> None:
    whole = write_video(frames(40)).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) // 2])
    with Video(path) as video:
        count = sum(1 for _ in video.frames())
        assert 0 < count < 40
        assert video.ended_early(count)


def test_a_folder_of_images_is_a_film(bundle, tmp_path: Path) -> None:
    for index in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 9, 3), 10 * index, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    with open_source(tmp_path, bundle) as source:
        assert (source.fps, source.frames_stated, source.size_px) == (FOLDER_FPS, 3, (9, 8))
        read = list(source.frames())
        assert source.ended_early(2) and not source.ended_early(3)
    assert [frame.image[0, 0, 0] for frame in read] == [0, 10, 20]
    assert [frame.time_s for frame in read] == pytest.approx([0, 0.04, 0.08])


def test_a_folder_without_images_and_one_with_a_broken_one(bundle, tmp_path: Path) -> None:
    with pytest.raises(FerError, match="neither images nor a recorded session"):
        open_source(tmp_path, bundle)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((8, 9, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"no png")
    with open_source(tmp_path, bundle) as source, pytest.raises(FerError, match=r"1\.png"):
        list(source.frames())
