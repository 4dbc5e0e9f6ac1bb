from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from demo_app.detection import (
    Detection,
    Detector,
    HaarDetector,
    LookOnce,
    YuNetDetector,
    make_detector,
    merged,
    warning,
)
from demo_app.shipped import YUNET
from demo_app.sources import Video
from demo_app.tracking import iou
from fer_ml.base.errors import FerError
from tests.refusals import refused

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


@pytest.mark.parametrize("size", SIZES)
def test_yunet_takes_any_frame(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    _inside(YuNetDetector(), noise)


def test_names_are_those_asked_for_and_haar_says_what_it_misses() -> None:
    yunet, haar = make_detector("yunet"), make_detector("haar")
    assert (yunet.name, warning(yunet)) == ("yunet", None)
    assert haar.name == "haar" and warning(haar) is not None


BOX = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


@settings_of(max_examples=60)
@given(st.lists(st.builds(Detection, BOX, st.integers(0, 3).map(float)), max_size=6))
def test_one_box_is_left_of_those_that_share_most_of_their_pixels(found: list[Detection]) -> None:
    def overlap(a: Detection, b: Detection) -> bool:
        one, other = pixels(a.box_xyxy_px), pixels(b.box_xyxy_px)
        return len(one & other) > 0.5 * min(len(one), len(other))

    kept = merged(found)
    assert kept == merged(reversed(found))
    assert [each.score for each in kept] == sorted((each.score for each in kept), reverse=True)
    assert not any(overlap(a, b) for a, b in combinations(kept, 2))
    gone = [each for each in found if each not in kept]
    assert all(any(overlap(a, b) and b.score >= a.score for b in kept) for a in gone)


@pytest.mark.real_data
def test_a_class_in_plain_sight_is_found(clips: list[Path]) -> None:
    """Four people at their desks, by OpenCV's own run of the network on whole frames too."""
    clip = next(path for path in clips if path.stem == "classroom")
    detector = make_detector("yunet")
    whole = cv2.FaceDetectorYN.create(str(YUNET), "", (480, 270), score_threshold=0.7)
    with Video(clip) as video:
        frames = [frame.image for frame in video.frames()]
    for image in frames:
        boxes = [each.box_xyxy_px for each in detector.detect(image)]
        assert len(boxes) >= 3
        rows = whole.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].round().astype(int)
        theirs = [(x, y, x + w, y + h) for x, y, w, h in rows[:, :4].tolist()]
        assert all(max(iou(box, other) for other in theirs) > 0.5 for box in boxes)


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
    for name in ("dnn", "auto", ""):
        with pytest.raises(FerError) as caught:
            make_detector(name)
        assert caught.value.allowed == "yunet, haar"
    with refused("invalid-value", allowed="64 to 4096 px"):
        make_detector("haar", 0)


@pytest.mark.parametrize("held", [None, b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_another_file_in_the_place_of_yunet_is_refused(tmp_path: Path, held: bytes | None) -> None:
    file = tmp_path / "yunet.onnx"
    if held is not None:
        file.write_bytes(held)
    with pytest.raises(FerError) as caught:
        YuNetDetector(model_path=file)
    assert str(caught.value.where) == str(file)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["haar", "yunet"])
def test_boxes_are_in_px_of_the_frame(name: str, clips: list[Path]) -> None:
    detector = make_detector(name)
    with Video(clips[-1]) as video:
        image = next(frame.image for frame in video.frames() if detector.detect(frame.image))
    (small,) = detector.detect(image)
    (large,) = detector.detect(cv2.resize(image, None, fx=2, fy=2))
    left, top, right, bottom = large.box_xyxy_px
    # The cascade searches in steps of 10 % of the size, so it is the coarser of the two.
    assert iou(small.box_xyxy_px, (left // 2, top // 2, right // 2, bottom // 2)) > 0.6


@pytest.mark.real_data
def test_detectors_agree_where_the_face_is(clips: list[Path]) -> None:
    haar, yunet = make_detector("haar"), make_detector("yunet")
    overlaps = []
    with Video(clips[-1]) as video:
        for frame in video.frames():
            found, reference = haar.detect(frame.image), yunet.detect(frame.image)
            assert len(reference) == 1
            overlaps += [iou(f.box_xyxy_px, reference[0].box_xyxy_px) for f in found]
    assert overlaps and min(overlaps) > 0.4
