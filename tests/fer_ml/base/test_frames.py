"""Rows that were taken from a large table do not keep it in memory."""

import os
from pathlib import Path

import polars as pl
import pytest

from fer_ml.base.frames import apart

STATM = Path("/proc/self/statm")


def test_values_types_and_columns_stay() -> None:
    rows = pl.DataFrame(
        {"text": ["ä", None, "x" * 100], "state": pl.Series(["a", "b", None]).cast(pl.Enum("ab"))}
    )
    assert apart(rows).equals(rows)
    assert apart(rows).schema == rows.schema
    assert apart(rows.clear()).schema == rows.schema


@pytest.mark.skipif(not STATM.exists(), reason="the memory of a process is read from /proc")
def test_memory_of_the_other_rows_is_free() -> None:
    size = 40_000
    few, parts = [], 20
    for part in range(parts):
        text = os.urandom(128 * size).hex()
        whole = pl.DataFrame({"text": [text[i : i + 256] for i in range(0, len(text), 256)]})
        if part == 3:
            before = _resident()  # What allocators keep for themselves has settled.
        few.append(apart(whole.filter(pl.int_range(pl.len()) % 1000 == 0)))
    assert sum(rows.height for rows in few) == parts * size / 1000
    assert _resident() - before < parts * 256 * size / 2


def _resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
