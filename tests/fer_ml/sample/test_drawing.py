"""The whole sample by several processes: the same bytes as by one, and no half of it."""

import hashlib
from pathlib import Path

import pytest

from fer_ml.base.errors import FerError
from fer_ml.sample import drawing
from fer_ml.sample.sources import SOURCES, draw_source, draw_sources
from fer_ml.sample.video import draw_video
from tests.refusals import refused


def _few(root: Path, seed: int, part: str) -> object:
    if part != drawing.FILM:
        return draw_source(root, seed, part, share=0.01)
    draw_video(root / "video", seed, seconds=0.4)
    return None


def _bytes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_the_number_of_processes_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(drawing, "processors", lambda: processes)
    monkeypatch.setattr(drawing, "_draw", _few)
    drawing.draw_sample(tmp_path / "drawn", 3)
    draw_sources(tmp_path / "alone", 3, share=0.01)
    draw_video(tmp_path / "alone" / "video", 3, seconds=0.4)
    assert _bytes(tmp_path / "drawn") == _bytes(tmp_path / "alone")
    assert set(SOURCES) == {path.name for path in (tmp_path / "drawn/raw").iterdir()}


def _no_room(root: Path, seed: int, part: str) -> None:
    if part == drawing.FILM:
        raise FerError("no room for the film", code="no-room")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_part_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(drawing, "processors", lambda: processes)
    monkeypatch.setattr(drawing, "_draw", _no_room)
    with refused("no-room"):
        drawing.draw_sample(tmp_path, 3)
    assert not (tmp_path / "truth.json").exists()
