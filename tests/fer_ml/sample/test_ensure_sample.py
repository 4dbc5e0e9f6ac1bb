"""When the sample is drawn, when it is not, and what is left behind when drawing fails."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import fer_ml.sample
from fer_ml.base.errors import FerError
from fer_ml.sample import DRAWING_VERSION, ensure_sample
from tests.refusals import refused


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Quick stand-ins for the drawing; the list collects the seeds that were drawn."""
    seeds: list[int] = []

    def draw(root: Path, seed: int) -> None:
        seeds.append(seed)
        (root / "video").mkdir(parents=True)
        truth = {"schema": 1, "drawing_version": fer_ml.sample.DRAWING_VERSION, "seed": seed}
        (root / "truth.json").write_text(json.dumps(truth))
        (root / "video" / "demo.avi").write_bytes(b"film")

    monkeypatch.setattr("fer_ml.sample.drawing.draw_sample", draw)
    return seeds


def _fails(root: Path, seed: int) -> None:
    root.mkdir()
    raise FerError("no room for the film", code="no-room")


def test_it_is_drawn_once(tmp_path: Path, drawn: list[int]) -> None:
    root = tmp_path / "deep" / "sample"
    assert ensure_sample(root, 1) == root
    assert ensure_sample(root, 1) == root
    assert drawn == [1]
    assert (root / "video" / "demo.avi").read_bytes() == b"film"


@pytest.mark.parametrize("change", ["seed", "version"])
def test_an_older_sample_is_replaced(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    root = ensure_sample(tmp_path / "sample", 1)
    (root / "stale").touch()
    if change == "version":
        monkeypatch.setattr(fer_ml.sample, "DRAWING_VERSION", DRAWING_VERSION + 1)
    ensure_sample(root, 2 if change == "seed" else 1)
    assert len(drawn) == 2
    assert not (root / "stale").exists()
    assert _folders(tmp_path) == ["sample"]


def test_a_failure_keeps_the_older_sample_and_leaves_nothing_else(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ensure_sample(tmp_path / "sample", 1)
    monkeypatch.setattr("fer_ml.sample.drawing.draw_sample", _fails)
    with refused("no-room"):
        ensure_sample(root, 2)
    assert _folders(tmp_path) == ["sample"]
    assert json.loads((root / "truth.json").read_text())["seed"] == 1


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def _foreign(root: Path) -> None:
    (root / "thesis.tex").write_text("years of work")


def _garbled(root: Path) -> None:
    (root / "truth.json").write_text("{")


@pytest.mark.parametrize(
    ("fill", "code"), [(_foreign, "folder-not-empty"), (_garbled, "damaged-sample")]
)
def test_a_folder_that_is_no_sample_is_refused(
    tmp_path: Path, drawn: list[int], fill: Callable[[Path], None], code: str
) -> None:
    fill(tmp_path)
    before = sorted(tmp_path.iterdir())
    with refused(code):
        ensure_sample(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == before
    assert drawn == []


def test_several_at_once_draw_once(tmp_path: Path, drawn: list[int]) -> None:
    threads = [
        threading.Thread(target=ensure_sample, args=(tmp_path / "sample", 1)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [1]


def test_what_is_put_in_its_place_meanwhile_is_no_foreign_folder(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is done when the lock is free; before, its folder may look like any."""
    root, lock = tmp_path / "sample", fer_ml.sample.FileLock
    (root / "raw").mkdir(parents=True)

    def freed(path: Path) -> object:
        truth = {"schema": 1, "drawing_version": DRAWING_VERSION, "seed": 1}
        (root / "truth.json").write_text(json.dumps(truth))
        return lock(path)

    monkeypatch.setattr(fer_ml.sample, "FileLock", freed)
    assert ensure_sample(root, 1) == root
    assert drawn == []
