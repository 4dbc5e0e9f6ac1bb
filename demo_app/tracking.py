"""Match faces from frame to frame, by overlap, then by centre. Pure functions.

Ids are never reused in a session, so smoothing by id cannot mix two people when one has left.
Between two runs of the detector a track moves on at its last speed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo_app.detection import Detection
from fer_ml.images.pixels import Box

MIN_IOU = 0.3
#: Without enough overlap: the centres' distance in sides of the larger box, and the areas' ratio.
MAX_CENTRE_DISTANCE = 0.5
MIN_AREA_RATIO = 0.5


@dataclass(frozen=True)
class Track:
    """One face over time: id, time of the last detection (s), that detection, and speed in px/s.

    ``found`` is whether the detector's last run saw it; a missed face is kept for a while, but not
    shown.
    """

    track_id: int
    seen_s: float
    detection: Detection
    speed_xy_px_s: tuple[float, float] = (0.0, 0.0)
    found: bool = True


@dataclass(frozen=True)
class Tracks:
    """The tracks that are alive after a frame, and the id for the next new face."""

    alive: tuple[Track, ...] = ()
    next_id: int = 0


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two (left, top, right, bottom) boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    return inside / (_area(a) + _area(b) - inside)


def closeness(a: Box, b: Box) -> float:
    """Return 1 for equal centres, 0 at ``MAX_CENTRE_DISTANCE`` or if box sizes differ too much."""
    small, large = sorted((_area(a), _area(b)))
    if small < MIN_AREA_RATIO * large:
        return 0.0
    (ax, ay), (bx, by) = _centre(a), _centre(b)
    distance = math.hypot(ax - bx, ay - by) / math.sqrt(large)
    return max(0.0, 1 - distance / MAX_CENTRE_DISTANCE)


def greedy_pairs(
    left: Sequence[Box],
    right: Sequence[Box],
    least: float,
    likeness: Callable[[Box, Box], float] = iou,
) -> dict[int, int]:
    """Pair boxes one to one, most similar first: index in ``left`` to index in ``right``.

    A pair has a similarity of more than 0 and at least ``least``; ties go to the lower indices.
    """
    scored = [(likeness(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(right)]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for value, i, j in sorted(scored, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if value > 0 and value >= least and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def predicted(track: Track, time_s: float, size_px: tuple[int, int]) -> Detection:
    """Return the expected face of ``track`` at ``time_s``, kept inside an image (width, height)."""
    dt_s = time_s - track.seen_s
    box = track.detection.box_xyxy_px
    shift_x, shift_y = (
        min(max(round(speed * dt_s), -box[axis]), size_px[axis] - box[axis + 2])
        for axis, speed in enumerate(track.speed_xy_px_s)
    )
    return Detection(
        (box[0] + shift_x, box[1] + shift_y, box[2] + shift_x, box[3] + shift_y),
        track.detection.score,
    )


def match_tracks(
    tracks: Tracks,
    detections: Sequence[Detection],
    time_s: float,
    size_px: tuple[int, int],
    *,
    lost_after_s: float,
) -> tuple[Tracks, list[int]]:
    """Continue tracks with this frame's detections; return the tracks and an id per detection.

    A detection belongs to the track whose predicted box overlaps it most, or else to one whose
    centre is near; otherwise it starts a new track. A track ends when it has been lost for more
    than ``lost_after_s``. ``size_px`` is the image's (width, height).
    """
    known = [track for track in tracks.alive if time_s - track.seen_s <= lost_after_s]
    boxes = [detection.box_xyxy_px for detection in detections]
    expected = [predicted(track, time_s, size_px).box_xyxy_px for track in known]
    pairs = greedy_pairs(boxes, expected, MIN_IOU)
    left = [i for i in range(len(boxes)) if i not in pairs]
    free = [j for j in range(len(known)) if j not in pairs.values()]
    near = greedy_pairs([boxes[i] for i in left], [expected[j] for j in free], 0.0, closeness)
    pairs |= {left[i]: free[j] for i, j in near.items()}
    seen, next_id = [], tracks.next_id
    for index, detection in enumerate(detections):
        if index in pairs:
            seen.append(_continued(known[pairs[index]], detection, time_s))
        else:
            seen.append(Track(next_id, time_s, detection))
            next_id += 1
    lost = [
        Track(track.track_id, track.seen_s, track.detection, track.speed_xy_px_s, found=False)
        for j, track in enumerate(known)
        if j not in pairs.values()
    ]
    return Tracks((*seen, *lost), next_id), [track.track_id for track in seen]


def coast(
    tracks: Tracks, time_s: float, size_px: tuple[int, int], *, lost_after_s: float
) -> tuple[Tracks, list[Detection], list[int]]:
    """Process a frame on which the detector does not run: return tracks, expected faces, ids.

    Only faces that the detector's last run saw are expected.
    """
    known = tuple(track for track in tracks.alive if time_s - track.seen_s <= lost_after_s)
    shown = [track for track in known if track.found]
    faces = [predicted(track, time_s, size_px) for track in shown]
    return Tracks(known, tracks.next_id), faces, [track.track_id for track in shown]


def _continued(track: Track, detection: Detection, time_s: float) -> Track:
    dt_s = time_s - track.seen_s
    if dt_s <= 0:
        return Track(track.track_id, time_s, detection, track.speed_xy_px_s)
    (x, y), (x0, y0) = _centre(detection.box_xyxy_px), _centre(track.detection.box_xyxy_px)
    return Track(track.track_id, time_s, detection, ((x - x0) / dt_s, (y - y0) / dt_s))


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
