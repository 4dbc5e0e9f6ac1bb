"""Files as every system has them: names that stay below, moves that wait, links or copies."""

import errno
import os
import threading
import time
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer_ml.base import files
from fer_ml.base.files import (
    discard,
    linked,
    move,
    orphaned,
    owned_name,
    private_folder,
    readable_os_errors,
    stays_below,
    sync,
    temporary,
    write_atomic,
)
from fer_ml.base.names import name_fault
from tests.machine import POSIX
from tests.refusals import refused

PIECES = st.sampled_from(["a", "..", ".", "/", "\\", "C:", ":", "\0", "b.json", "//", " "])


@given(st.lists(PIECES, max_size=8).map("".join))
@example("..\\..\\x")
@example("C:x")
@example("\\\\host\\share")
@example("a.json:stream")
def test_what_stays_below_stays_below_on_windows_too(name: str) -> None:
    if not stays_below(name):
        return
    path = PureWindowsPath("C:/root", name)
    assert path.drive == "C:" and path.parts[:2] == ("C:\\", "root")
    assert ".." not in path.parts and len(path.parts) == 2 + len(name.split("/"))


@pytest.mark.parametrize("name", ["a", "a/b.json", "stage_1/best.pt", ".hidden", "a b/ü"])
def test_names_of_files_below(name: str) -> None:
    assert stays_below(name)


def test_the_names_that_processes_give_are_names_on_every_system() -> None:
    assert name_fault(owned_name()) is None
    assert name_fault(temporary(Path("x")).name) is None
    assert not orphaned(owned_name())


def test_a_move_waits_for_whoever_reads_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses while anybody has the target open."""
    source, target = tmp_path / "new", tmp_path / "current.json"
    source.write_text("new")
    target.write_text("old")
    opened, replace = time.monotonic(), os.replace

    def refuse(*paths: Path) -> None:
        if time.monotonic() < opened + 0.2:
            raise PermissionError(13, "in use")
        replace(*paths)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(files, "PATIENCE", 60.0)
    move(source, target)
    assert target.read_text() == "new" and not source.exists()
    source.write_text("newer")
    opened = float("inf")
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with pytest.raises(PermissionError):
        move(source, target)
    assert target.read_text() == "new"


def test_a_file_that_is_read_is_replaced_when_it_is_closed(tmp_path: Path) -> None:
    """As it is: at once here, and on Windows when the reader is done."""
    target = tmp_path / "current.json"
    target.write_text("old")
    with target.open() as reader:
        threading.Timer(0.2, reader.close).start()
        write_atomic(target, b"new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_in_use_is_left_where_it_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = temporary(tmp_path / "x")
    partial.touch()
    unlink = os.unlink

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    with pytest.raises(PermissionError):
        discard(partial)
    monkeypatch.setattr(files, "PATIENCE", 5.0)
    discard(partial)
    assert partial.exists()
    monkeypatch.setattr(os, "unlink", unlink)
    discard(partial)
    discard(partial)
    assert not partial.exists()


@pytest.mark.parametrize("code", [1, 17, 18, 22, 31, 95])
def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "a").write_text("x")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    assert linked(tmp_path / "a", tmp_path / "b") and (tmp_path / "b").read_text() == "x"
    monkeypatch.setattr(os, "link", refuse)
    assert not linked(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_what_is_not_there_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        linked(tmp_path / "a", tmp_path / "b")


def test_folders_and_files_are_synced_where_that_can_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    sync(tmp_path)
    sync(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


@pytest.mark.parametrize("code", [32, 33, 1224])
def test_what_another_program_has_open_says_so(code: int) -> None:
    denied = PermissionError(13, "denied", "C:/x")
    denied.winerror = code  # type: ignore[attr-defined]
    with refused("file-in-use", where="C:/x"), readable_os_errors(Path()):
        raise denied


def test_a_file_in_a_folders_place_and_names_that_no_disk_takes_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with refused("file-in-the-way"), readable_os_errors(tmp_path):
        private_folder(tmp_path / "file")
    with refused("name-too-long"), readable_os_errors(tmp_path):
        (tmp_path / ("x" * 5000)).mkdir()


@POSIX
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """As root, ``--html /dev/null`` would make a file of the machine's own device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with refused("not-regular-file") as caught:
            write_atomic(tmp_path / name, b"x")
        assert caught.value.where == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_a_disk_that_only_the_text_of_an_error_names_is_named(tmp_path: Path) -> None:
    """As polars says it, whose errors have no number."""
    for number, code in {errno.ENOSPC: "disk-full", errno.EDQUOT: "quota-exceeded"}.items():
        with refused(code), readable_os_errors(tmp_path):
            raise OSError(f"{os.strerror(number)} (os error {number})")
    with pytest.raises(OSError, match="strange"), readable_os_errors(tmp_path):
        raise OSError("strange")
