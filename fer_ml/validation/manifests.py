"""Judge and report on manifests of the store, with their inputs and their predecessor."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.buckets import Buckets, bucket_of, buckets_for, scratch
from fer_ml.manifests.curation import UNIFIED, manifest_file, taken
from fer_ml.manifests.inspection import how_checked, probe
from fer_ml.manifests.schema import BOX, DECIDED, SCHEMA, about_rows, manifest_parts
from fer_ml.recipes.profile import Curation, Near
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import RunFolder, Store
from fer_ml.validation.gates import manifest_gates
from fer_ml.validation.judging import Verdict, judge_manifest
from fer_ml.validation.measures import Reference, count_rows
from fer_ml.validation.report import gather_evidence, report
from fer_ml.validation.table import Table, table_parts

#: Findings that are shown as pictures, for each rule.
SHOWN_FINDINGS = 12

_LOOKED = ("missing_paths", "undecodable", "image_modes", "changed_pixels", "bad_boxes")


def report_name(asset: str) -> str:
    """Return the report's file name of a manifest asset: ``manifest_validation_hq_train.json``."""
    name = "all" if asset == UNIFIED else asset.removesuffix("_manifest")
    return f"manifest_validation_{name}.json"


def manifest_outcomes(artifact: Artifact, store: Store, near: Near) -> list[Outcome]:
    """Judge a manifest's gates on every row and image; outcomes state how these were checked."""
    verdict, how = _judge(artifact, store, near)
    return [
        replace(outcome, detail=how_checked(how)) if outcome.rule in _LOOKED else outcome
        for outcome in verdict.outcomes
    ]


def validate_manifests(
    run: RunFolder, store: Store, manifests: Sequence[Artifact], root: str, near: Near
) -> None:
    """Write one report for each manifest, every finding as a table, and pictures of both.

    The unified manifest is among ``manifests``; ``root`` names the store's folder in the reports.
    """
    # Plotting takes half a second to import, and judging needs none of it.
    from fer_ml.figures.charts import class_source_heatmap
    from fer_ml.validation.contact_sheets import class_sheet, findings_sheet

    findings, looked = [], {}
    for artifact in manifests:
        asset = artifact.record.asset
        verdict, how = _judge(artifact, store, near)
        document = report(verdict, asset=asset, manifest=manifest_file(asset), root=root)
        run.write_json(report_name(asset), {**document, "manifest_sha256": artifact.sha256})
        looked[asset] = how
        findings.append(
            verdict.findings.select(pl.lit(asset).alias("manifest"), pl.all()).join(
                verdict.places, on="line", how="left", maintain_order="left"
            )
        )
        run.summary[f"{asset}_rows"] = document["rows_total"]
        run.summary[f"{asset}_passed"] = document["passed"]
        if asset == UNIFIED:
            rows = (part.frame for part in table_parts(artifact.file(manifest_file(asset))))
            run.path("classes.png").write_bytes(class_source_heatmap(verdict.counts))
            run.path("faces.png").write_bytes(class_sheet(rows, store.root, per_cell=2))
    table = pl.concat(findings)
    run.write_text("findings.csv", table.drop(BOX).write_csv())
    sheet = findings_sheet(table, store.root, limit=SHOWN_FINDINGS)
    if sheet is not None:
        run.path("findings.png").write_bytes(sheet)
    run.summary["findings"] = table.height
    run.summary["checked"] = how_checked(looked[UNIFIED])
    run.write_json(
        "timing.json",
        {
            "validated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "checked": looked,
        },
    )


def _judge(artifact: Artifact, store: Store, near: Near) -> tuple[Verdict, dict[str, Any]]:
    asset, recipe = artifact.record.asset, artifact.record.recipe
    csv = artifact.file(manifest_file(asset))

    def named() -> Iterator[pl.DataFrame]:
        return (part.frame.select("image_path", *BOX) for part in table_parts(csv))

    looks = probe(
        named,
        store.root,
        store.probe_cache,
        rows=about_rows(csv),
        since=store.looked_since,
        label=asset,
    )
    rows = len(looks.places)

    def parts() -> Iterator[tuple[Table, pl.DataFrame]]:
        start = 0
        for table in table_parts(csv):
            yield table, looks.looks(start, table.frame.height)
            start += table.frame.height

    evidence = gather_evidence(parts, looks.faces, looks.thumbs, store.near_cache, near)
    reference = Reference(
        tuple(recipe["sources"]), _lost_rows(artifact, store, rows), _accepted(store, artifact)
    )
    verdict = judge_manifest(evidence, asset, store.scratch, reference=reference, rows=rows)
    return verdict, looks.how()


_ROW = np.dtype([("key", "u8"), ("more", "u8"), ("rows", "i8")])


def _lost_rows(artifact: Artifact, store: Store, height: int) -> float:
    """Return how many rows the manifest lacks or has in excess of what its inputs give.

    ``height`` is its number of rows. Rows are compared by two hashes of all of their cells.
    """
    found = [store.find(i.asset, i.partition, i.sha256) for i in artifact.record.inputs]
    inputs = [parent for parent in found if parent is not None]
    if len(inputs) < len(found):
        return math.inf
    csv, out, key = artifact.file(manifest_file(artifact.record.asset)), 0, list(SCHEMA)
    if artifact.record.asset == UNIFIED:
        key = [name for name in key if name not in DECIDED]
        out = artifact.read_json("clean_report.json")["manifest"]["rows_quarantined"]
    count = buckets_for(height)
    with scratch(store.scratch) as folder:
        given = (part.frame for part in table_parts(csv))
        wanted, held = (
            _hashed(Buckets(folder, name, _ROW, count), rows, key)
            for name, rows in (("wanted", _wanted(artifact, inputs, folder)), ("held", given))
        )
        lacking = added = asked = 0
        for want, have in zip(wanted, held, strict=True):
            lacking += want["rows"][~_among(want, have)].sum()
            added += have["rows"][~_among(have, want)].sum()
            asked += want["rows"].sum()
    return int(abs(lacking - out) + added + abs(asked - height - lacking + added))


def _wanted(artifact: Artifact, inputs: list[Artifact], folder: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows that the inputs give, and where it is curated, only those that it takes."""
    if artifact.record.asset == UNIFIED:
        for parent in inputs:
            yield from manifest_parts(parent.file(manifest_file(parent.record.asset)))
        return
    recipe = Curation.from_plain(artifact.record.recipe)
    csv = inputs[0].file(manifest_file(UNIFIED))
    name, rows = artifact.record.asset, about_rows(csv)
    yield from taken(lambda: manifest_parts(csv), recipe, name, folder, rows)


def _hashed(buckets: Buckets, parts: Iterable[pl.DataFrame], key: Sequence[str]) -> Buckets:
    for part in parts:
        cells = part.select(key)
        hashes = pl.DataFrame({"key": cells.hash_rows(0), "more": cells.hash_rows(1)})
        counted = hashes.group_by("key", "more").agg(pl.len().alias("rows"))
        records = np.empty(counted.height, _ROW)
        for field in ("key", "more", "rows"):
            records[field] = counted[field].to_numpy()
        buckets.add(records, bucket_of(records["key"], buckets.count))
    return buckets


def _among(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each row whether ``others`` has an equal one."""
    a, b = (pl.DataFrame({name: rows[name] for name in ("key", "more")}) for rows in (some, others))
    matched = a.with_row_index("row").join(b.unique(), on=["key", "more"], how="semi")
    among = np.zeros(len(some), bool)
    among[matched["row"].to_numpy()] = True
    return among


def _accepted(store: Store, artifact: Artifact) -> pl.DataFrame | None:
    """Return the counts of the previous manifest that passed all blocking gates, or ``None``."""
    asset = artifact.record.asset
    blocking = [gate.rule for gate in manifest_gates(asset) if gate.blocking]
    for candidate in store.all(asset):
        receipts = candidate.receipts()
        if (
            candidate.sha256 != artifact.sha256
            and candidate.record.created_at <= artifact.record.created_at
            and all(rule in receipts and receipts[rule].passed is not False for rule in blocking)
        ):
            return count_rows(manifest_parts(candidate.file(manifest_file(asset))))
    return None
