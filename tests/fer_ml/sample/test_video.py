"""The film: as long, as wide and as populated as its truth says."""

import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from fer_ml.base.labels import CLASSES
from fer_ml.sample.video import FPS, HEIGHT, TRUTH_COLUMNS, WIDTH, draw_video

SIDES = ("left", "top", "right", "bottom")


def _truth(folder: Path) -> dict[int, list[dict[str, str]]]:
    rows = defaultdict(list)
    with (folder / "demo_truth.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == TRUTH_COLUMNS
        for row in reader:
            rows[int(row["frame_index"])].append(row)
    return rows


def _box(row: dict[str, str]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(row[f"bbox_{side}"]) for side in SIDES)
    return left, top, right, bottom


def _frames(folder: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(folder / "demo.avi"))
    assert video.get(cv2.CAP_PROP_FPS) == FPS
    frames = []
    while True:
        more, frame = video.read()
        if not more:
            video.release()
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def test_frames_and_truth_agree(film: Path) -> None:
    frames, truth = _frames(film), _truth(film)
    assert len(frames) == 6 * FPS
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    assert max(truth) < len(frames)
    assert {len(rows) for rows in truth.values()} == {1, 2}
    assert len(frames) - len(truth) == FPS, "nobody is there for one second"
    for rows in truth.values():
        assert len({row["face_id"] for row in rows}) == len(rows)
        for row in rows:
            left, top, right, bottom = _box(row)
            assert 0 <= left < right <= WIDTH
            assert 0 <= top < bottom <= HEIGHT


def test_every_class_is_played(film: Path) -> None:
    played = {row["label"] for rows in _truth(film).values() for row in rows}
    assert played == set(CLASSES)


def test_haar_finds_the_faces_and_no_others(film: Path, detector) -> None:
    frames, truth = _frames(film), _truth(film)
    hits = total = false_alarms = 0
    for index in range(0, len(frames), 5):
        boxes = [_box(row) for row in truth.get(index, [])]
        matched, found = detector.count(frames[index], boxes)
        hits, total = hits + matched, total + len(boxes)
        false_alarms += found - matched
    assert hits / total >= 0.9
    assert false_alarms / total < 0.1


def test_the_same_seed_films_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_video(tmp_path / name, seed, seconds=0.4)
    for file in ("demo.avi", "demo_truth.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    first, other = ((tmp_path / name / "demo.avi").read_bytes() for name in "ac")
    assert first != other
