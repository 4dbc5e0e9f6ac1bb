import pytest

from demo_app.detection import Detection
from demo_app.tracking import Tracks, greedy_pairs, iou, match_tracks

A, B = (0, 0, 100, 100), (200, 0, 300, 100)


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
