"""Manifests and validation reports of the first pipeline."""

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
    """How many images of a manifest were decoded."""

    model_config = ConfigDict(frozen=True, extra="allow")
    attempted: int
    ok: int
    fail: int


class Counts(BaseModel):
    """Rows by source, and by ``source|split|label``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    by_source: dict[str, int] = {}
    by_source_split_label: dict[str, int] = {}


class Validation(BaseModel):
    """``manifest_validation*.json``, as the first pipeline and this platform write it."""

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
    csv: Path, reports: Sequence[Path], roots: Sequence[Path], cache: Path, found: Findings
) -> None:
    """Judge a manifest by this platform's rules, and its old reports by what it holds.

    Without ``roots`` no image is looked at, and the rules that need one stay unverified.
    """
    held = validate_file(csv, roots or [csv.parent], cache)
    for gate in manifest_gates("any_manifest"):
        rule = held["rules"][gate.rule]
        unseen = not roots and gate.rule in NEED_IMAGES
        if not gate.blocking or unseen or rule["passed"] is None:
            continue
        examples = "; ".join(rule["examples"][:2])
        detail = f"{rule['value']} found" + (f": {examples}" if examples else "")
        found.check(f"manifest_{gate.rule}", rule["passed"], detail)
    if not roots:
        found.cannot("its images: not looked at (name their folder: --root FOLDER)")
    found.cannot("where its rows came from: no hash of the raw data, no recipe of its splits")
    labels = held["counts"]["by_source_split_label"]
    found.facts.update(rows=held["rows_total"])
    for split in SPLITS:
        rows = sum(n for key, n in labels.items() if key.split("|")[1] == split)
        found.facts.update({split: rows} if rows else {})
    for path in reports:
        report = parse_as(path, Validation)
        examine_validation(report, found)
        for name in ("rows_total", "bad_labels"):
            told = getattr(report, name)
            found.check(
                f"report_{name}", told == held[name], f"{path.name} {told}, here {held[name]}"
            )
        if report.counts.by_source:
            same = report.counts.by_source == held["counts"]["by_source"]
            found.check("report_by_source", same, "rows by source as reported" if same else "other")


def examine_validation(report: Validation, found: Findings) -> None:
    """Do the sums of a validation report add up?"""
    decode, counts = report.decode, report.counts
    found.facts.setdefault("rows", report.rows_total)
    faulty = report.rows_total - report.rows_valid
    found.check(
        "rows_add_up",
        faulty >= 0 and max(report.bad_labels, report.missing_paths) <= report.rows_total,
        f"{report.rows_total} rows, {report.rows_valid} valid, {report.bad_labels} bad labels, "
        f"{report.missing_paths} missing paths",
    )
    found.check(
        "decode_adds_up",
        decode.attempted == decode.ok + decode.fail,
        f"{decode.attempted} attempted, {decode.ok} ok, {decode.fail} failed",
    )
    sources, labels = counts.by_source, counts.by_source_split_label
    if sources:
        total = sum(sources.values())
        found.check(
            "sources_add_up",
            total in (report.rows_total, report.rows_valid),
            f"rows by source {total}, of {report.rows_total}",
        )
    if sources and labels:
        summed: dict[str, int] = {}
        for key, n in labels.items():
            source = key.split("|")[0]
            summed[source] = summed.get(source, 0) + n
        found.check("labels_add_up", summed == sources, f"rows by label {sum(labels.values())}")
    if report.canonical:
        check_class_order(found, "validation", report.canonical)
    if decode.attempted < report.rows_total:
        found.cannot(
            f"that every image decodes: {decode.attempted} of {report.rows_total} were tried"
        )
    found.cannot(
        f"which bytes the report speaks of: it names {file_name(report.manifest)}, without a hash"
    )
