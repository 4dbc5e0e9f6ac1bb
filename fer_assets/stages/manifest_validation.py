"""What judges the manifests, and ``manifest_validation``: a report for each of them."""

from datetime import UTC, datetime
from typing import Any

import polars as pl

from fer_assets.stages.curated_manifest import curated_assets
from fer_assets.stages.job import Job
from fer_ml.manifests.curation import UNIFIED, curate, manifest_file
from fer_ml.manifests.inspection import how_checked, probe
from fer_ml.manifests.schema import BOX, read_manifest
from fer_ml.recipes.profiles import Curation, Profile
from fer_ml.storage.gates import Outcome, gates_of
from fer_ml.storage.store import Artifact, RunFolder, Store
from fer_ml.validation.report import report, see
from fer_ml.validation.rules import Evidence, Reference, Verdict, judge_manifest
from fer_ml.validation.table import read_table

#: Findings that are shown as pictures, for each rule.
SHOWN_FINDINGS = 12


_LOOKED = ("missing_paths", "undecodable", "image_modes", "changed_pixels", "bad_boxes")


def report_name(asset: str) -> str:
    """The report of a manifest asset: ``manifest_validation_hq_train.json``."""
    name = "all" if asset == UNIFIED else asset.removesuffix("_manifest")
    return f"manifest_validation_{name}.json"


def validated_assets(profile: Profile) -> tuple[str, ...]:
    """Every manifest of a profile that gets a report."""
    return (UNIFIED, *curated_assets(profile))


def gate_manifest(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """The gates of a manifest asset, on every row and every image."""
    _, verdict, how = _judge(artifact, store, profile)
    return [
        outcome
        if outcome.rule not in _LOOKED
        else Outcome(
            outcome.rule,
            outcome.passed,
            outcome.value,
            outcome.limit,
            how_checked(how),
            outcome.examples,
        )
        for outcome in verdict.outcomes
    ]


def _judge(
    artifact: Artifact, store: Store, profile: Profile
) -> tuple[Evidence, Verdict, dict[str, Any]]:
    asset = artifact.record.asset
    table = read_table(artifact.file(manifest_file(asset)))
    looks = probe(table.frame, store.root, store.probe_cache, since=store.looked_since, label=asset)
    evidence = see(table, looks, store.near_cache, _reference(artifact, store, table.frame))
    return evidence, judge_manifest(evidence, asset), looks.how()


def _reference(artifact: Artifact, store: Store, frame: pl.DataFrame) -> Reference:
    recipe, asset = artifact.record.recipe, artifact.record.asset
    inputs = [store.find(i.asset, i.partition, i.sha256) for i in artifact.record.inputs]
    known = [held for held in inputs if held is not None]
    sources = tuple(recipe["sources"]) if "sources" in recipe else None
    return Reference(
        sources,
        _lost_rows(artifact, known, frame) if len(known) == len(inputs) else None,
        _accepted(store, artifact, asset),
    )


def _lost_rows(artifact: Artifact, inputs: list[Artifact], frame: pl.DataFrame) -> int:
    """How many rows the manifest lacks or has too many against what its inputs give."""
    if artifact.record.asset == UNIFIED:
        given = sum(
            held.read_json("clean_report.json")["reports"][0]["rows_kept"] for held in inputs
        )
        out = artifact.read_json("clean_report.json")["manifest"]["rows_quarantined"]
        return abs(given - out - frame.height)
    recipe = Curation.model_validate(artifact.record.recipe)
    unified = read_manifest(inputs[0].file(manifest_file(UNIFIED)))
    wanted = curate(unified, recipe, artifact.record.asset)
    key = ["image_path", "label", "split", "source", "sample_id", "group_id"]
    lacking = wanted.join(frame, on=key, how="anti", nulls_equal=True).height
    added = frame.join(wanted, on=key, how="anti", nulls_equal=True).height
    return lacking + added + abs(wanted.height - frame.height - lacking + added)


def _accepted(store: Store, artifact: Artifact, asset: str) -> pl.DataFrame | None:
    """The manifest before this one that passed all blocking gates."""
    blocking = [gate.rule for gate in gates_of(asset) if gate.blocking]
    for held in store.all(asset):
        receipts = held.receipts()
        if (
            held.sha256 != artifact.sha256
            and held.record.created_at <= artifact.record.created_at
            and all(rule in receipts and receipts[rule].passed for rule in blocking)
        ):
            return read_manifest(held.file(manifest_file(asset)))
    return None


def gate_source(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """The gates of ``manifest/<source>``: its report adds up; what was quarantined is shown."""
    report = artifact.read_json("clean_report.json")["reports"][0]
    parts = report["rows_kept"] + report["rows_excluded"] + report["rows_quarantined"]
    left_out = ", ".join(f"{n} {rule}" for rule, n in sorted(report["quarantined"].items()))
    return [
        Outcome(
            "reconciled",
            report["rows_in"] == parts,
            parts,
            report["rows_in"],
            "rows kept + excluded + quarantined against rows listed by the publisher",
        ),
        Outcome(
            "quarantine_empty",
            report["rows_quarantined"] == 0,
            report["rows_quarantined"],
            0,
            left_out,
        ),
    ]


def build_validation(run: RunFolder, job: Job) -> None:
    """One report for each manifest, every finding as a table, and pictures of both."""
    # Plotting takes half a second to import, and judging needs none of it.
    from fer_ml.figures.charts import class_source_heatmap
    from fer_ml.figures.contact_sheets import class_sheet, findings_sheet

    findings, looked = [], {}
    for asset in validated_assets(job.profile):
        artifact = job.input(asset)
        evidence, verdict, how = _judge(artifact, job.store, job.profile)
        found = report(
            evidence,
            verdict,
            asset=asset,
            manifest=manifest_file(asset),
            root="FER_HOME/" + job.profile.name,
        )
        run.write_json(report_name(asset), {**found, "manifest_sha256": artifact.sha256})
        looked[asset] = how
        findings.append(
            verdict.findings.select(pl.lit(asset).alias("manifest"), pl.all()).join(
                evidence.rows.select("line", *BOX), on="line", how="left"
            )
        )
        run.summary[f"{asset}_rows"] = found["rows_total"]
        run.summary[f"{asset}_passed"] = found["passed"]
        if asset == UNIFIED:
            run.path("classes.png").write_bytes(class_source_heatmap(evidence.rows))
            run.path("faces.png").write_bytes(
                class_sheet(evidence.rows, job.store.root, per_cell=2)
            )
    table = pl.concat(findings)
    run.write_text("findings.csv", table.drop(BOX).write_csv())
    sheet = findings_sheet(table, job.store.root, limit=SHOWN_FINDINGS)
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


def gate_validation(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """All reports passed, and each speaks of the manifest that is current now."""
    failed, old = [], []
    for asset in validated_assets(profile):
        held = artifact.read_json(report_name(asset))
        current = store.current(asset)
        if not held["passed"]:
            failed.append(report_name(asset))
        if current is None or held["manifest_sha256"] != current.sha256:
            old.append(report_name(asset))
    return [
        Outcome("all_passed", not failed, len(failed), 0, ", ".join(failed)),
        Outcome("of_current_manifests", not old, len(old), 0, ", ".join(old)),
    ]
