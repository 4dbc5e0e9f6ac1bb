"""Judge a manifest part by part: memory grows with its findings and its near-identical faces."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fer_ml.base.buckets import buckets_for, scratch
from fer_ml.base.frames import apart
from fer_ml.manifests.schema import BOX
from fer_ml.storage.gates import Outcome, at_most
from fer_ml.validation.gates import manifest_gates
from fer_ml.validation.measures import MEASURES, Reference, add_counts, count_rows
from fer_ml.validation.rules import (
    FINDING_COLUMNS,
    ROW_FAULTS,
    RULES,
    SHARED_RULES,
    Evidence,
    Findings,
)
from fer_ml.validation.suspects import COMPARED, Suspects, put_together

#: What makes two faces twins.
_SAME = ("group_id", "photo", "near")


@dataclass(frozen=True)
class Verdict:
    """The outcomes of all rules in the order of the gates, every finding, and counts.

    ``findings`` has ``rule``, ``line``, ``image_path`` and ``detail``; ``places`` the box of each
    line found. ``counts`` are those of ``count_rows``; ``twins`` has by ``source`` its
    ``test_rows`` and those ``with_twin``; ``attempted`` and ``decoded`` count distinct images.
    """

    outcomes: tuple[Outcome, ...]
    findings: pl.DataFrame
    places: pl.DataFrame
    counts: pl.DataFrame
    twins: pl.DataFrame
    malformed: int
    attempted: int
    decoded: int

    @property
    def faulty_lines(self) -> int:
        """The number of lines that cannot be used as they are."""
        return self.findings.filter(pl.col("rule").is_in(list(ROW_FAULTS)))["line"].n_unique()


def judge_manifest(
    parts: Callable[[], Iterable[Evidence]],
    asset: str,
    work: Path,
    *,
    reference: Reference | None = None,
    rows: int = 0,
) -> Verdict:
    """Judge one manifest by all gates of ``asset``. Each value counts findings.

    ``parts()`` yields the manifest in parts, each time anew; ``rows`` is about how many rows it
    has; ``work`` is a folder for scratch files.
    """
    found: dict[str, list[Findings]] = defaultdict(list)
    places: list[pl.DataFrame] = []
    counts: list[pl.DataFrame] = []
    twins: list[pl.DataFrame] = []
    alone = [name for name in RULES if name not in (*SHARED_RULES, "csv_dialect")]
    malformed = 0
    with scratch(work) as folder:
        suspects = Suspects(folder, buckets_for(rows))
        for part in parts():
            for name in alone:
                found[name].append(apart(RULES[name](part)))
            places.append(apart(_places(part.rows, [found[name][-1] for name in alone])))
            counts.append(count_rows([part.rows]))
            twins.append(_count_twins(part.rows, pl.col("twin_in").is_not_null()))
            suspects.add(part.rows)
            malformed += part.malformed.height
        shared = part.rows.select(COMPARED).clear()
        if suspects.search():
            shared = put_together(suspects, (again.rows for again in parts()))
    whole = Evidence(shared, part.malformed.clear(), part.mistyped.clear(), part.dialect)
    for name in (*SHARED_RULES, "csv_dialect"):
        found[name].append(RULES[name](whole))
    places.append(_places(shared, [found[name][-1] for name in SHARED_RULES]))
    twins.append(_more_twins(shared))
    by_rule = {name: pl.concat(found[name]) for name in RULES}
    total = add_counts(counts)
    return Verdict(
        tuple(_outcomes(by_rule, asset, total, reference or Reference())),
        pl.concat(
            rows.select(pl.lit(name).alias("rule"), *FINDING_COLUMNS)
            for name, rows in by_rule.items()
        ),
        pl.concat(places).unique("line"),
        total,
        pl.concat(twins).group_by("source").agg(pl.all().sum()).sort("source"),
        malformed,
        suspects.attempted,
        suspects.decoded,
    )


def _outcomes(
    by_rule: dict[str, Findings], asset: str, counts: pl.DataFrame, reference: Reference
) -> Iterable[Outcome]:
    for gate in manifest_gates(asset):
        if gate.rule in by_rule:
            rows = by_rule[gate.rule]
            yield at_most(gate.rule, rows.height, 0, examples=_examples(rows))
        else:
            yield MEASURES[gate.rule](counts, reference)


def _examples(findings: Findings) -> list[str]:
    return [
        f"line {line}: {detail}" if path is None else f"line {line}: {path}: {detail}"
        for line, path, detail in findings.head(5).iter_rows()
    ]


def _places(rows: pl.DataFrame, findings: list[Findings]) -> pl.DataFrame:
    lines = pl.concat(part["line"].cast(pl.Int64) for part in findings)
    return rows.select("line", *BOX).filter(pl.col("line").is_in(lines.implode()))


def _count_twins(rows: pl.DataFrame, twin: pl.Expr) -> pl.DataFrame:
    """Count test rows by source, and those that have a twin."""
    test = rows.select("split", pl.col("source").fill_null("None"), twin.alias("twin"))
    return (
        test.filter(pl.col("split") == "test")
        .group_by("source")
        .agg(
            pl.len().cast(pl.Int64).alias("test_rows"),
            pl.col("twin").sum().cast(pl.Int64).alias("with_twin"),
        )
    )


def _more_twins(rows: pl.DataFrame) -> pl.DataFrame:
    """Count the test rows whose twin is in this manifest and was not taken out of it before.

    ``rows`` have all rows of the photos, groups and near-identical faces that lie in several
    splits.
    """
    rest = rows.filter(pl.col("split") != "test")
    has = pl.any_horizontal(
        pl.col(key).is_in(rest[key].drop_nulls().implode()).fill_null(False) for key in _SAME
    )
    more = _count_twins(rows, has & pl.col("twin_in").is_null())
    return more.with_columns(pl.lit(0, pl.Int64).alias("test_rows"))
