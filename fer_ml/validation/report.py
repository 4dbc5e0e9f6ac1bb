"""Validation reports: the gates' findings, in the first pipeline's keys and this platform's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.manifests.groups import Thumbs, near_by_part
from fer_ml.manifests.inspection import Probe, join_probes, probe
from fer_ml.manifests.schema import BOX
from fer_ml.recipes.profile import Near
from fer_ml.validation.bases import apply_bases, find_bases
from fer_ml.validation.gates import manifest_gates
from fer_ml.validation.judging import Verdict, judge_manifest
from fer_ml.validation.measures import count_labels
from fer_ml.validation.rules import Evidence
from fer_ml.validation.table import Table, read_table


def gather_evidence(
    parts: Callable[[], Iterable[tuple[Table, pl.DataFrame]]],
    faces: Callable[[], Iterable[pl.Series]],
    thumbs: Thumbs,
    near_cache: Path,
    near: Near,
) -> Callable[[], Iterator[Evidence]]:
    """Return a manifest's evidence, part by part, each time that it is called.

    ``parts()`` yields the manifest as read, and ``Probe.looks()`` of the images behind its rows;
    ``faces()`` yields the column ``face`` of all of these; ``thumbs`` are ``Probe.thumbs``.
    """
    close = near_by_part(faces, thumbs, near_cache, near)

    def evidence() -> Iterator[Evidence]:
        for table, looks in parts():
            seen = looks.rename({"brightness": "seen"})
            rows = pl.concat([table.frame, seen], how="horizontal").with_columns(
                close(looks["face"]).alias("near"), pl.coalesce("brightness", "seen")
            )
            yield Evidence(rows, table.malformed, table.mistyped, table.dialect)

    return evidence


def report(verdict: Verdict, *, asset: str, manifest: str, root: str) -> Any:
    """Return one ``manifest_validation*.json``: rules on rows, ``decode`` on distinct images."""
    counts = verdict.counts
    value = {outcome.rule: outcome.value for outcome in verdict.outcomes}
    total = int(counts["rows"].sum()) + verdict.malformed
    blocking = {gate.rule for gate in manifest_gates(asset) if gate.blocking}
    by_source = counts.group_by(pl.col("source").fill_null("None")).agg(pl.col("rows").sum())
    return {
        "schema_version": 2,
        "manifest": manifest,
        "out_root": root,
        "rows_total": total,
        "rows_valid": total - verdict.faulty_lines,
        "bad_labels": value["bad_labels"],
        "missing_paths": sum(int(value[rule]) for rule in ("missing_paths", "escaping_paths")),
        "decode": {
            "attempted": verdict.attempted,
            "ok": verdict.decoded,
            "fail": verdict.attempted - verdict.decoded,
        },
        "counts": {
            "by_source": dict(by_source.sort("source").iter_rows()),
            "by_source_split_label": count_labels(counts),
        },
        "test_twins": {
            source: {"test_rows": rows, "with_twin": twins}
            for source, rows, twins in verdict.twins.iter_rows()
        },
        "canonical": list(CLASSES),
        "rules": {
            o.rule: {
                "passed": o.passed,
                "blocking": o.rule in blocking,
                "value": o.value,
                "limit": o.limit,
                "detail": o.detail,
                "examples": list(o.examples),
            }
            for o in verdict.outcomes
        },
        "passed": all(o.passed is not False for o in verdict.outcomes if o.rule in blocking),
    }


def validate_file(
    csv: Path, roots: Sequence[Path], cache: Path, *, near: Near | None = None, since: float = 0.0
) -> dict[str, Any]:
    """Validate any manifest CSV whose images lie below some of ``roots``.

    Columns image_path, label, split and source are required; other missing columns are derived from
    the pixels. Paths may be relative to a root, to a folder above or right below it, or absolute
    paths of another machine; the report states the base found for each. ``near`` defines when two
    faces are copies (default: photos). Returns the report; ``findings`` holds every finding.
    """
    table = read_table(csv)
    if table.frame.is_empty() and table.malformed.is_empty():
        raise FerError(
            "manifest has no rows", code="no-rows", where=csv, fix="name a manifest with rows"
        )
    for root in roots:
        if not root.is_dir():
            raise FerError(
                "no such folder for the images",
                code="missing-folder",
                where=root,
                fix="pass --root FOLDER",
            )
    bases = find_bases(table.frame["image_path"], roots)
    frame = apply_bases(table.frame, bases)
    looks = _probe_bases(frame, roots, cache / "probe", since)
    found = looks.looks()
    frame = _fill_identity(frame.drop("base"), found)
    table = Table(frame, table.malformed, table.mistyped, table.dialect, table.columns)
    evidence = gather_evidence(
        lambda: [(table, found)],
        looks.faces,
        looks.thumbs,
        cache / "near",
        near or Near(),
    )
    verdict = judge_manifest(evidence, "any_manifest", cache / "scratch")
    document = report(
        verdict,
        asset="any_manifest",
        manifest=str(csv),
        root=", ".join(map(str, roots)),
    )
    return {
        **document,
        "bases": [base.to_json() for base in bases],
        "checked": looks.how(),
        "findings": verdict.findings.to_dicts(),
    }


def _probe_bases(frame: pl.DataFrame, roots: Sequence[Path], cache: Path, since: float) -> Probe:
    """Inspect each row below the root of its base; rows without one below the first root."""
    base = frame["base"].fill_null(str(roots[0]))
    frame = frame.select("image_path", *BOX)
    # A manifest of nothing but malformed lines has no base, and is judged all the same.
    found = base.unique(maintain_order=True).to_list() or [str(roots[0])]
    if len(found) == 1:
        return probe(lambda: [frame], Path(found[0]), cache, rows=frame.height, since=since)
    parts, order = [], []
    for root in found:
        rows = np.flatnonzero((base == root).to_numpy())
        named = partial(iter, [frame[rows]])
        parts.append(probe(named, Path(root), cache, rows=len(rows), since=since))
        order.append(rows)
    return join_probes(parts, order)


def _fill_identity(frame: pl.DataFrame, looks: pl.DataFrame) -> pl.DataFrame:
    """Fill in identity and size from the pixels where the manifest has none of its own.

    For a row whose image cannot be read the path replaces the identity, so that the rule on images
    counts it once and the rule on empty cells does not count it again.
    """
    path = pl.concat_str(pl.lit("path:"), pl.col("image_path").fill_null(""))
    return (
        pl.concat(
            [frame, looks.select("photo", "face", "image_width", "image_height")], how="horizontal"
        )
        .with_columns(
            pl.coalesce("group_id", "photo", path).alias("group_id"),
            pl.coalesce("sample_id", "face", path).alias("sample_id"),
            pl.coalesce("width", "image_width", pl.lit(0)).alias("width"),
            pl.coalesce("height", "image_height", pl.lit(0)).alias("height"),
        )
        .drop("photo", "face", "image_width", "image_height")
    )
