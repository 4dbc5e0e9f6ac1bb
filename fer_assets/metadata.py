"""What Dagster shows of an artifact: counts, plots, tables, and where it came from."""

import base64
import csv
import itertools
from collections.abc import Mapping
from typing import Any

import dagster as dg

from fer_ml.adoption import ADOPTION_FILE
from fer_ml.gates import Outcome, gates_of
from fer_ml.store import Artifact

#: Pictures above this size would slow the asset's page; they stay in the run folder only.
MAX_INLINE_BYTES = 300_000
#: Pictures of faces: shown only where the pipeline may.
FACES = ("faces.png", "findings.png")
FACES_FOLDER = "faces/"
#: Copies of other artifacts' pictures in the report.
REPORT_FIGURES = "figures/"
#: Rows of a table that are shown; the file has all of them.
MAX_TABLE_ROWS = 50


def artifact_metadata(artifact: Artifact, *, faces: bool) -> dict[str, Any]:
    """Metadata of a materialization, from the artifact's record, tables and pictures.

    Without ``faces``, pictures of faces are named and not shown: Dagster would keep them.
    """
    record = artifact.record
    shown: dict[str, Any] = {
        key: value for key, value in record.summary.items() if isinstance(value, int | float | str)
    }
    if "rows" in shown:
        shown["dagster/row_count"] = shown.pop("rows")
    shown |= _tables_and_pictures(artifact, faces)
    shown["folder"] = dg.MetadataValue.path(str(artifact.folder))
    shown["sha256"] = record.sha256
    shown["profile"] = record.profile
    shown["seconds"] = record.seconds
    if record.splits:
        shown["splits_touched"] = dg.MetadataValue.json(record.splits)
    if record.recipe:
        shown["recipe"] = dg.MetadataValue.json(record.recipe)
    if record.inputs:
        shown["inputs"] = dg.MetadataValue.table(
            [dg.TableRecord({"asset": i.key, "sha256": i.sha256[:12]}) for i in record.inputs]
        )
    shown["files"] = dg.MetadataValue.table(
        [
            dg.TableRecord({"file": name, "bytes": entry.bytes, "sha256": entry.sha256[:12]})
            for name, entry in list(record.files.items())[:40]
        ]
    )
    return shown


def _tables_and_pictures(artifact: Artifact, faces: bool) -> dict[str, Any]:
    record = artifact.record
    shown: dict[str, Any] = {}
    for name, entry in record.files.items():
        if (name in FACES or name.startswith(FACES_FOLDER)) and not faces:
            shown[name.removesuffix(".png")] = dg.MetadataValue.path(str(artifact.file(name)))
        elif name.startswith(REPORT_FIGURES):
            continue  # They stand in the report itself.
        elif name.endswith(".png") and entry.bytes <= MAX_INLINE_BYTES:
            shown[name.removesuffix(".png")] = dg.MetadataValue.md(
                f"![{name}]({_inline(artifact, name)})"
            )
    if "report.md" in record.files:
        shown["report"] = dg.MetadataValue.md(_report(artifact))
    if "claims.csv" in record.files:
        shown["claims_table"] = _claims_table(artifact)
    if ADOPTION_FILE in record.files:
        shown |= _adoption(artifact)
    if "clean_report.json" in record.files:
        shown["sources_table"] = _sources_table(artifact)
    if "leakage.json" in record.files:
        twins = artifact.read_json("leakage.json")["test_twins"]
        shown["test_twins"] = _table([{"source": name, **held} for name, held in twins.items()])
    if "findings.csv" in record.files:
        shown["rules_table"] = _rules_table(artifact)
    for name in ("quarantine.csv", "review.csv", "findings.csv", "comparison.csv"):
        if name in record.files:
            shown[f"{name.removesuffix('.csv')}_table"] = _first_rows(artifact, name)
    return shown


def _inline(artifact: Artifact, name: str) -> str:
    """A picture as an address that holds all of it."""
    data = base64.b64encode(artifact.file(name).read_bytes()).decode()
    return f"data:image/png;base64,{data}"


def _report(artifact: Artifact) -> str:
    """The report with its figures in place, as many as do not slow the page."""
    text = artifact.file("report.md").read_text("utf-8")
    room = MAX_INLINE_BYTES
    for name, entry in artifact.record.files.items():
        if name.startswith(REPORT_FIGURES) and name.endswith(".png") and entry.bytes <= room:
            text = text.replace(f"]({name})", f"]({_inline(artifact, name)})")
            room -= entry.bytes
    return text


def _adoption(artifact: Artifact) -> dict[str, Any]:
    """The checks of an adopted result, and what had to be taken on trust."""
    told = artifact.read_json(ADOPTION_FILE)
    marks = {True: "🟢", False: "🔴"}
    return {
        "checks_table": _table(
            [
                {"": marks[c["holds"]], "check": c["check"], "why": c["detail"]}
                for c in told["checks"]
            ]
        ),
        "not_verified": dg.MetadataValue.md("\n".join(f"- {what}" for what in told["unverified"])),
        "missing": ", ".join(told["missing"]) or "nothing",
    }


def _table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    if not rows:
        return dg.MetadataValue.text("none")
    cells = [
        {key: value if isinstance(value, int | float) else str(value) for key, value in row.items()}
        for row in rows
    ]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in cells])


def _sources_table(artifact: Artifact) -> Any:
    reports = artifact.read_json("clean_report.json")["reports"]
    columns = ("rows_in", "rows_kept", "rows_excluded", "rows_quarantined")
    return _table([{"source": r["source"], **{c: r[c] for c in columns}} for r in reports])


def _rules_table(artifact: Artifact) -> Any:
    """Every rule with what it found in each manifest."""
    reports = {
        name.removeprefix("manifest_validation_").removesuffix(".json"): artifact.read_json(name)
        for name in artifact.record.files
        if name.startswith("manifest_validation_")
    }
    rules = dict.fromkeys(rule for report in reports.values() for rule in report["rules"])
    return _table(
        [
            {"rule": rule}
            | {name: _mark(report["rules"][rule]) for name, report in reports.items()}
            for rule in rules
        ]
    )


def _mark(rule: dict[str, Any]) -> str:
    colour = "🟢" if rule["passed"] else "🔴" if rule["blocking"] else "🟡"
    return f"{colour} {rule['value']}"


def _first_rows(artifact: Artifact, name: str) -> Any:
    with artifact.file(name).open(encoding="utf-8", newline="") as file:
        return _table(list(itertools.islice(csv.DictReader(file), MAX_TABLE_ROWS)))


def _claims_table(artifact: Artifact) -> dg.TableMetadataValue:
    colours = {"grounded": "🟢", "stale": "🟡", "ungrounded": "🟡"}
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "status": f"{colours.get(claim['status'], '🔴')} {claim['status']}",
                    "claim": claim["sentence"],
                    "from": claim["artifact"]["asset"],
                    "why": claim["reason"],
                }
            )
            for claim in artifact.read_json("claims.json")["claims"]
        ]
    )


def outcome_metadata(asset: str, outcome: Outcome) -> Mapping[str, Any]:
    """Metadata of a check: value, limit, examples, and the fix when it failed."""
    gate = next(gate for gate in gates_of(asset) if gate.rule == outcome.rule)
    shown: dict[str, Any] = {"value": outcome.value, "limit": outcome.limit, "asks": gate.asks}
    if outcome.detail:
        shown["detail"] = outcome.detail
    if outcome.examples:
        shown["examples"] = dg.MetadataValue.md("\n".join(f"- `{e}`" for e in outcome.examples))
    if not outcome.passed:
        shown["fix"] = gate.fix
    # NaN cannot be stored as a number; as text it still says that nothing was measured.
    return {
        key: str(value) if isinstance(value, float) and value != value else value
        for key, value in shown.items()
    }
