"""Validation reports: what the gates found in a manifest, in the first pipeline's keys and ours."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.errors import FerError
from fer_ml.gates import Outcome, gates_of
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import UNIFIED, curate, curated_assets, manifest_file
from fer_ml.manifests.groups import near_of
from fer_ml.manifests.schema import BOX, read_manifest
from fer_ml.probe import Probe, how_checked, join_probes, probe
from fer_ml.profiles import Curation, Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.validation.bases import apply_bases, find_bases
from fer_ml.validation.rules import (
    Evidence,
    Reference,
    Verdict,
    count_labels,
    judge_manifest,
)
from fer_ml.validation.table import Table, read_table

#: Findings that are shown as pictures, for each rule.
SHOWN_FINDINGS = 12
#: What makes two faces twins.
_SAME = ("group_id", "photo", "near")
_LOOKED = ("missing_paths", "undecodable", "image_modes", "changed_pixels", "bad_boxes")


def report_name(asset: str) -> str:
    """The report of a manifest asset: ``manifest_validation_hq_train.json``."""
    name = "all" if asset == UNIFIED else asset.removesuffix("_manifest")
    return f"manifest_validation_{name}.json"


def validated_assets(profile: Profile) -> tuple[str, ...]:
    """Every manifest of a profile that gets a report."""
    return (UNIFIED, *curated_assets(profile))


def see(
    table: Table, looks: Probe, near_cache: Path, reference: Reference | None = None
) -> Evidence:
    """A manifest as read, together with what was seen behind its rows."""
    rows = pl.concat([table.frame, looks.looks.rename({"brightness": "seen"})], how="horizontal")
    near = near_of(rows["face"], looks.thumbs, near_cache)
    rows = rows.with_columns(near.alias("near"), pl.coalesce("brightness", "seen"))
    return Evidence(rows, table.malformed, table.mistyped, table.dialect, reference or Reference())


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


def report(evidence: Evidence, verdict: Verdict, *, asset: str, manifest: str, root: str) -> Any:
    """One ``manifest_validation*.json``: rules on rows, ``decode`` on distinct images."""
    rows = evidence.rows
    files = rows.select("image_path", "state").drop_nulls("image_path").unique("image_path")
    attempted = files.filter(~pl.col("state").is_in(["missing", "escapes"]))
    decoded = attempted.filter(pl.col("state") == "ok").height
    value = {outcome.rule: outcome.value for outcome in verdict.outcomes}
    total = rows.height + evidence.malformed.height
    blocking = {gate.rule for gate in gates_of(asset) if gate.blocking}
    return {
        "schema_version": 2,
        "manifest": manifest,
        "out_root": root,
        "rows_total": total,
        "rows_valid": total - verdict.faulty_lines,
        "bad_labels": value["bad_labels"],
        "missing_paths": sum(int(value[rule]) for rule in ("missing_paths", "escaping_paths")),
        "decode": {
            "attempted": attempted.height,
            "ok": decoded,
            "fail": attempted.height - decoded,
        },
        "counts": {
            "by_source": dict(
                rows.group_by(pl.col("source").fill_null("None")).len().sort("source").iter_rows()
            ),
            "by_source_split_label": count_labels(rows),
        },
        "test_twins": _twins(rows),
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
        "passed": all(o.passed for o in verdict.outcomes if o.rule in blocking),
    }


def _twins(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Test rows by source, and how many of them have a twin in another split.

    A twin is in this manifest (the same photo, group or near-identical face), or was taken out of
    it (``twin_in``).
    """
    seen = rows.select("source", "split", pl.col("twin_in").is_not_null().alias("twin"), *_SAME)
    test = seen.filter(pl.col("split") == "test")
    rest = seen.filter(pl.col("split") != "test")
    for key in _SAME:
        held = test[key].is_in(rest[key].implode()).fill_null(False)
        test = test.with_columns(pl.col("twin") | held)
    counted = (
        test.group_by(pl.col("source").fill_null("None"))
        .agg(pl.len().alias("test_rows"), pl.col("twin").sum().alias("with_twin"))
        .sort("source")
    )
    return {
        source: {"test_rows": n, "with_twin": twins} for source, n, twins in counted.iter_rows()
    }


def build_validation(run: RunFolder, job: Job) -> None:
    """One report for each manifest, every finding as a table, and pictures of both."""
    # Plotting takes half a second to import, and judging needs none of it.
    from fer_ml.plots import class_source_heatmap
    from fer_ml.sheets import class_sheet, findings_sheet

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


def validate_file(
    csv: Path, roots: Sequence[Path], cache: Path, *, since: float = 0.0
) -> dict[str, Any]:
    """Validate any manifest CSV whose images lie below some of ``roots``.

    Columns image_path, label, split and source are needed; what is absent of the others is taken
    from the pixels. Paths may be relative to a root, to a folder above or right below it, or
    absolute paths of another machine: which base was found for which paths is in the report.
    Returns the report; ``findings`` holds every one of them.
    """
    table = read_table(csv)
    if table.frame.is_empty() and table.malformed.is_empty():
        raise FerError("manifest has no rows", where=csv)
    for root in roots:
        if not root.is_dir():
            raise FerError("no such folder for the images", where=root, fix="pass --root FOLDER")
    bases = find_bases(table.frame["image_path"], roots)
    frame = apply_bases(table.frame, bases)
    looks = _probe_bases(frame, roots, cache / "probe", since)
    frame = _fill_identity(frame.drop("base"), looks.looks)
    table = Table(frame, table.malformed, table.mistyped, table.dialect, table.columns)
    evidence = see(table, looks, cache / "near")
    verdict = judge_manifest(evidence, "any_manifest")
    found = report(
        evidence,
        verdict,
        asset="any_manifest",
        manifest=str(csv),
        root=", ".join(map(str, roots)),
    )
    return {
        **found,
        "bases": [base.to_json() for base in bases],
        "checked": looks.how(),
        "findings": verdict.findings.to_dicts(),
    }


def _probe_bases(frame: pl.DataFrame, roots: Sequence[Path], cache: Path, since: float) -> Probe:
    """Look at each row below the root that its base names; rows without one below the first."""
    base = frame["base"].fill_null(str(roots[0]))
    parts, order = [], []
    # A manifest of nothing but malformed lines has no base, and is judged all the same.
    for root in base.unique(maintain_order=True).to_list() or [str(roots[0])]:
        rows = np.flatnonzero((base == root).to_numpy())
        parts.append(probe(frame[rows], Path(root), cache, since=since))
        order.append(rows)
    return join_probes(parts, order)


def _fill_identity(frame: pl.DataFrame, looks: pl.DataFrame) -> pl.DataFrame:
    """Identity and size from the pixels, where the manifest brings none of its own.

    A row whose image cannot be read has no pixels to be identified by: its path stands in, so that
    the rule about its image counts it once and the rule about empty cells does not count it again.
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
