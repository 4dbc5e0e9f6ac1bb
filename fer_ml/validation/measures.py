"""The measures of a whole manifest, from the counts of its rows."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profile import SPLITS
from fer_ml.storage.gates import Outcome, at_most, not_applicable

MAX_IMBALANCE = 100.0
#: Largest change against the last accepted manifest that is no drift.
DRIFT_LIMITS: dict[str, float] = {
    "rows": 0.1,
    "class shares": 0.05,
    "brightness": 5.0,
    "width": 0.1,
}
_KINDS = ("source", "split", "label")
_AVERAGED = ("brightness", "width")


def count_rows(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Count the rows of a manifest, given part by part, by source, split and label: ``rows``.

    ``brightness`` and ``width`` are sums, ``brightness_known`` and ``width_known`` the rows that
    have the value.
    """
    sums = [pl.col(name).sum().cast(pl.Float64) for name in _AVERAGED]
    known = [pl.col(name).count().alias(f"{name}_known") for name in _AVERAGED]
    return add_counts(
        part.group_by(_KINDS, maintain_order=True).agg(pl.len().alias("rows"), *sums, *known)
        for part in parts
    )


def add_counts(counted: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up what ``count_rows`` returned for parts of a manifest."""
    return pl.concat(counted).group_by(_KINDS, maintain_order=True).agg(pl.all().sum())


@dataclass(frozen=True)
class Reference:
    """The data a manifest is compared with; ``None`` where there is nothing to compare with.

    ``sources`` should have rows. ``lost`` counts rows that the inputs and recipe give and the
    manifest lacks, or the other way round; it is infinite when an input is gone. ``accepted`` are
    the counts (``count_rows``) of the previous manifest that passed its gates.
    """

    sources: tuple[str, ...] | None = None
    lost: float | None = None
    accepted: pl.DataFrame | None = None


def class_coverage(counts: pl.DataFrame, reference: Reference) -> Outcome:
    """Count the classes that are missing from a split of the manifest."""
    pairs = set(counts.select("split", "label").unique().iter_rows())
    absent = [
        f"{split}: no {label}"
        for split in SPLITS
        if any(split == s for s, _ in pairs)
        for label in CLASSES
        if (split, label) not in pairs
    ]
    return at_most("class_coverage", len(absent), 0, examples=absent)


def imbalance(counts: pl.DataFrame, reference: Reference) -> Outcome:
    """Compute the ratio of train rows of the largest class to the smallest present one."""
    train = counts.filter(pl.col("split") == "train", pl.col("label").is_in(list(CLASSES)))
    sizes = train.group_by("label").agg(pl.col("rows").sum()).sort("rows", "label")
    if sizes.is_empty():
        return not_applicable("imbalance", "no training rows")
    (small, few), *_, (large, most) = [*sizes.iter_rows(), *sizes.iter_rows()]
    return at_most(
        "imbalance", round(most / few, 2), MAX_IMBALANCE, f"{most:,} {large}, {few:,} {small}"
    )


def sources_present(counts: pl.DataFrame, reference: Reference) -> Outcome:
    """Count the sources that the recipe names and that have no row."""
    if reference.sources is None:
        return not_applicable("sources_present", "no recipe names sources")
    sources = set(counts["source"])
    absent = [name for name in reference.sources if name not in sources]
    return at_most("sources_present", len(absent), 0, examples=absent)


def reconciled(counts: pl.DataFrame, reference: Reference) -> Outcome:
    """Count the rows lost or added against the inputs and the recipe."""
    if reference.lost is None:
        return not_applicable("reconciled", "a file alone has no inputs to compare with")
    gone = "" if math.isfinite(reference.lost) else "what it was made from is no longer here"
    return at_most("reconciled", reference.lost, 0, gone)


def drift(counts: pl.DataFrame, reference: Reference) -> Outcome:
    """Count the properties that moved beyond ``DRIFT_LIMITS`` since the last accepted manifest."""
    if reference.accepted is None:
        return not_applicable("drift", "no accepted manifest before this one")
    old, new = _profile(reference.accepted), _profile(counts)
    moved = {
        "rows": abs(new["rows"] - old["rows"]) / old["rows"],
        "class shares": sum(abs(new[label] - old[label]) for label in CLASSES) / 2,
        "brightness": abs(new["brightness"] - old["brightness"]),
        "width": abs(new["width"] - old["width"]) / max(old["width"], 1),
    }
    over = [
        f"{name} by {moved[name]:.3f} (limit {limit})"
        for name, limit in DRIFT_LIMITS.items()
        if moved[name] > limit
    ]
    return at_most("drift", len(over), 0, examples=over)


def _profile(counts: pl.DataFrame) -> dict[str, float]:
    by_label = dict(counts.group_by("label").agg(pl.col("rows").sum()).iter_rows())
    sums = counts.drop(_KINDS).sum().row(0, named=True)
    means = {name: sums[name] / max(sums[f"{name}_known"], 1) for name in _AVERAGED}
    shares = {label: by_label.get(label, 0) / max(sums["rows"], 1) for label in CLASSES}
    return {"rows": sums["rows"], **means, **shares}


MEASURES: Mapping[str, Callable[[pl.DataFrame, Reference], Outcome]] = {
    rule.__name__: rule for rule in (class_coverage, imbalance, sources_present, reconciled, drift)
}


def count_labels(counts: pl.DataFrame) -> dict[str, int]:
    """Return ``{"source|split|label": n}``, with the first pipeline's key."""
    keys = (pl.col(name).fill_null("None") for name in _KINDS)
    named = counts.select(pl.concat_str(list(keys), separator="|").alias("key"), "rows")
    return dict(named.group_by("key").agg(pl.col("rows").sum()).sort("key").iter_rows())
