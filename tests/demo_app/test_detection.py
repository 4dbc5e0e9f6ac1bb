from pathlib import Path

import cv2
import numpy as np
import pytest

from demo_app.detection import (
    Detection,
    Detector,
    HaarDetector,
    LookOnce,
    YuNetDetector,
    make_detector,
)
from demo_app.sources import Video
from demo_app.tracking import iou
from fer_ml.base.errors import FerError

SIZES = [(1, 1), (1, 700), (700, 1), (40, 50), (480, 640), (2160, 3840)]


def _inside(detector: Detector, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    for found in detector.detect(image):
        left, top, right, bottom = found.box_xyxy_px
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize("size", SIZES)
def test_haar_takes_any_frame(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    _inside(HaarDetector(), noise)


@pytest.mark.real_data
@pytest.mark.parametrize("size", SIZES)
def test_yunet_takes_any_frame(size: tuple[int, int], yunet_file: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    _inside(YuNetDetector(yunet_file), noise)


@pytest.mark.real_data
def test_names_are_those_asked_for(yunet_file: Path) -> None:
    assert make_detector("haar", None).name == "haar"
    assert make_detector("yunet", yunet_file).name == "yunet"
    assert make_detector("auto", yunet_file).name == "yunet"
    assert make_detector("auto", None).name == "haar"


def test_yunet_without_a_file_is_no_haar() -> None:
    with pytest.raises(FerError, match="FER_YUNET") as caught:
        make_detector("yunet", None)
    assert caught.value.fix is not None


def test_a_picture_is_looked_at_once(scripted: type) -> None:
    a = [Detection((0, 0, 2, 2), 1.0)]
    detector = LookOnce(scripted([a, [], a + a]))
    dark = np.zeros((4, 6, 3), np.uint8)
    # Equal bytes of another shape are another picture.
    assert detector.name == "scripted"
    assert [detector.detect(dark), detector.detect(dark.reshape(6, 4, 3))] == [a, []]
    assert [detector.detect(dark + 1), detector.detect(dark.copy())] == [a + a, a]
    with pytest.raises(StopIteration):
        detector.detect(dark + 2)


def test_unknown_detector_names_the_known_ones() -> None:
    with pytest.raises(FerError, match="haar, yunet"):
        make_detector("dnn", None)
    with pytest.raises(FerError, match="64 to 4096"):
        make_detector("haar", None, 0)


def test_absent_yunet_file(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="cannot be read"):
        make_detector("yunet", tmp_path / "none.onnx")


def test_lfs_pointer_is_refused(tmp_path: Path) -> None:
    pointer = tmp_path / "yunet.onnx"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FerError, match="sha256") as caught:
        make_detector("yunet", pointer)
    assert "LFS" in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["haar", "yunet"])
def test_boxes_are_in_px_of_the_frame(name: str, clips: list[Path], yunet_file: Path) -> None:
    detector = make_detector(name, yunet_file)
    with Video(clips[-1]) as video:
        image = next(frame.image for frame in video.frames() if detector.detect(frame.image))
    (small,) = detector.detect(image)
    (large,) = detector.detect(cv2.resize(image, None, fx=2, fy=2))
    left, top, right, bottom = large.box_xyxy_px
    # The cascade searches in steps of 10 % of the size, so it is the coarser of the two.
    assert iou(small.box_xyxy_px, (left // 2, top // 2, right // 2, bottom // 2)) > 0.6


@pytest.mark.real_data
def test_detectors_agree_where_the_face_is(clips: list[Path], yunet_file: Path) -> None:
    haar, yunet = make_detector("haar", None), make_detector("yunet", yunet_file)
    overlaps = []
    with Video(clips[-1]) as video:
        for frame in video.frames():
            found, reference = haar.detect(frame.image), yunet.detect(frame.image)
            assert len(reference) == 1
            overlaps += [iou(f.box_xyxy_px, reference[0].box_xyxy_px) for f in found]
    assert overlaps and min(overlaps) > 0.4
