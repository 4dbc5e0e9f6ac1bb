"""Report to Dagster partitions, artifacts made elsewhere, and verdicts of gates."""

from collections.abc import Iterable

import dagster as dg
from sqlalchemy.exc import IntegrityError

from fer_assets.assets import DYNAMIC
from fer_assets.dagster_private import (
    DATA_VERSION_TAG,
    RUNLESS_JOB_NAME,
    RUNLESS_RUN_ID,
    StepMaterializationData,
)
from fer_assets.keys import table_of
from fer_assets.metadata import outcome_metadata
from fer_assets.pipeline import Pipeline
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.record import Receipt


def register_partitions(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[str]:
    """Register experiments, models and adopted results as partitions; return the new ones."""
    return [
        name
        for asset in DYNAMIC.values()
        for name in add_partitions(
            instance,
            table_of(pipeline.profile.name, asset),
            pipeline.partitions(pipeline.stage(asset)),
        )
    ]


def add_partitions(
    instance: dg.DagsterInstance, definition: str, names: Iterable[str]
) -> list[str]:
    """Add the partitions that Dagster does not know yet; safe beside another process."""
    while True:
        known = set(instance.get_dynamic_partitions(definition))
        new = [name for name in names if name not in known]
        if not new:
            return []
        try:
            instance.add_dynamic_partitions(definition, new)
        except IntegrityError:
            continue
        return new


def latest(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None
) -> tuple[str | None, float]:
    """Return data version and time (s) of an asset's latest event; ``None`` and 0 without one."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None, 0.0
    tags = records[0].asset_materialization.tags or {}
    return tags.get(DATA_VERSION_TAG), records[0].timestamp


def report(
    instance: dg.DagsterInstance,
    event: dg.AssetMaterialization | dg.AssetCheckEvaluation,
    at: float | None,
) -> None:
    """Record an event without a run, at the time ``at`` (s) or now.

    ``report_runless_asset_event`` supports no time other than now.
    """
    data: StepMaterializationData | dg.AssetCheckEvaluation
    if isinstance(event, dg.AssetMaterialization):
        kind, data = "ASSET_MATERIALIZATION", StepMaterializationData(event)
    else:
        kind, data = "ASSET_CHECK_EVALUATION", event
    dagster_event = dg.DagsterEvent(kind, RUNLESS_JOB_NAME, event_specific_data=data)
    instance.report_dagster_event(dagster_event, RUNLESS_RUN_ID, timestamp=at)


def verdict_event(
    key: dg.AssetKey, gate: Gate, receipt: Receipt, artifact: Artifact
) -> dg.AssetCheckEvaluation:
    """Convert the receipt of an applicable gate on ``artifact`` into a Dagster check evaluation."""
    outcome = Outcome(
        receipt.rule,
        receipt.passed,
        receipt.value,
        receipt.limit,
        receipt.detail,
        receipt.examples,
    )
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=receipt.rule,
        passed=bool(receipt.passed),
        metadata=outcome_metadata(gate, outcome, artifact),
        severity=dg.AssetCheckSeverity.ERROR if receipt.blocking else dg.AssetCheckSeverity.WARN,
    )
