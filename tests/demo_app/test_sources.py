import os
import shutil
import socket
import struct
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo_app.sources import FOLDER_FPS, Video, natural_key, open_source
from fer_ml.base.errors import FerError
from tests.refusals import refused

VIDEOS = Path(__file__).with_name("videos")


def frames(count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), (8 * i, 0, 0), np.uint8) for i in range(count)]


def test_times_are_media_times_and_colours_are_rgb(write_video) -> None:
    with Video(write_video(frames(12), fps=12.5)) as video:
        assert (video.frames_stated, video.size_px) == (12, (64, 48))
        read = list(video.frames())
        assert video.fps == pytest.approx(12.5)
        assert not video.ended_early(len(read))
    assert [frame.time_s for frame in read] == pytest.approx([i / 12.5 for i in range(12)])
    assert read[11].image[..., 0].mean() == pytest.approx(88, abs=8)
    assert read[11].image[..., 2].mean() < 12


def test_a_browsers_recording_keeps_its_own_times() -> None:
    with Video(VIDEOS / "browser.webm") as video:
        read = list(video.frames())
        assert video.frames_stated is None, "it was made of the clock's rate"
        assert not video.ended_early(len(read))
        assert video.fps == pytest.approx(49 / read[-1].time_s)
    meant = [i * 0.033 + 0.017 * (i * i * 7 % 5) / 4 for i in range(50)]
    assert [frame.time_s for frame in read] == pytest.approx(meant, abs=0.0015)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("uneven.mp4", [*(i / 25 for i in range(20)), *(i / 25 for i in range(21, 50, 3))]),
        *((n, [i / 25 for i in range(50)]) for n in ("before_the_start.mkv", "late.mp4")),
        *((n, [i / 25 for i in range(50)]) for n in ("no_times.h264", "reordered.avi")),
    ],
)
def test_times_rise_from_the_first_frame_on(name: str, meant: list[float]) -> None:
    with Video(VIDEOS / name) as video:
        read = list(video.frames())
        assert not video.ended_early(len(read))
        assert video.fps == pytest.approx((len(meant) - 1) / meant[-1], rel=0.01)
    assert [frame.time_s for frame in read] == pytest.approx(meant, abs=1e-5)


def test_a_gif_keeps_its_delays(tmp_path: Path) -> None:
    delays = [100, 500, 40, 1000, 70, 20]
    pictures = [Image.new("RGB", (64, 48), (20 * i, 0, 0)) for i in range(6)]
    path = tmp_path / "delays.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays)
    with Video(path) as video:
        times = [frame.time_s for frame in video.frames()]
    assert times == pytest.approx([sum(delays[:i]) / 1e3 for i in range(6)])


class Clocked(Video):
    """A video whose container says these times in ms, and this rate."""

    def __init__(self, times_ms: list[float], rate: float) -> None:
        self.name, self.is_camera = "clocked", False
        self._rate, self._last, self._times = rate, (0, 0.0), [*times_ms, 0.0]
        self._first, self._at = frames(1)[0], 0

    def _position_s(self) -> float:
        return self._times[self._at] / 1e3

    def _read(self) -> np.ndarray | None:
        self._at += 1
        return self._first if self._at < len(self._times) - 1 else None


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=False, width=32), min_size=1, max_size=30),
    st.floats(0.01, 240),
)
def test_times_rise_whatever_a_container_says(times_ms: list[float], rate: float) -> None:
    read = list(Clocked(times_ms, rate).frames())
    assert len(read) == len(times_ms) and read[0].time_s == 0
    assert all(before.time_s <= after.time_s for before, after in pairwise(read))


@pytest.mark.parametrize("rate", [0.0, -25.0, float("nan"), float("inf"), 1000.0])
def test_frames_without_times_at_no_rate_are_refused(rate: float) -> None:
    with pytest.raises(FerError) as caught:
        list(Clocked([0, 0, 0], rate).frames())
    assert caught.value.where == "clocked" and caught.value.allowed and caught.value.fix


@pytest.mark.parametrize(
    "address", ["rtsp://me:secret@10.0.0.5:554/stream1", "http://127.0.0.1/x.mp4", "udp://@:1234"]
)
def test_the_address_of_a_stream_is_told_without_its_password(address: str) -> None:
    with pytest.raises(FerError) as caught:
        Video(Path(address))
    assert address.partition(":")[0] in caught.value.what and caught.value.fix
    assert "secret" not in str(caught.value)


def test_absent_corrupt_and_empty_files(tmp_path: Path) -> None:
    for absent in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(FerError) as caught:
            Video(absent)
        assert caught.value.where == str(absent)
    for name, data in (("noise.mp4", bytes(range(256)) * 40), ("empty.avi", b"")):
        (tmp_path / name).write_bytes(data)
        with refused("video-not-opened") as caught:
            Video(tmp_path / name)
        assert name in str(caught.value)


def lists(address: str, file: Path) -> dict[str, str]:
    """What FFmpeg follows to other files and addresses."""
    return {
        "concat": f"ffconcat version 1.0\nfile {file.name}\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{file}\n#EXT-X-ENDLIST\n",
        "hls-address": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
        "master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{address}\n",
        "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "gif-and-sdp": "GIF89a\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "reference": f"[Reference]\nRef1={address}\n",
    }


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".avi", ".m3u8", ".ffconcat", ".sdp"])
@pytest.mark.threat(
    "a video is a list of other files or addresses, or has giant frames",
    "Known containers only, by their first bytes and by FFmpeg's own lists; at most 40 million "
    "px a frame.",
)
def test_lists_of_other_files_and_addresses_are_not_followed(tmp_path: Path, suffix: str) -> None:
    shutil.copy(VIDEOS / "uneven.mp4", tmp_path / "other.mp4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.mp4"
        for name, text in lists(address, tmp_path / "other.mp4").items():
            path = tmp_path / f"{name}{suffix}"
            path.write_text(text)
            with pytest.raises(FerError) as caught:
                Video(path)
            assert caught.value.where == str(path)
        with pytest.raises(BlockingIOError):  # Nobody asked.
            server.accept()


def test_ffmpeg_itself_is_told_which_containers_it_may_take(tmp_path: Path) -> None:
    """Whatever stands at the beginning of a file that passed for another."""
    shutil.copy(VIDEOS / "uneven.mp4", tmp_path / "other.mp4")
    with Video(tmp_path / "other.mp4"):
        pass
    path = tmp_path / "list.mp4"
    path.write_text(lists("", tmp_path / "other.mp4")["concat"])
    assert not cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).isOpened()


@pytest.mark.skipif(os.name == "nt", reason="such names cannot exist")
@pytest.mark.parametrize("name", ["concat:other.mp4", "file:other.mp4", "a%03d.mp4"])
def test_a_name_is_no_address_and_no_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copy(VIDEOS / "uneven.mp4", tmp_path / "other.mp4")
    shutil.copy(VIDEOS / "late.mp4", tmp_path / name)
    shutil.copy(VIDEOS / "uneven.mp4", tmp_path / "a000.mp4")
    monkeypatch.chdir(tmp_path)
    with Video(Path("other.mp4")) as other, Video(Path(name)) as video:
        assert video.frames_stated == 50 != other.frames_stated


@pytest.mark.threat("a video is a list of other files or addresses, or has giant frames")
def test_a_small_file_of_giant_frames_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    picture = b"\x21\xf9\4\0\5\0\0\0\x2c" + struct.pack("<4H", 0, 0, 1, 1) + b"\0\2\2D\1\0"
    path = tmp_path / "giant.gif"
    for side in (64, 16_000):
        head = b"GIF89a" + struct.pack("<2H", side, side) + b"\x80\0\0" + bytes(6)
        path.write_bytes(head + picture * 60 + b";")
        if side == 64:
            with Video(path) as video:
                assert len(list(video.frames())) == 60
        else:
            with refused("frame-too-large"):
                Video(path)


def test_a_video_without_frames(write_video, tmp_path: Path) -> None:
    whole = write_video(frames(3)).read_bytes()
    path = tmp_path / "header.avi"
    path.write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(FerError):
        Video(path)


def test_a_camera_that_is_not_there() -> None:
    with refused("camera-not-opened"):
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
    with refused("camera-without-frames"):
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
    for value, name in enumerate(("frame8", "frame9", "frame10")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 9, 3), 10 * value, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    for hidden in (".DS_Store", "._frame8.png", ".hidden.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / hidden).write_bytes(b"not an image")
    with open_source(tmp_path, bundle) as source:
        assert (source.fps, source.frames_stated, source.size_px) == (FOLDER_FPS, 3, (9, 8))
        read = list(source.frames())
        assert source.ended_early(2) and not source.ended_early(3)
    assert [frame.image[0, 0, 0] for frame in read] == [0, 10, 20]
    assert [frame.time_s for frame in read] == pytest.approx([0, 0.04, 0.08])


@pytest.mark.parametrize(
    "names",
    [
        ("0.png", "1.png", "02.png", "10.png"),
        ("a.jpg", "a1.jpg", "a2.jpg", "a10.jpg", "b1.jpg"),
        ("f_1_2.png", "f_1_10.png", "f_2_1.png"),
        ("00001.png", "00002.png", "00010.png"),
        ("2026-01-09.png", "2026-01-10.png", "2026-10-01.png"),
        ("1" * 200 + ".png", "1" * 201 + ".png"),
    ],
)
def test_names_are_in_the_order_in_which_people_count(names: tuple[str, ...]) -> None:
    assert [p.name for p in sorted(map(Path, reversed(names)), key=natural_key)] == list(names)


def test_a_folder_without_images_and_one_with_a_broken_one(bundle, tmp_path: Path) -> None:
    with refused("folder-without-frames"):
        open_source(tmp_path, bundle)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((8, 9, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"no png")
    with (
        open_source(tmp_path, bundle) as source,
        refused("undecodable-image", where=tmp_path / "1.png"),
    ):
        list(source.frames())
