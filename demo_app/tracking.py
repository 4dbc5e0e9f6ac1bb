"""Which face is which from frame to frame: greedy matching by IoU. Pure functions.

Ids are never used twice in a session, so smoothing by id cannot mix two people of whom one has
left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from demo_app.detection import Detection
from fer_ml.images import Box

MIN_IOU = 0.3


@dataclass(frozen=True)
class Track:
    """One face over time: its id, its last box in px, and when it was last seen in seconds."""

    track_id: int
    box_xyxy_px: Box
    seen_s: float


@dataclass(frozen=True)
class Tracks:
    """The tracks that are alive after a frame, and the id that the next new face will get."""

    alive: tuple[Track, ...] = ()
    next_id: int = 0


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two (left, top, right, bottom) boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inside / (areas - inside)


def greedy_pairs(left: Sequence[Box], right: Sequence[Box], min_iou: float) -> dict[int, int]:
    """Pair boxes one to one, the highest IoU first: index in ``left`` to index in ``right``."""
    scored = [(iou(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(right)]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for overlap, i, j in sorted(scored, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if overlap >= min_iou and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def match_tracks(
    tracks: Tracks,
    detections: Sequence[Detection],
    time_s: float,
    *,
    min_iou: float = MIN_IOU,
    lost_after_s: float = 0.5,
) -> tuple[Tracks, list[int]]:
    """Continue tracks with this frame's detections; returns the tracks and an id per detection.

    A detection that overlaps no track by ``min_iou`` starts a new one. A track without a detection
    keeps its last box and ends when it has been lost for more than ``lost_after_s``.
    """
    known = [track for track in tracks.alive if time_s - track.seen_s <= lost_after_s]
    pairs = greedy_pairs(
        [detection.box_xyxy_px for detection in detections],
        [track.box_xyxy_px for track in known],
        min_iou,
    )
    ids, next_id = [], tracks.next_id
    for index in range(len(detections)):
        if index in pairs:
            ids.append(known[pairs[index]].track_id)
        else:
            ids.append(next_id)
            next_id += 1
    seen = [
        Track(track_id, detection.box_xyxy_px, time_s)
        for track_id, detection in zip(ids, detections, strict=True)
    ]
    lost = [track for track in known if track.track_id not in ids]
    return Tracks((*seen, *lost), next_id), ids
