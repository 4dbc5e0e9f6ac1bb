"""Recorded frames go when they were kept long enough; logs of sessions stay."""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fer_ml.privacy.retention import delete_expired, recordings

NOW = datetime(2026, 3, 20, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Sessions of 10, 7 and 0 days, and one without frames."""
    for name, days in (("old", 10), ("week", 7), ("new", 0)):
        frames = tmp_path / "demo" / name / "frames"
        frames.mkdir(parents=True)
        (frames / "000000.png").write_bytes(b"frame")
        (frames.parent / "per_frame.csv").write_text("frame_index\n")
        ended = (NOW - timedelta(days=days)).timestamp()
        os.utime(frames, (ended, ended))
    (tmp_path / "demo" / "logged").mkdir()
    return tmp_path


def names(home: Path) -> list[str]:
    return [recording.frames.parent.name for recording in recordings(home)]


def test_only_frames_older_than_the_setting_go_and_the_log_says_so(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        gone = delete_expired(home, 7, NOW)
    assert [recording.frames.parent.name for recording in gone] == ["old"]
    assert names(home) == ["new", "week"]
    assert "session old: 10 days old, keep_recordings_days is 7" in caplog.text
    assert (home / "demo" / "old" / "per_frame.csv").is_file()
    assert delete_expired(home, 7, NOW) == []


def test_without_the_setting_all_stay_and_zero_days_keep_none(home: Path) -> None:
    assert delete_expired(home, None, NOW) == []
    assert len(names(home)) == 3
    delete_expired(home, 0, NOW + timedelta(seconds=1))
    assert names(home) == []


def test_a_home_without_sessions_is_fine(tmp_path: Path) -> None:
    assert delete_expired(tmp_path, 1) == []


def test_frames_behind_a_link_stay_and_the_log_says_so(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder of frames, or one frame of it."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "frames").mkdir(parents=True)
    (elsewhere / "frames" / "000000.png").write_bytes(b"frame")
    frames = home / "demo" / "old" / "frames"
    (frames / "000000.png").unlink()
    (frames / "000000.png").symlink_to(elsewhere / "frames" / "000000.png")
    (home / "demo" / "linked").mkdir()
    (home / "demo" / "linked" / "frames").symlink_to(elsewhere / "frames")
    for folder in (frames, elsewhere / "frames"):
        os.utime(folder, (1e9, 1e9))
    with caplog.at_level(logging.INFO):
        assert delete_expired(home, 7, NOW) == []
    assert (elsewhere / "frames" / "000000.png").read_bytes() == b"frame"
    assert "deleted the recorded" not in caplog.text
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2 and all(str(elsewhere) in line for line in told)
