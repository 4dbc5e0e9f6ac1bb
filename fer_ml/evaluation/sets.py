"""Evaluation sets: the rows on which models are measured, and the groups that they fall in."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import polars as pl

from fer_ml.evaluation.models import CHOOSING
from fer_ml.manifests.curation import read_curated, shorter_side
from fer_ml.recipes.profile import VAL_SET
from fer_ml.storage.job import Job

#: The set whose numbers are compared first, and drawn.
MAIN_SET = "test_all_sources"
#: All rows of a split, or those without a twin in another split.
Rows = Literal["official", "deduplicated"]
ROWS: tuple[Rows, ...] = ("official", "deduplicated")
#: What is added to a set's name for its rows without a twin in another split.
DEDUPLICATED = ".deduplicated"
#: Bounds of the groups of faces by size.
SIZES_PX = (24, 48, 96, 192)
#: Groups of every set, and the column of ``rows_of`` that each is by.
GROUPS = {"brightness": "third", "size": "size"}


@dataclass(frozen=True)
class EvaluationSet:
    """Rows on which models are measured, and which part of a split they are."""

    name: str
    manifest: str
    split: str
    rows: Rows
    frame: pl.DataFrame


def set_names(job: Job[Any]) -> list[str]:
    """Return the evaluation sets given by the manifests among the inputs of ``job``, in order."""
    manifests = [asset for asset in job.inputs if asset.endswith("_manifest") and asset != CHOOSING]
    return [VAL_SET, *(asset.removesuffix("_manifest") for asset in manifests)]


def evaluation_set(job: Job[Any], name: str, rows: Rows = "official") -> EvaluationSet:
    """Return one evaluation set, from a manifest among the inputs of ``job``; it may be empty.

    Raises ``FerError`` when the manifest is not among them.
    """
    val = name == VAL_SET
    manifest, split = (CHOOSING, "val") if val else (f"{name}_manifest", "test")
    part = rows_of(job, name, manifest, split)
    if rows == "official":
        return part
    frame = part.frame.filter(pl.col("twin_in").is_null())
    return replace(part, name=name + DEDUPLICATED, rows=rows, frame=frame)


def rows_of(job: Job[Any], name: str, manifest: str, split: str) -> EvaluationSet:
    """Return all rows of ``split`` in a manifest, with the columns that ``GROUPS`` names."""
    frame = read_curated(job, manifest).filter(pl.col("split") == split)
    frame = frame.with_columns(_brightness_third(frame["brightness"]), size_group())
    return EvaluationSet(name, manifest, split, "official", frame)


def _brightness_third(values: pl.Series) -> pl.Series:
    """Return each face's third of the set by mean grey, by name; null if the grey is unknown."""
    low, high = (values.quantile(q, "nearest") for q in (1 / 3, 2 / 3))
    if low is None or high is None:
        return pl.Series("third", [None] * len(values), pl.String)
    third = (
        pl.when(values.is_null())
        .then(None)
        .when(values <= low)
        .then(pl.lit(f"1 darkest, to {low:.0f}"))
        .when(values <= high)
        .then(pl.lit(f"2 middle, to {high:.0f}"))
        .otherwise(pl.lit("3 brightest"))
    )
    return pl.select(third.alias("third")).to_series()


def size_group() -> pl.Expr:
    """Return the column ``size``: a range in px of each face's shorter side (``shorter_side``)."""
    side = shorter_side()
    name = pl.lit(f"1 below {SIZES_PX[0]} px")
    for place, (low, high) in enumerate(pairwise((*SIZES_PX, None)), 2):
        to = "px and more" if high is None else f"to {high - 1} px"
        name = pl.when(side < low).then(name).otherwise(pl.lit(f"{place} {low} {to}"))
    return name.alias("size")
