"""What Dagster shows of an artifact: counts, plots, tables, and where it came from."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg

from fer_ml.gates import Outcome, gates_of
from fer_ml.store import Artifact

#: Plots above this size would slow the asset's page; they stay in the run folder only.
MAX_INLINE_BYTES = 60_000


def artifact_metadata(artifact: Artifact) -> dict[str, Any]:
    """Metadata of a materialization, from the artifact's record and its plots."""
    record = artifact.record
    shown: dict[str, Any] = {
        key: value for key, value in record.summary.items() if isinstance(value, int | float | str)
    }
    if "rows" in shown:
        shown["dagster/row_count"] = shown.pop("rows")
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
    for name, entry in record.files.items():
        if name.endswith(".png") and entry.bytes <= MAX_INLINE_BYTES:
            data = base64.b64encode(artifact.file(name).read_bytes()).decode()
            shown[name.removesuffix(".png")] = dg.MetadataValue.md(
                f"![{name}](data:image/png;base64,{data})"
            )
    if "report.md" in record.files:
        shown["report"] = dg.MetadataValue.md(artifact.file("report.md").read_text("utf-8"))
    if "claims.csv" in record.files:
        shown["claims_table"] = _claims_table(artifact)
    return shown


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
