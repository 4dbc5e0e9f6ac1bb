import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_app.detection import Detection
from demo_app.tracking import (
    Track,
    Tracks,
    closeness,
    coast,
    greedy_pairs,
    iou,
    predicted,
)
from demo_app.tracking import match_tracks as match

SIZE = (640, 480)
A, B = (0, 0, 100, 100), (200, 0, 300, 100)


def match_tracks(
    tracks: Tracks, detections: list[Detection], time_s: float
) -> tuple[Tracks, list[int]]:
    return match(tracks, detections, time_s, SIZE, lost_after_s=0.5)


def found(*boxes: tuple[int, int, int, int]) -> list[Detection]:
    return [Detection(box, 1.0) for box in boxes]


def test_iou_by_hand() -> None:
    assert iou(A, A) == 1
    assert iou(A, B) == 0
    assert iou(A, (50, 0, 150, 100)) == pytest.approx(50 / 150)
    assert iou(A, (100, 0, 200, 100)) == 0


def test_pairs_are_one_to_one_and_the_best_first() -> None:
    # The second box overlaps both, and the first one more.
    left = [(20, 0, 120, 100), A]
    assert greedy_pairs(left, [A], 0.3) == {1: 0}
    assert greedy_pairs(left, [A, (30, 0, 130, 100)], 0.3) == {1: 0, 0: 1}
    assert greedy_pairs([A], [B], 0.3) == {}


def test_ids_stay_with_the_faces_whatever_their_order() -> None:
    tracks, ids = match_tracks(Tracks(), found(A, B), 0.0)
    assert ids == [0, 1]
    tracks, ids = match_tracks(tracks, found((205, 0, 305, 100), (5, 0, 105, 100)), 0.1)
    assert ids == [1, 0]
    assert tracks.next_id == 2


def test_a_short_absence_keeps_the_id() -> None:
    tracks, _ = match_tracks(Tracks(), found(A), 0.0)
    tracks, ids = match_tracks(tracks, [], 0.25)
    assert ids == [] and len(tracks.alive) == 1
    _, ids = match_tracks(tracks, found(A), 0.5)
    assert ids == [0]


def test_a_long_absence_ends_the_track_and_its_id() -> None:
    tracks, _ = match_tracks(Tracks(), found(A), 0.0)
    tracks, _ = match_tracks(tracks, [], 0.51)
    assert tracks.alive == ()
    _, ids = match_tracks(tracks, found(A), 0.6)
    assert ids == [1]


def test_a_jump_is_a_new_face() -> None:
    tracks, _ = match_tracks(Tracks(), found(A), 0.0)
    _, ids = match_tracks(tracks, found(B), 0.1)
    assert ids == [1]


def test_fifty_faces_keep_their_ids() -> None:
    boxes = [(x * 30, y * 30, x * 30 + 25, y * 30 + 25) for x in range(10) for y in range(5)]
    tracks, first = match_tracks(Tracks(), found(*boxes), 0.0)
    _, second = match_tracks(tracks, found(*reversed(boxes)), 0.1)
    assert second == first[::-1]


def test_closeness_by_hand() -> None:
    assert closeness(A, A) == 1
    assert closeness(A, (25, 0, 125, 100)) == pytest.approx(0.5)
    assert closeness(A, (50, 0, 150, 100)) == 0
    assert closeness(A, (25, 25, 75, 75)) == 0, "a quarter of the area is another face"


def test_a_fast_face_is_known_by_its_centre() -> None:
    # A narrow box that moved by more than its width overlaps nothing of what it was.
    tall, moved = (100, 0, 130, 150), (131, 0, 161, 150)
    assert iou(tall, moved) == 0
    tracks, _ = match_tracks(Tracks(), found(tall), 0.0)
    assert match_tracks(tracks, found(moved), 0.1)[1] == [0]


def test_a_steady_speed_is_followed_over_a_gap() -> None:
    tracks, _ = match_tracks(Tracks(), found((0, 0, 50, 50)), 0.0)
    tracks, _ = match_tracks(tracks, found((20, 0, 70, 50)), 0.1)
    # Ahead by 80 px after 0.4 s: without the speed this is another place.
    _, ids = match_tracks(tracks, found((100, 0, 150, 50)), 0.5)
    assert ids == [0]


def test_in_between_a_face_moves_on_and_a_missed_one_is_not_shown() -> None:
    tracks, _ = match_tracks(Tracks(), found((0, 0, 50, 50), B), 0.0)
    tracks, _ = match_tracks(tracks, found((20, 0, 70, 50)), 0.1)
    tracks, faces, ids = coast(tracks, 0.15, SIZE, lost_after_s=0.5)
    assert ids == [0] and faces[0].box_xyxy_px == (30, 0, 80, 50)
    assert [track.track_id for track in tracks.alive] == [0, 1]


boxes = st.builds(
    lambda x, y, w, h: (x, y, min(640, x + w), min(480, y + h)),
    st.integers(0, 600),
    st.integers(0, 440),
    st.integers(1, 400),
    st.integers(1, 400),
)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0, 0.6), st.lists(boxes, max_size=6), st.booleans()), max_size=12)
)
def test_ids_are_unique_never_return_and_boxes_stay_inside(
    frames: list[tuple[float, list[tuple[int, int, int, int]], bool]],
) -> None:
    tracks, now, ended = Tracks(), 0.0, set()
    for dt, seen, look in frames:
        now += dt
        before = {track.track_id for track in tracks.alive}
        if look:
            tracks, ids = match_tracks(tracks, found(*seen), now)
            assert len(ids) == len(seen)
        else:
            tracks, faces, ids = coast(tracks, now, SIZE, lost_after_s=0.5)
            for face in faces:
                left, top, right, bottom = face.box_xyxy_px
                assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
        alive = {track.track_id for track in tracks.alive}
        assert len(ids) == len(set(ids)) and set(ids) <= alive
        ended |= before - alive
        assert not alive & ended
        assert all(track_id < tracks.next_id for track_id in alive)


def test_a_prediction_never_leaves_the_image() -> None:
    track = Track(0, 0.0, Detection((600, 0, 640, 40), 1.0), (1e6, -1e6))
    assert predicted(track, 0.3, SIZE).box_xyxy_px == (600, 0, 640, 40)
