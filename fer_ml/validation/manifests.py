"""Judge and report on manifests of the store, with their inputs and their predecessor."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from fer_ml.manifests.curation import UNIFIED, curate, manifest_file
from fer_ml.manifests.inspection import how_checked, probe
from fer_ml.manifests.schema import BOX, DECIDED, SCHEMA, read_manifest
from fer_ml.recipes.profile import Curation, Near
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import RunFolder, Store
from fer_ml.validation.gates import manifest_gates
from fer_ml.validation.report import gather_evidence, report
from fer_ml.validation.rules import Evidence, Reference, Verdict, judge_manifest
from fer_ml.validation.table import read_table

#: Findings that are shown as pictures, for each rule.
SHOWN_FINDINGS = 12

_LOOKED = ("missing_paths", "undecodable", "image_modes", "changed_pixels", "bad_boxes")


def report_name(asset: str) -> str:
    """Return the report's file name of a manifest asset: ``manifest_validation_hq_train.json``."""
    name = "all" if asset == UNIFIED else asset.removesuffix("_manifest")
    return f"manifest_validation_{name}.json"


def manifest_outcomes(artifact: Artifact, store: Store, near: Near) -> list[Outcome]:
    """Judge a manifest's gates on every row and image; outcomes state how these were checked."""
    _, verdict, how = _judge(artifact, store, near)
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
        evidence, verdict, how = _judge(artifact, store, near)
        document = report(evidence, verdict, asset=asset, manifest=manifest_file(asset), root=root)
        run.write_json(report_name(asset), {**document, "manifest_sha256": artifact.sha256})
        looked[asset] = how
        findings.append(
            verdict.findings.select(pl.lit(asset).alias("manifest"), pl.all()).join(
                evidence.rows.select("line", *BOX), on="line", how="left"
            )
        )
        run.summary[f"{asset}_rows"] = document["rows_total"]
        run.summary[f"{asset}_passed"] = document["passed"]
        if asset == UNIFIED:
            run.path("classes.png").write_bytes(class_source_heatmap(evidence.rows))
            run.path("faces.png").write_bytes(class_sheet(evidence.rows, store.root, per_cell=2))
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


def _judge(
    artifact: Artifact, store: Store, near: Near
) -> tuple[Evidence, Verdict, dict[str, Any]]:
    asset = artifact.record.asset
    table = read_table(artifact.file(manifest_file(asset)))
    looks = probe(table.frame, store.root, store.probe_cache, since=store.looked_since, label=asset)
    evidence = gather_evidence(
        table, looks, store.near_cache, near, _reference(artifact, store, table.frame)
    )
    return evidence, judge_manifest(evidence, asset), looks.how()


def _reference(artifact: Artifact, store: Store, frame: pl.DataFrame) -> Reference:
    recipe, asset = artifact.record.recipe, artifact.record.asset
    inputs = [store.find(i.asset, i.partition, i.sha256) for i in artifact.record.inputs]
    known = [parent for parent in inputs if parent is not None]
    return Reference(
        tuple(recipe["sources"]),
        _lost_rows(artifact, known, frame) if len(known) == len(inputs) else math.inf,
        _accepted(store, artifact, asset),
    )


def _lost_rows(artifact: Artifact, inputs: list[Artifact], frame: pl.DataFrame) -> int:
    """Return how many rows the manifest lacks or has in excess of what its inputs give."""
    key = list(SCHEMA)
    if artifact.record.asset == UNIFIED:
        wanted = pl.concat(
            [read_manifest(parent.file(manifest_file(parent.record.asset))) for parent in inputs]
        )
        key = [name for name in key if name not in DECIDED]
        out: int = artifact.read_json("clean_report.json")["manifest"]["rows_quarantined"]
    else:
        recipe = Curation.from_plain(artifact.record.recipe)
        unified = read_manifest(inputs[0].file(manifest_file(UNIFIED)))
        wanted, out = curate(unified, recipe, artifact.record.asset), 0
    lacking = wanted.join(frame, on=key, how="anti", nulls_equal=True).height
    added = frame.join(wanted, on=key, how="anti", nulls_equal=True).height
    return abs(lacking - out) + added + abs(wanted.height - frame.height - lacking + added)


def _accepted(store: Store, artifact: Artifact, asset: str) -> pl.DataFrame | None:
    """Return the previous manifest that passed all blocking gates, or ``None``."""
    blocking = [gate.rule for gate in manifest_gates(asset) if gate.blocking]
    for candidate in store.all(asset):
        receipts = candidate.receipts()
        if (
            candidate.sha256 != artifact.sha256
            and candidate.record.created_at <= artifact.record.created_at
            and all(rule in receipts and receipts[rule].passed is not False for rule in blocking)
        ):
            return read_manifest(candidate.file(manifest_file(asset)))
    return None
