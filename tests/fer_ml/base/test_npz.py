"""Arrays of files from elsewhere: numbers, as much as the file holds, or a ``FerError``."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.errors import FerError
from fer_ml.base.npz import Stacked, read_npy, read_npz, stacked
from tests.refusals import refused


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_an_array_is_mapped_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(np.arange(12, dtype=np.float16).reshape(3, 4)))
    found = read_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    assert (found == np.arange(12).reshape(3, 4)).all()


@pytest.mark.parametrize("shape", [(3, 5), (10**12,), (10**9, 10**9, 10**9)])
def test_a_header_that_tells_more_than_the_file_is_refused(tmp_path: Path, shape: object) -> None:
    header = npy(np.zeros((3, 4), np.float32))
    told = header.replace(b"(3, 4), }".ljust(60), f"{shape}, }}".encode().ljust(60))
    assert len(told) == len(header) != 0 and told != header
    (tmp_path / "a.npy").write_bytes(told)
    with refused("damaged-npz") as caught:
        read_npy(tmp_path / "a.npy")
    assert caught.value.where == str(tmp_path / "a.npy") and caught.value.fix


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.data(),
)
def test_stacked_arrays_read_like_one(lengths: list[int], data: st.DataObject) -> None:
    parts = [np.full((n, 2), i) + np.arange(n)[:, None] for i, n in enumerate(lengths)]
    whole, held = np.concatenate(parts), Stacked(parts)
    n = len(whole)
    assert (len(held), held.shape, held.dtype) == (n, whole.shape, whole.dtype)
    assert np.array_equal(np.asarray(held), whole)
    span = data.draw(st.slices(n))
    assert np.array_equal(held[span], whole[span])
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1))) if n else [], np.int64)
    assert np.array_equal(held[rows], whole[rows])
    for beyond in (np.array([n]), np.array([-1]), n):
        with pytest.raises(IndexError):
            held[beyond]


def test_arrays_of_several_shapes_are_not_stacked() -> None:
    one = np.zeros((2, 3))
    assert stacked([one]) is one
    for other in (np.zeros((2, 4)), np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match="differ"):
            stacked([one, other])


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "archive.npy", a=np.zeros(3))
    (tmp_path / "archive.npy.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "objects.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("archive.npy", "objects.npy", "empty.npy", "none.npy"):
        with refused("damaged-npz"):
            read_npy(tmp_path / name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npy")
        with refused("not-regular-file"):
            read_npy(tmp_path / "pipe.npy")


def test_arrays_that_are_needed_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=np.zeros(3))
    assert list(read_npz(tmp_path / "a.npz", "y")) == ["y"]
    with refused("missing-array") as caught:
        read_npz(tmp_path / "a.npz", "y", "sample_id")
    assert "sample_id" in str(caught.value.allowed)


SEED = npy(np.zeros((3, 4), np.float32))


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=6)), max_size=4))
def test_any_bytes_are_an_array_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    held = bytearray(SEED)
    for place, data in changes:
        place %= len(held)
        held[place : place + len(data)] = data
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.unlink(missing_ok=True)
    path.write_bytes(held)
    try:
        assert read_npy(path).nbytes <= len(held)
    except FerError as error:
        assert error.where == str(path)
