"""Check that a source fits its adapter, by evidence from all of its rows together.

The label table of another dataset may still contain some of this dataset's labels and would rename
those rows wrongly. So rows outside the table cast doubt on all rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.base.labels import CLASSES, LabelTable
from fer_ml.base.visible import visible
from fer_ml.sources import Adapter, others_of

#: So many rows may be slips: this number, or this share of all rows.
STRAY_ROWS, STRAY_SHARE = 2, 0.001
#: A file of the source's artifact.
LABELS_FILE = "labels.csv"
LABELS_SCHEMA: dict[str, pl.DataType] = {
    "native_label": pl.String(),
    "means": pl.String(),
    "rows": pl.Int64(),
    "refused": pl.Int64(),
    "where": pl.String(),
}
#: What an adapter says of a row that it does not understand.
NOT_UNDERSTOOD = ("unknown split", "malformed line")


def count_labels(listing: pl.DataFrame, table: LabelTable | None) -> pl.DataFrame:
    """Return each label of a listing and each that ``table`` expects, with its class and counts.

    ``refused`` is the number of its ``rows`` without a class, ``where`` names the first of them.
    """
    bad = pl.col("fault").str.starts_with("bad label").fill_null(False)
    labels = (
        listing.filter(pl.col("native_label").is_not_null())
        .group_by("native_label", maintain_order=True)
        .agg(
            pl.coalesce("label", "excluded").drop_nulls().first().alias("means"),
            pl.len().alias("rows"),
            bad.sum().alias("refused"),
            pl.col("where").first(),
        )
    )
    if table is not None and not table.words:
        absent = [label for label in table.meanings if label not in set(labels["native_label"])]
        rows = [(label, table.meanings[label], 0, 0, None) for label in absent]
        never = pl.DataFrame(rows, LABELS_SCHEMA, orient="row")
        labels = pl.concat([labels, never], how="vertical_relaxed")
    typed = labels.select(pl.col(name).cast(dtype) for name, dtype in LABELS_SCHEMA.items())
    shown = pl.col("native_label", "where").map_elements(visible, return_dtype=pl.String)
    return typed.with_columns(shown).sort("native_label")


def what_fits(
    adapter: Adapter, table: LabelTable | None, root: Path, labels: pl.DataFrame
) -> dict[str, Any]:
    """Return the part of ``clean_report.json`` on labels: allowed ones, and fitting adapters."""
    seen = set(labels.filter(pl.col("rows") > 0)["native_label"])
    return {
        "allowed": table.allowed if table else "",
        "adapters": others_of(adapter, root, seen) if misfits(labels, {}, 0) else [],
    }


def misfits(labels: pl.DataFrame, left_out: Mapping[str, int], rows: int) -> list[str]:
    """Return the reasons why a source does not fit its adapter; empty if it fits.

    ``labels`` as ``count_labels`` returns them, ``left_out`` the quarantined rows by rule.
    """
    stray = max(STRAY_ROWS, int(rows * STRAY_SHARE))
    outside = labels.filter(pl.col("refused") > 0).sort("refused", descending=True)
    classes = labels.filter(pl.col("means").is_in(list(CLASSES)), pl.col("rows") > 0)["rows"]
    # A slip is rarer than any class.
    rarest = min(classes.to_list(), default=1)
    if outside["refused"].sum() <= stray and (outside["refused"] < rarest).all():
        outside = outside.clear()
    reasons = [
        f"label '{label}' is in no table: {refused:,} rows, the first is {where}"
        for label, refused, where in outside.select("native_label", "refused", "where").iter_rows()
    ]
    reasons += [
        f"label '{label}' ({means}) is on no row"
        for label, means in labels.filter(rows=0).select("native_label", "means").iter_rows()
        if classes.len()  # Else there is no need to say more.
        if classes.len()  # Else there is no need to say more.
    ]
    reasons += [
        f"{rule}: {left_out[rule]:,} rows"
        for rule in NOT_UNDERSTOOD
        if left_out.get(rule, 0) > stray
    ]
    return reasons
