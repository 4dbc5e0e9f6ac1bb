"""What is kept to save work is used only while it is what it was."""

import os
from pathlib import Path

import pytest

from fer_ml.base.kept import is_kept, keep, kept
from tests.machine import POSIX


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "faces-[a].npy"


def make(path: Path, data: bytes) -> Path:
    partial = path.with_name("partial")
    partial.write_bytes(data)
    return keep(partial, path)


def test_what_was_kept_is_found(path: Path) -> None:
    assert kept(path) is None
    made = make(path, b"faces")
    assert kept(path) == made and made.suffix == ".npy"
    assert not path.with_name("partial").exists()


@pytest.mark.parametrize("data", [b"Faces", b"face", b"faces!", b""])
@pytest.mark.threat(
    "caches or snapshots are exchanged or damaged",
    "Each is named by the hash of its bytes or ends with it.",
)
def test_other_bytes_are_not_used_and_go(path: Path, data: bytes) -> None:
    made = make(path, b"faces")
    made.write_bytes(data)
    assert not is_kept(made)
    assert kept(path) is None
    assert not made.exists()
    assert kept(path.with_name("faces-b.npy")) is None


def test_what_was_made_from_something_else_is_not_used(path: Path) -> None:
    make(path.with_name("faces-other.npy"), b"faces")
    assert kept(path) is None


def test_a_longer_name_with_the_same_beginning_is_another_one(path: Path) -> None:
    longer = path.with_stem(f"{path.stem}-train")
    made = make(longer, b"faces")
    assert kept(path) is None
    made.write_bytes(b"damaged")
    assert kept(path) is None and made.exists(), "it is not this name's to delete"


def test_what_was_made_from_something_else_is_not_used_under_this_name(path: Path) -> None:
    made = make(path, b"faces")
    other = path.with_name("faces-other.npy")
    made.rename(made.with_stem(made.stem.replace(path.stem, other.stem)))
    assert kept(other) is None
    assert kept(path) is None


@POSIX
@pytest.mark.parametrize("form", ["pipe", "zero", "circle", "folder"])
def test_what_is_no_file_is_not_waited_for(path: Path, form: str) -> None:
    made = make(path, b"faces")
    made.unlink()
    if form == "pipe":
        os.mkfifo(made)
    elif form == "folder":
        made.mkdir()
    else:
        made.symlink_to("/dev/zero" if form == "zero" else made)
    assert kept(path) is None
