"""Lines that programs read: whole, with their run, from several processes."""

import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_ml.base import logs
from fer_ml.base.settings import settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An artifact root whose processes log, with loggers left as they were."""
    loggers = [logging.getLogger(name) for name in logs.PACKAGES]
    before = [(logger.level, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.level, logger.handlers = level, handlers


def lines(home: Path) -> list[dict[str, Any]]:
    files = logs.log_files(home / logs.LOG_FOLDER)
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def test_a_line_carries_its_run_asset_and_partition(home: Path) -> None:
    logs.start()
    log = logging.getLogger("fer_ml.somewhere")
    with logs.belongs_to(run="r1", asset="teacher", partition="RN18"):
        log.info("epoch %d\nof %s", 3, "ünïcode")
    log.info("outside")
    inside, outside = lines(home)
    assert (inside["run"], inside["asset"], inside["partition"]) == ("r1", "teacher", "RN18")
    assert (inside["level"], inside["logger"]) == ("INFO", "fer_ml.somewhere")
    assert inside["event"] == "epoch %d\nof %s"
    assert inside["message"] == "epoch 3\nof ünïcode"
    assert "run" not in outside


def test_an_error_says_where_apart_from_what(home: Path) -> None:
    logs.start()
    try:
        raise ValueError("/data/Jane Doe.png")
    except ValueError:
        logging.getLogger("fer_ml").exception("%s: failed", "teacher")
    (line,) = lines(home)
    assert line["error"] == "ValueError"
    assert "Jane Doe" in line["traceback"]
    assert "Jane Doe" not in json.dumps([line["event"], line["error"], line["frames"]])
    assert line["frames"][0].endswith("test_an_error_says_where_apart_from_what")


def write(number: int) -> None:
    logs.start()
    log = logging.getLogger("fer_ml.worker")
    for index in range(200):
        log.info("%d %d %s", number, index, "x" * 500)


def test_processes_share_a_file(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [tuple(map(int, line["message"].split()[:2])) for line in lines(home)]
    assert sorted(found) == [(number, index) for number in range(3) for index in range(200)]


def test_old_files_go_and_only_the_user_reads(home: Path) -> None:
    folder = home / logs.LOG_FOLDER
    folder.mkdir(mode=0o700)
    for day in range(1, 32):
        (folder / f"2020-01-{day:02}.jsonl").touch()
    (folder / "notes.txt").touch()
    logs.start()
    logging.getLogger("fer_ml").info("today")
    kept = logs.log_files(folder)
    assert len(kept) == logs.KEEP_DAYS + 1
    assert kept[0].name == "2020-01-02.jsonl"
    assert (folder / "notes.txt").exists()
    assert kept[-1].stat().st_mode & 0o077 == 0


def test_standard_error_is_for_programs_when_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FER_LOG", "json")
    settings.cache_clear()
    logs.start()
    logging.getLogger("fer_ml").info("for %s", "programs")
    assert json.loads(capsys.readouterr().err)["message"] == "for programs"


def test_a_disk_that_refuses_stops_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    (home / logs.LOG_FOLDER).write_text("a file where a folder is needed")
    for number in range(3):
        logging.getLogger("fer_ml").info("lost %d", number)
    said = capsys.readouterr().err
    assert said.count(str(home / logs.LOG_FOLDER)) == 1 and "Traceback" not in said
