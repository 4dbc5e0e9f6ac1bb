"""Whatever stands in the place of a file is dealt with at once, and nothing leads out."""

import gzip
import os
import pickle
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.base.reading import (
    Folder,
    Refused,
    as_text,
    open_file,
    open_text,
    parse_json,
    read_file,
    read_json,
    read_text,
    regular,
    sha256_file,
)
from tests.refusals import refused

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links of POSIX")


@contextmanager
def _listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        yield


def _through_folder(path: Path) -> object:
    return Folder(path.parent).read(path.name, 1 << 20)


READERS: list[Callable[[Path], object]] = [
    lambda path: open_file(path).close(),
    lambda path: open_text(path).close(),
    lambda path: open_file(path, root=path.parent).close(),
    read_file,
    read_text,
    read_json,
    regular,
    sha256_file,
    _through_folder,
]


@posix
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", ["pipe", "folder", "socket", "circle", "device", "device behind"])
@pytest.mark.threat("a pipe, a device or a circle of links stands in for a file")
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, reader: Callable[[Path], object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # The path of a socket is short.
    path = tmp_path / "here"
    if what == "socket":
        with _listening(Path("here")), refused("not-regular-file"):
            reader(path)
        return
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "circle": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "device behind": lambda: path.symlink_to("/dev/stdin"),
    }[what]()
    with pytest.raises(Refused) as caught:
        reader(path)
    assert caught.value.code in ("not-regular-file", "link-leads-out")


@posix
@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    for root in (None, tmp_path):
        with pytest.raises((Refused, FileNotFoundError)):
            read_file(tmp_path / name, root=root)


def test_what_is_not_there_is_the_systems_own_refusal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", root=tmp_path)
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path).read("none", 10)


def test_a_size_is_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # A terabyte of nothing.
    for reader in (read_file, read_text, read_json):
        with refused("file-too-large", where=path) as caught:
            reader(path)
        assert isinstance(caught.value, Refused)
    with refused("file-too-large"):
        regular(path, limit=10)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux's /proc")
def test_a_file_whose_size_the_system_does_not_know_is_bounded_too() -> None:
    assert Path("/proc/self/maps").stat().st_size == 0
    with refused("file-too-large"):
        read_file("/proc/self/maps", 100)
    assert read_file("/proc/self/maps").endswith(b"\n")


@posix
def test_links_are_followed_inside_a_root_and_never_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "own").write_bytes(b"own")
    (tmp_path / "foreign").write_bytes(b"foreign")
    (root / "in").symlink_to("a/own")
    (root / "out").symlink_to(tmp_path / "foreign")
    (root / "b").symlink_to(tmp_path)
    for name in ("in", "a/own"):
        assert read_file(root / name, root=root) == b"own"
        assert Folder(root).read(name, 10)[1] == b"own"
    for name in ("out", "b/foreign", "a/../../foreign"):
        readers: list[Callable[[], Any]] = [
            lambda name=name: read_file(root / name, root=root),  # type: ignore[misc]
            lambda name=name: sha256_file(root / name, root=root),  # type: ignore[misc]
            lambda name=name: Folder(root).read(name, 10),  # type: ignore[misc]
        ]
        for read in readers:
            with refused("link-leads-out"):
                read()
    assert read_file(root / "out") == b"foreign"  # Whoever names a file may name a link.
    assert read_file(tmp_path / "root" / "in", root=tmp_path) == b"own"


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "\xff", "9" * 5000, b"\xff\xfe\xff"])
def test_damaged_json_is_told(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
    with refused("invalid-json", where=path):
        read_json(path)
    with refused("invalid-json", where=path):
        parse_json(path.read_bytes(), path)


def test_a_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff")
    with refused("not-utf8", where=path):
        read_text(path)


def test_a_large_limit_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    tracemalloc.start()
    try:
        assert read_file(tmp_path / "a", 1 << 60) == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.threat("a small file unpacks to a huge one")
def test_a_compressed_table_is_no_text(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n")
    assert pl.read_csv(as_text(path), glob=False).height == 1
    path.write_bytes(pack(b"a,b\n1,2\n"))
    assert pl.read_csv(path, glob=False).height == 1, "polars unpacks it"
    with refused("compressed-table", where=path):
        as_text(path)


def test_a_refusal_stays_one_across_process_pools() -> None:
    told = Refused("9 bytes", code="file-too-large", where="a.json", allowed="at most 8")
    again = pickle.loads(pickle.dumps(told))
    assert isinstance(again, Refused)
    assert (vars(again), str(again)) == (vars(told), str(told))
