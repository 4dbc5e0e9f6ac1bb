"""Buckets: all records of a key in one place, whatever their number, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.base import buckets
from fer_ml.base.buckets import (
    ROWS_A_BUCKET,
    Buckets,
    RowValues,
    bucket_of,
    buckets_for,
    scratch,
)
from fer_ml.base.files import owned_name
from tests.refusals import refused

RECORD = np.dtype([("key", "u8"), ("row", "i8")])


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 7]), max_size=20)),
    st.integers(1, 9),
    st.sampled_from([0, 200, 1 << 20]),
)
@settings(max_examples=60)
def test_each_key_is_in_one_bucket_in_the_order_of_adding(
    parts: list[list[int]], count: int, held_bytes: int
) -> None:
    keys = np.array([key for part in parts for key in part], np.uint64)
    records = np.zeros(len(keys), RECORD)
    records["key"], records["row"] = keys, np.arange(len(keys))
    with pytest.MonkeyPatch.context() as patch, _folder() as folder:
        patch.setattr(buckets, "_HELD_BYTES", held_bytes)
        filled = Buckets(folder, "x", RECORD, count)
        start = 0
        for part in parts:
            some = records[start : start + len(part)]
            filled.add(some, bucket_of(some["key"], count))
            start += len(part)
        read = list(filled)
        assert len(read) == count
        homes = [set(part["key"].tolist()) for part in read]
        assert sum(map(len, homes)) == len(set(keys.tolist()))
        assert all((np.diff(part["row"]) > 0).all() for part in read)
        bounds = [(min(home), max(home)) for home in homes if home]
        assert bounds == sorted(bounds), "buckets are ranges of keys"
        found = np.concatenate(read)
        assert np.array_equal(np.sort(found["row"]), np.arange(len(keys)))


def _folder():
    import tempfile

    return scratch(Path(tempfile.gettempdir()))


@pytest.mark.parametrize(
    ("rows", "count"), [(0, 1), (1, 1), (ROWS_A_BUCKET, 1), (ROWS_A_BUCKET + 1, 2)]
)
def test_no_bucket_is_larger_than_it_should_be(rows: int, count: int) -> None:
    assert buckets_for(rows) == count


def test_a_scratch_folder_goes_with_its_process(tmp_path: Path) -> None:
    """Also after an error; and one of a process that was killed goes with the next one."""
    killed = tmp_path / owned_name().replace("@", "@99999999")
    killed.mkdir()
    (killed / "x.0").write_bytes(b"left")
    (tmp_path / "kept").mkdir()

    def fail() -> None:
        with scratch(tmp_path) as folder:
            (folder / "x.0").write_bytes(b"1")
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_two_writers_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_HELD_BYTES", 8)
    with scratch(tmp_path) as one, scratch(tmp_path) as two:
        made = [Buckets(folder, "x", np.dtype("i8"), 2) for folder in (one, two)]
        for _ in range(3):
            for value, held in enumerate(made):
                held.add(np.array([value, value]), np.array([1, 1]))
        assert [held.read(1).tolist() for held in made] == [[0] * 6, [1] * 6]
        assert made[0].read(0).tolist() == []


def test_a_file_that_lost_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_HELD_BYTES", 0)
    held = Buckets(tmp_path, "x", np.dtype("i8"), 2)
    held.add(np.arange(4), np.array([0, 1, 1, 1]))
    (tmp_path / "x.1").write_bytes(b"12345678")
    with refused("scratch-damaged"):
        held.read(1)
    (tmp_path / "x.0").unlink()
    with pytest.raises(FileNotFoundError):
        held.read(0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), unique_by=lambda pair: pair[0]))
@settings(max_examples=50)
def test_values_of_rows_are_read_in_their_order(pairs: list[tuple[int, int]]) -> None:
    wanted = np.zeros(50, np.int64)
    with pytest.MonkeyPatch.context() as patch, _folder() as folder:
        patch.setattr(buckets, "ROWS_A_BUCKET", 8)
        patch.setattr(buckets, "_HELD_BYTES", 64)
        values = RowValues(folder, "x", np.dtype("i8"))
        for row, value in pairs:
            values.set(np.array([row]), np.array([value]))
            wanted[row] = value
        found = [values.read(start, min(7, 50 - start)) for start in range(0, 50, 7)]
    assert np.concatenate(found).tolist() == wanted.tolist()
