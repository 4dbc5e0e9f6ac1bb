"""Metadata that Dagster shows of an artifact: counts, plots, tables and origin."""

import base64
import csv
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

from fer_assets.columns import COLUMNS, MANIFEST_COLUMNS
from fer_assets.pages import PAGES, asset_path, link
from fer_ml.adoption import ADOPTION_FILE
from fer_ml.base.cost import COSTS
from fer_ml.base.reading import as_text, open_text, read_file, read_text
from fer_ml.claims.resolved import upstream_assets
from fer_ml.evidence.address import FOLDER, FROM_REPORT, page_of
from fer_ml.privacy.faces import shows_faces
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.record import parse_label

#: All pictures of one artifact that are kept with its events: more would slow its page, which loads
#: them with every event that it lists. Those above the bound are named by their path.
MAX_INLINE_BYTES = 300_000
#: Figures that say how good an artifact is.
KEY_FIGURES = re.compile(
    r"macro_f1|accuracy|ece_|best_student|selected|flips_per_minute|ms_p95|parity"
)
#: Copies of other artifacts' pictures in the report.
REPORT_FIGURES = "figures/"
#: The CSV that an asset is, where it is no manifest.
MAIN_TABLES = ("benchmark.csv", "per_frame.csv", "demo_kpis.csv", "review.csv", "claims.csv")
#: Green holds, yellow is not settled, and every other status is red.
STATUS_MARKS = {"grounded": "✓", "stale": "!", "ungrounded": "!"}
#: Rows of a table that are shown; the file has all of them.
MAX_TABLE_ROWS = 50


def artifact_metadata(artifact: Artifact, *, faces: bool) -> dict[str, Any]:
    """Return the metadata of a materialization, from the artifact's record, tables and pictures.

    Without ``faces``, pictures of faces are listed but not embedded, because Dagster would store
    them.
    """
    record = artifact.record
    numbers: dict[str, Any] = {
        key: _number(value)
        for key, value in record.summary.items()
        if isinstance(value, int | float | str)
    }
    # The page shows them in this order: how good it is, then what it is, then what it took.
    shown = {key: value for key, value in numbers.items() if KEY_FIGURES.search(key)}
    shown |= _pictures(artifact, faces)
    shown |= {key: value for key, value in numbers.items() if key not in COSTS}
    table = main_table(artifact)
    if table is not None:
        shown.pop("rows", None)
        shown |= _table_shape(artifact, table)
    shown |= _tables(artifact)
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
    return shown | {key: numbers[key] for key in COSTS if key in numbers}


def _number(value: int | float | str) -> int | float | str:
    """Round a number to six digits for display; the files keep full precision."""
    if not isinstance(value, float):
        return value
    # NaN cannot be stored as a number; as text it still says that nothing was measured.
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def main_table(artifact: Artifact) -> str | None:
    """Return the main CSV: a manifest, or one of ``MAIN_TABLES``; ``None`` without one."""
    files = artifact.record.files
    manifests = [name for name in files if name.removesuffix(".csv") + ".parquet" in files]
    tables = [name for name in (*manifests, *MAIN_TABLES) if name in files]
    return tables[0] if tables else None


def _table_shape(artifact: Artifact, name: str) -> dict[str, Any]:
    """Return rows and columns of a CSV for the asset's page."""
    import polars as pl

    from fer_ml.manifests.schema import SCHEMA
    from fer_ml.sources import ATTRIBUTES

    path = artifact.file(name)
    rows = (
        pl.scan_csv(as_text(path), glob=False, infer_schema=False).select(pl.len()).collect().item()
    )
    schema = pl.scan_csv(as_text(path), glob=False, infer_schema_length=10_000).collect_schema()
    if set(SCHEMA) - set(ATTRIBUTES) <= set(schema) <= set(SCHEMA):
        schema = pl.Schema({column: SCHEMA[column] for column in schema})
    help_of = COLUMNS.get(name, MANIFEST_COLUMNS)
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(column, str(dtype), description=help_of.get(column))
                for column, dtype in schema.items()
            ]
        ),
    }


def _pictures(artifact: Artifact, faces: bool) -> dict[str, Any]:
    """Return pictures to embed, up to ``MAX_INLINE_BYTES`` in total.

    Pictures of the ensemble come after those of the students.
    """
    shown: dict[str, Any] = {}
    left = MAX_INLINE_BYTES
    for name in sorted(artifact.record.files, key=lambda name: "/ensemble_" in name):
        entry = artifact.record.files[name]
        # A report's figures stand in the report itself.
        if not name.endswith(".png") or name.startswith(REPORT_FIGURES):
            continue
        hidden = shows_faces(name) and not faces
        if hidden or entry.bytes > left:
            shown[name.removesuffix(".png")] = dg.MetadataValue.path(str(artifact.file(name)))
        else:
            left -= entry.bytes
            shown[name.removesuffix(".png")] = dg.MetadataValue.md(
                f"![{name}]({_inline(artifact, name)})"
            )
    return shown


def _tables(artifact: Artifact) -> dict[str, Any]:
    record = artifact.record
    shown: dict[str, Any] = {}
    if "report.md" in record.files:
        shown["report"] = dg.MetadataValue.md(_report(artifact))
    if "claims.csv" in record.files:
        claims = artifact.read_json("claims.json")["claims"]
        shown["claims_table"] = _claims_table(claims)
        shown["claims_with_links"] = dg.MetadataValue.md(claims_links(record.profile, claims))
    if ADOPTION_FILE in record.files:
        shown |= _adoption(artifact)
    if "clean_report.json" in record.files:
        shown["sources_table"] = _sources_table(artifact)
    if "leakage.json" in record.files:
        twins = artifact.read_json("leakage.json")["test_twins"]
        shown["test_twins"] = _table([{"source": name, **counts} for name, counts in twins.items()])
    if "findings.csv" in record.files:
        shown["rules_table"] = _rules_table(artifact)
    for name in ("quarantine.csv", "review.csv", "findings.csv", "comparison.csv"):
        if name in record.files:
            shown[f"{name.removesuffix('.csv')}_table"] = _first_rows(artifact, name)
    return shown


def _inline(artifact: Artifact, name: str) -> str:
    """Return a picture as a data URL."""
    data = base64.b64encode(read_file(artifact.file(name))).decode()
    return f"data:image/png;base64,{data}"


def _report(artifact: Artifact) -> str:
    """Return the report with embedded figures, as many as keep the page fast."""
    text = read_text(artifact.file("report.md")).replace(
        f"]({FROM_REPORT}{FOLDER}/", f"]({PAGES}{FOLDER}/"
    )
    room = MAX_INLINE_BYTES
    for name, entry in artifact.record.files.items():
        if name.startswith(REPORT_FIGURES) and name.endswith(".png") and entry.bytes <= room:
            text = text.replace(f"]({name})", f"]({_inline(artifact, name)})")
            room -= entry.bytes
    return text


def _adoption(artifact: Artifact) -> dict[str, Any]:
    """Return the checks of an adopted result, and what could not be verified."""
    examination = artifact.read_json(ADOPTION_FILE)
    marks = {True: "✓", False: "✗"}
    return {
        "checks_table": _table(
            [
                {"": marks[c["holds"]], "check": c["check"], "why": c["detail"]}
                for c in examination["checks"]
            ]
        ),
        "not_verified": dg.MetadataValue.md(
            "\n".join(f"- {what}" for what in examination["unverified"])
        ),
        "missing": ", ".join(examination["missing"]) or "nothing",
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
    """Return a table of every rule with its findings in each manifest."""
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
    if rule["passed"] is None:
        return f"⚪ {rule['value']}"
    colour = "✓" if rule["passed"] else "✗" if rule["blocking"] else "!"
    return f"{colour} {rule['value']}"


def _first_rows(artifact: Artifact, name: str) -> Any:
    with open_text(artifact.file(name)) as file:
        return _table(list(itertools.islice(csv.DictReader(file), MAX_TABLE_ROWS)))


def _claims_table(claims: list[dict[str, Any]]) -> Any:
    return _table(
        [
            {
                "status": f"{STATUS_MARKS.get(claim['status'], '✗')} {claim['status']}",
                "claim": claim["sentence"],
                "from": claim["artifact"]["asset"],
                "why": claim["reason"],
            }
            for claim in claims
        ]
    )


def claims_links(profile: str, claims: list[dict[str, Any]]) -> str:
    """Return the claims of ``claims.json`` as Markdown with links to all assets they depend on."""
    lines = []
    for claim in claims:
        mark = STATUS_MARKS.get(claim["status"], "✗")
        rests = upstream_assets(claim)
        lines.append(
            f"- {mark} **{claim['status']}** `{claim['id']}`: {claim['sentence']}\n"
            f"  [Evidence]({PAGES}{page_of(claim['id'])}). "
            f"{_path_of(profile, rests) if rests else 'It names no artifact that is here.'}"
        )
    return "\n".join(lines)


def _path_of(profile: str, rests: list[str]) -> str:
    """Yield links from the cited artifact, which comes first, to everything that it depends on."""
    path = asset_path(profile, parse_label(rests[0])[0])
    cited, *made_of = (link(profile, *parse_label(item)) for item in rests)
    return (
        f"Cites {cited} ([graph]({path}?view=lineage&lineageScope=upstream)), "
        f"made of {', '.join(made_of) or 'nothing'}."
    )


def outcome_metadata(gate: Gate, outcome: Outcome, artifact: Artifact) -> Mapping[str, Any]:
    """Return metadata of a check: value, limit, examples and, when it failed, the fix."""
    shown: dict[str, Any] = {"value": outcome.value, "limit": outcome.limit, "asks": gate.asks}
    shown["folder"] = dg.MetadataValue.path(str(artifact.folder))
    shown["sha256"] = artifact.sha256
    if isinstance(rows := artifact.record.summary.get("rows"), int):
        shown["rows"] = rows
    if outcome.detail:
        shown["detail"] = outcome.detail
    if outcome.examples:
        # A table stands on the page itself, where Markdown would hide behind a click.
        shown["examples"] = _table([{"example": example} for example in outcome.examples])
    if outcome.passed is False:
        shown["fix"] = gate.fix
    return {
        key: _number(value) if isinstance(value, float) else value for key, value in shown.items()
    }
