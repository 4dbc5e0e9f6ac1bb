"""The notice about a failed run: its failed gates or its error, and the claims affected."""

from collections.abc import Iterable, Iterator
from itertools import chain

import dagster as dg

from fer_assets.keys import asset_of, step_of
from fer_assets.pages import claims_on
from fer_assets.pipeline import Pipeline
from fer_ml.base.notify import Notice
from fer_ml.claims.verify import CLAIMS_ASSET
from fer_ml.storage.record import asset_label

#: Claims that a notice names; the digest has all of them.
MAX_CLAIMS = 10


def gate_fault(evaluation: dg.AssetCheckEvaluation) -> str:
    """Return the text of a failed gate: value, limit, examples and fix."""
    shown = {key: value.value for key, value in evaluation.metadata.items()}
    table = evaluation.metadata.get("examples")
    if isinstance(table, dg.TableMetadataValue):
        examples = [str(record.data["example"]) for record in table.records]
        shown["examples"] = "\n    ".join(examples)
    lines = [
        f"{_label(evaluation)} failed gate '{evaluation.check_name}': "
        f"{shown['value']} (limit {shown['limit']})",
        *(f"{key}: {shown[key]}" for key in ("asks", "detail", "examples", "fix") if key in shown),
    ]
    return "\n  ".join(lines)


def red_gates(events: Iterable[dg.DagsterEvent]) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the blocking gates that failed, from a run's events."""
    for event in events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR:
                yield evaluation


def step_fault(event: dg.DagsterEvent) -> str:
    """Return why a step failed: its own message, or else that of the innermost error."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause is not None and cause.cause:
        cause = cause.cause
    return cause.message.strip() if cause else "no reason was given"


def notice_of(
    pipeline: Pipeline, run: dg.DagsterRun, events: Iterable[dg.DagsterEvent], last_word: str
) -> Notice:
    """Return the notice of a failed run; ``last_word`` is used when no step says why it failed."""
    events = list(events)
    gates = list(red_gates(events))
    faults = [e for e in events if e.event_type_value == "STEP_FAILURE"]
    if gates:
        reasons = [gate_fault(gate) for gate in gates]
        assets = {asset_of(gate.asset_key) for gate in gates}
        what = "red gate " + ", ".join(f"{_label(gate)} {gate.check_name}" for gate in gates)
    else:
        reasons = [f"{fault.step_key}: {step_fault(fault)}" for fault in faults] or [last_word]
        # The step that makes an asset has the asset's name.
        steps = {fault.step_key for fault in faults}
        assets = {a for a in pipeline.stages if step_of(pipeline.profile.name, a) in steps}
        partition = run.tags.get("dagster/partition")
        labels = (asset_label(asset, partition) for asset in sorted(assets))
        what = f"failed: {', '.join(labels) or run.job_name}"
    failed = _not_grounded(pipeline) if CLAIMS_ASSET in assets else []
    claims = (claims_on(pipeline.stages, pipeline.claims, asset) for asset in sorted(assets))
    resting = list(dict.fromkeys([*failed, *chain.from_iterable(claims)]))
    lines = [*reasons, f"run {run.run_id}, job {run.job_name}"]
    if resting:
        more = f" and {len(resting) - MAX_CLAIMS} more" if len(resting) > MAX_CLAIMS else ""
        lines.append(f"claims on it: {', '.join(resting[:MAX_CLAIMS])}{more}")
    return Notice(
        "red_gate" if gates else "run_failed",
        f"fer {pipeline.profile.name}: {what}",
        "\n".join(lines),
        {
            "profile": pipeline.profile.name,
            "run_id": run.run_id,
            "job": run.job_name,
            "assets": sorted(assets),
            "gates": [gate.check_name for gate in gates],
            "claims": resting,
        },
    )


def _not_grounded(pipeline: Pipeline) -> list[str]:
    """Return the claims that block the report; the gate's examples name only the first ones."""
    artifact = pipeline.store.current(CLAIMS_ASSET)
    claims = artifact.read_json("claims.json")["claims"] if artifact else []
    return [claim["id"] for claim in claims if claim["status"] != "grounded"]


def _label(evaluation: dg.AssetCheckEvaluation) -> str:
    return asset_label(asset_of(evaluation.asset_key), evaluation.partition)
