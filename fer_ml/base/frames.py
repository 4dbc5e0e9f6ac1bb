"""Few rows of a table, without the memory of all the rows that they were taken from."""

import io

import polars as pl


def apart(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a copy of ``rows`` that shares no memory with the table they were chosen from.

    A filter of polars keeps the texts of every row of its input alive. Rows that are collected from
    the parts of a manifest would hold all of its texts.
    """
    data = io.BytesIO()
    rows.write_ipc(data)
    return pl.read_ipc(io.BytesIO(data.getvalue()))
