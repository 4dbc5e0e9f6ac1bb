"""Validation reports: what the gates found in a manifest, in the first pipeline's keys and ours."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.errors import FerError
from fer_ml.gates import Outcome
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import MANIFEST_FILES
from fer_ml.manifests.identity import sample_hash
from fer_ml.manifests.schema import SCHEMA, boxes, read_manifest
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.validation.rules import Probe, count_labels, judge_manifest, probe_images

REPORTS: dict[str, str] = {
    "classification_manifest": "manifest_validation_all.json",
    "hq_train_manifest": "manifest_validation_hq_train.json",
    "eval_only_manifest": "manifest_validation_eval_only.json",
    "test_all_sources_manifest": "manifest_validation_test_all_sources.json",
}


def gate_manifest(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """The gates of a manifest asset, on every row and every image."""
    frame = read_manifest(artifact.file(MANIFEST_FILES[artifact.record.asset]))
    return judge_manifest(frame, probe_images(frame, store.root))


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


def report(frame: pl.DataFrame, probe: Probe, *, manifest: str, root: str) -> dict[str, Any]:
    """One ``manifest_validation*.json``: rules on rows, ``decode`` on distinct images."""
    outcomes = judge_manifest(frame, probe)
    by_rule = {outcome.rule: outcome for outcome in outcomes}
    faulty = frame.filter(
        pl.col("image_path").is_in(list({*probe.missing, *probe.undecodable}))
        | ~pl.col("label").is_in(list(CLASSES)).fill_null(False)
    )
    return {
        "schema_version": 1,
        "manifest": manifest,
        "out_root": root,
        "rows_total": frame.height,
        "rows_valid": frame.height - faulty.height,
        "bad_labels": by_rule["bad_labels"].value,
        "missing_paths": by_rule["missing_paths"].value,
        "decode": {
            "attempted": len(probe.photo) + len(probe.undecodable),
            "ok": len(probe.photo),
            "fail": len(probe.undecodable),
        },
        "counts": {
            "by_source": dict(sorted(Counter(frame["source"]).items())),
            "by_source_split_label": count_labels(frame),
        },
        "canonical": list(CLASSES),
        "rules": {
            o.rule: {
                "passed": o.passed,
                "value": o.value,
                "limit": o.limit,
                "examples": list(o.examples),
            }
            for o in outcomes
        },
        "passed": all(o.passed for o in outcomes if o.rule != "label_conflicts"),
    }


def build_validation(run: RunFolder, job: Job) -> None:
    """One report for each manifest, from a fresh look at every image."""
    for asset, name in REPORTS.items():
        artifact = job.input(asset)
        frame = read_manifest(artifact.file(MANIFEST_FILES[asset]))
        probe = probe_images(frame, job.store.root)
        found = report(
            frame,
            probe,
            manifest=MANIFEST_FILES[asset],
            root="FER_HOME/" + job.profile.name,
        )
        run.write_json(name, {**found, "manifest_sha256": artifact.sha256})
        run.summary[f"{asset}_rows"] = found["rows_total"]
        run.summary[f"{asset}_passed"] = found["passed"]
    run.write_json("timing.json", {"validated_at": datetime.now(UTC).isoformat(timespec="seconds")})


def gate_validation(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """All reports passed, and each speaks of the manifest that is current now."""
    failed = [name for name in REPORTS.values() if not artifact.read_json(name)["passed"]]
    old = []
    for asset, name in REPORTS.items():
        current = store.current(asset)
        if current is None or artifact.read_json(name)["manifest_sha256"] != current.sha256:
            old.append(name)
    return [
        Outcome("all_passed", not failed, len(failed), 0, ", ".join(failed)),
        Outcome("of_current_manifests", not old, len(old), 0, ", ".join(old)),
    ]


def validate_file(csv: Path, root: Path) -> dict[str, Any]:
    """Validate any manifest CSV whose images lie below ``root``.

    Columns image_path, label, split and source are needed; identity columns that are absent are
    computed from the pixels. Returns the report.
    """
    try:
        frame = pl.read_csv(csv, infer_schema=False)
    except FileNotFoundError as error:
        raise FerError("no such manifest", where=csv) from error
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise FerError(f"not a readable CSV: {error}", where=csv) from error
    missing = [c for c in ("image_path", "label", "split", "source") if c not in frame.columns]
    if missing:
        raise FerError(
            f"manifest lacks the column {', '.join(missing)}",
            where=csv,
            allowed=f"found: {', '.join(frame.columns)}",
            fix="a manifest needs image_path, label, split and source",
        )
    if frame.is_empty():
        raise FerError("manifest has no rows", where=csv)
    if not root.is_dir():
        raise FerError("no such folder for the images", where=root, fix="pass --root FOLDER")
    absent = [pl.lit(None).cast(t).alias(c) for c, t in SCHEMA.items() if c not in frame.columns]
    frame = frame.with_columns(absent)
    try:
        frame = frame.select(pl.col(c).cast(t) for c, t in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise FerError(f"a column has values of another type: {error}", where=csv) from error
    probe = probe_images(frame, root)
    frame = _fill_identity(frame, probe.photo, probe.size)
    return report(frame, probe, manifest=str(csv), root=str(root))


def _fill_identity(
    frame: pl.DataFrame, photo: dict[str, str], size: dict[str, tuple[int, int]]
) -> pl.DataFrame:
    """Identity and size from the pixels, where the manifest brings none of its own.

    A row whose image cannot be read has no pixels to be identified by: its path stands in, so that
    the rule about its image counts it once and the rule about empty cells does not count it again.
    """
    paths = frame["image_path"].fill_null("").to_list()
    photos = [photo.get(path, f"path:{path}") for path in paths]
    faces = [sample_hash(name, box) for name, box in zip(photos, boxes(frame), strict=True)]
    return frame.with_columns(
        pl.coalesce("group_id", pl.Series(photos)).alias("group_id"),
        pl.coalesce("sample_id", pl.Series(faces)).alias("sample_id"),
        pl.coalesce("width", pl.Series([size.get(p, (0, 0))[0] for p in paths])).alias("width"),
        pl.coalesce("height", pl.Series([size.get(p, (0, 0))[1] for p in paths])).alias("height"),
    )
