"""Sort a manifest that does not fit into memory: sorted runs on disk, merged by ranges."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from fer_ml.base.frames import apart
from fer_ml.base.reading import regular

#: Rows in memory, of some 500 bytes each.
ROWS_AT_ONCE = 1 << 18
#: Of so many rows of a run one is remembered, to find a range in it.
_STEP = 1 << 10


def sorted_parts(
    parts: Iterable[pl.DataFrame], by: Sequence[str], folder: Path, at_once: int = ROWS_AT_ONCE
) -> Iterator[pl.DataFrame]:
    """Yield the rows of ``parts``, at least one part of them, sorted by the columns ``by``.

    Rows that are equal in these keep their order. The first two columns are texts without null or
    NUL. ``folder`` is for scratch files. In memory are some ``at_once`` rows, and all rows that are
    equal in the first two columns.
    """
    key = pl.concat_str(list(by[:2]), separator="\0").alias("key")
    step, marks = min(_STEP, at_once), list[pl.DataFrame]()
    for run, whole in _runs(parts, at_once):
        if whole:
            yield run.sort(by, maintain_order=True)
            return
        file = _file(folder, len(marks))
        marks.append(_write(run.sort(by, maintain_order=True).with_columns(key), file, step))
        del run  # Its memory is free while the next one is read, and while ranges are.
    keys = pl.concat(mark["key"] for mark in marks).sort()
    cuts = keys.gather_every(at_once // step).unique(maintain_order=True)[1:]
    for low, high in itertools.pairwise([None, *cuts, None]):
        # No name holds a range while the next one is read.
        yield (
            pl.concat(
                _between(_file(folder, run), mark, low, high) for run, mark in enumerate(marks)
            )
            .sort(by, maintain_order=True)
            .drop("key")
        )


def _write(run: pl.DataFrame, file: Path, step: int) -> pl.DataFrame:
    """Write a sorted run; return the ``key`` and ``row`` of every ``step``-th of its rows."""
    run.write_ipc(file, compression="lz4", record_batch_size=step)
    return apart(run.select("key", row=pl.int_range(pl.len())).gather_every(step))


def _runs(parts: Iterable[pl.DataFrame], at_once: int) -> Iterator[tuple[pl.DataFrame, bool]]:
    """Yield ``parts`` joined to some ``at_once`` rows each, and whether that is all of them."""
    held: list[pl.DataFrame] = []
    whole = True
    for part in parts:
        if held and sum(map(len, held)) + len(part) > at_once:
            yield pl.concat(held), False
            held, whole = [], False
        held.append(part)
    yield pl.concat(held), whole


def _between(file: Path, marks: pl.DataFrame, low: str | None, high: str | None) -> pl.DataFrame:
    """Return the rows of a run from the key ``low`` on and below ``high``."""
    key, rows = marks["key"], marks["row"]
    # The row before the first mark that is not below a bound may be in the range too.
    first = 0 if low is None else max(0, int((key < low).sum()) - 1)
    last = len(rows) if high is None else int((key < high).sum())
    start = int(rows[first]) if len(rows) else 0
    length = None if last >= len(rows) else int(rows[last]) - start
    run = pl.scan_ipc(regular(file), glob=False).slice(start, length)
    if low is not None:
        run = run.filter(pl.col("key") >= low)
    if high is not None:
        run = run.filter(pl.col("key") < high)
    return run.collect()


def _file(folder: Path, number: int) -> Path:
    return folder / f"run.{number}"
