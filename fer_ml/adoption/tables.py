"""Examine manifests and validation reports of the first pipeline."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fer_ml.adoption.findings import Findings, check_class_order
from fer_ml.adoption.folder import file_name, parse_as
from fer_ml.recipes.profile import SPLITS
from fer_ml.validation.gates import manifest_gates
from fer_ml.validation.report import validate_file

#: Rules that say nothing when no image was looked at.
NEED_IMAGES = frozenset(
    {
        "missing_paths",
        "case_collisions",
        "undecodable",
        "oversized",
        "image_modes",
        "image_sizes",
        "changed_pixels",
        "bad_boxes",
        "near_leakage",
    }
)


class Decode(BaseModel):
    """The number of images of a manifest that were decoded."""

    model_config = ConfigDict(frozen=True, extra="allow")
    attempted: int
    ok: int
    fail: int


class Counts(BaseModel):
    """Numbers of rows by source, and by ``source|split|label``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    by_source: dict[str, int] = {}
    by_source_split_label: dict[str, int] = {}


class Validation(BaseModel):
    """``manifest_validation*.json``, as written by the first pipeline and by this platform."""

    model_config = ConfigDict(frozen=True, extra="allow")
    manifest: str
    rows_total: int
    rows_valid: int
    bad_labels: int
    missing_paths: int
    decode: Decode
    counts: Counts
    canonical: list[str] = []


def examine_manifest(
    csv: Path, reports: Sequence[Path], roots: Sequence[Path], cache: Path, findings: Findings
) -> None:
    """Check a manifest by this platform's rules, and its old reports against its rows.

    Without ``roots`` no image is read, and the rules that need images count as not verified.
    """
    measured = validate_file(csv, roots or [csv.parent], cache)
    for gate in manifest_gates("any_manifest"):
        rule = measured["rules"][gate.rule]
        unseen = not roots and gate.rule in NEED_IMAGES
        if not gate.blocking or unseen or rule["passed"] is None:
            continue
        examples = "; ".join(rule["examples"][:2])
        detail = f"{rule['value']} found" + (f": {examples}" if examples else "")
        findings.check(f"manifest_{gate.rule}", rule["passed"], detail)
    if not roots:
        findings.cannot("its images: not looked at (name their folder: --root FOLDER)")
    findings.cannot("where its rows came from: no hash of the raw data, no recipe of its splits")
    labels = measured["counts"]["by_source_split_label"]
    findings.facts.update(rows=measured["rows_total"])
    for split in SPLITS:
        rows = sum(n for key, n in labels.items() if key.split("|")[1] == split)
        findings.facts.update({split: rows} if rows else {})
    for path in reports:
        report = parse_as(path, Validation)
        examine_validation(report, findings)
        for name in ("rows_total", "bad_labels"):
            reported = getattr(report, name)
            findings.check(
                f"report_{name}",
                reported == measured[name],
                f"{path.name} {reported}, here {measured[name]}",
            )
        if report.counts.by_source:
            same = report.counts.by_source == measured["counts"]["by_source"]
            findings.check(
                "report_by_source", same, "rows by source as reported" if same else "other"
            )


def examine_validation(report: Validation, findings: Findings) -> None:
    """Check that the sums of a validation report add up."""
    decode, counts = report.decode, report.counts
    findings.facts.setdefault("rows", report.rows_total)
    faulty = report.rows_total - report.rows_valid
    findings.check(
        "rows_add_up",
        faulty >= 0 and max(report.bad_labels, report.missing_paths) <= report.rows_total,
        f"{report.rows_total} rows, {report.rows_valid} valid, {report.bad_labels} bad labels, "
        f"{report.missing_paths} missing paths",
    )
    findings.check(
        "decode_adds_up",
        decode.attempted == decode.ok + decode.fail,
        f"{decode.attempted} attempted, {decode.ok} ok, {decode.fail} failed",
    )
    sources, labels = counts.by_source, counts.by_source_split_label
    if sources:
        total = sum(sources.values())
        findings.check(
            "sources_add_up",
            total in (report.rows_total, report.rows_valid),
            f"rows by source {total}, of {report.rows_total}",
        )
    if sources and labels:
        summed: dict[str, int] = {}
        for key, n in labels.items():
            source = key.split("|")[0]
            summed[source] = summed.get(source, 0) + n
        findings.check("labels_add_up", summed == sources, f"rows by label {sum(labels.values())}")
    if report.canonical:
        check_class_order(findings, "validation", report.canonical)
    if decode.attempted < report.rows_total:
        findings.cannot(
            f"that every image decodes: {decode.attempted} of {report.rows_total} were tried"
        )
    findings.cannot(
        f"which bytes the report speaks of: it names {file_name(report.manifest)}, without a hash"
    )
