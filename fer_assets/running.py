"""Decide what has to be made, and make it, for ``fer materialize`` and the job ``everything``.

Groups of assets run one after the other in this process, each as a Dagster run of its stage's job.
After each run the next group is planned anew, so that an unchanged result makes no later group
stale.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from uuid import uuid4

import dagster as dg

from fer_assets.abandoned import PROCESS_TAG, fail_abandoned
from fer_assets.announcing import latest, register_partitions, report, verdict_event
from fer_assets.dagster_private import (
    DATA_VERSION_TAG,
    PARTITION_TAG,
    InMemoryJob,
    RunFailureReason,
    execute_run,
)
from fer_assets.keys import asset_key, asset_of, origin_of, step_of
from fer_assets.lineage import Target
from fer_assets.metadata import artifact_metadata
from fer_assets.notices import gate_fault, red_gates, step_fault
from fer_assets.pipeline import Pipeline
from fer_assets.planning import Failures, Made, StageFailed, Work, batches, leave_out, observe, plan
from fer_assets.selection import Selection, require_inputs
from fer_assets.stage import GROUPS
from fer_assets.staleness import damages as damages_of
from fer_assets.tracing import check_tracing, span
from fer_ml.base.errors import FerError
from fer_ml.base.processes import owner
from fer_ml.storage.artifact import Artifact

log = logging.getLogger(__name__)

NO_FAULT = "the run failed without a step failure; look at it in the UI"


def materialize(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    *,
    select: Callable[[Target], bool] | None = None,
    force: bool = False,
    tags: Mapping[str, str] | None = None,
    on_work: Callable[[Work], None] = lambda work: None,
) -> list[Made]:
    """Make what is missing or stale among the selected targets, and judge what was not judged.

    Without ``select``, everything is made except what is made on request only. A failure skips only
    the targets that depend on it; ``StageFailed`` is raised after the others are made. Raises
    ``KeyboardInterrupt`` when stopped; finished artifacts stay.
    """
    if isinstance(select, Selection):
        require_inputs(pipeline, select, force=force)
    check_tracing()
    pipeline.store.sweep()
    fail_abandoned(instance)
    definitions, failures = _definitions(pipeline), Failures()
    raw = observe(pipeline, instance, failures)
    pipeline.place_images(raw)
    done: list[Made] = []
    selected = [target for target in pipeline.targets() if (select or pipeline.standard)(target)]
    failures.faults = {t: fault for t, fault in failures.faults.items() if t in selected}
    damages = {} if force else damages_of(pipeline, selected)
    for batch in batches(pipeline, selected):
        work = plan(pipeline, batch, raw, failures, damages, force=force)
        if work is not None:
            on_work(work)
            register_partitions(pipeline, instance)
            _run(pipeline, definitions, work, instance, failures, tags or {})
        for target in batch:
            if target in failures:
                continue
            try:
                artifact = pipeline.store.current(target.asset, target.partition)
                if artifact is None:
                    continue
                announce(pipeline, artifact, instance)
            except (FerError, OSError) as error:
                failures.note(target, error)
                continue
            if work is not None and (target in work.make or target in work.judge):
                done.append(Made(target, work.make.get(target, "not judged yet"), artifact))
    if failures.faults:
        raise StageFailed(failures, done)
    return done


def _definitions(pipeline: Pipeline) -> Callable[[], dg.Definitions]:
    """Return the Dagster definitions, built only when something runs: that is not instant."""

    @cache
    def definitions() -> dg.Definitions:
        from fer_assets.repository import definitions_for

        return definitions_for(pipeline)

    return definitions


def _run(
    pipeline: Pipeline,
    definitions: Callable[[], dg.Definitions],
    work: Work,
    instance: dg.DagsterInstance,
    failures: Failures,
    tags: Mapping[str, str] = {},
) -> None:
    """Start the run of a stage, wait for it, and record what it did not make in ``failures``.

    Raises ``KeyboardInterrupt`` if the run was stopped.
    """
    profile = pipeline.profile.name
    keys = {asset_key(profile, target.asset) for target in work.make}
    checks = {
        dg.AssetCheckKey(asset_key(profile, target.asset), gate.rule)
        for target in (*work.make, *work.judge)
        for gate in pipeline.stage(target.asset).gates
    }
    job = (
        definitions()
        .resolve_job_def(work.job)
        .with_executor_def(dg.in_process_executor)
        .get_subset(asset_selection=keys, asset_check_selection=checks)
    )
    run_id = str(uuid4())
    partition = {PARTITION_TAG: work.partition} if work.partition else {}
    names = {"run": run_id, "job": work.job, "partition": work.partition}
    with span(f"run {work.job}", run_id, names, is_run=True) as known:
        run = instance.create_run_for_job(
            job,
            run_id=run_id,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={**tags, **partition, PROCESS_TAG: owner()},
            remote_job_origin=origin_of(profile, work.job),
        )
        result = execute_run(InMemoryJob(job), run, instance)
        known["success"] = result.success
    if _stopped(result):
        raise KeyboardInterrupt
    if not result.success:
        _note(pipeline, work, result, failures)


def _note(
    pipeline: Pipeline, work: Work, result: dg.JobExecutionResult, failures: Failures
) -> None:
    """Record what a run did not make, and why."""
    started = {*work.make, *work.judge}
    targets = {target.asset: target for target in pipeline.targets() if target in started}
    steps = {step_of(pipeline.profile.name, a): target for a, target in targets.items()}
    steps |= {f"gates_{asset.replace('/', '_')}": target for asset, target in targets.items()}
    made: set[str] = set()
    faults: dict[Target | None, str] = {}
    for event in result.all_events:
        if event.event_type_value == "ASSET_MATERIALIZATION" and event.asset_key is not None:
            made.add(asset_of(event.asset_key))
        elif event.event_type_value == "STEP_FAILURE":
            faults.setdefault(steps.get(str(event.step_key)), step_fault(event))
    # Of a red gate its step says no more than that it failed; the first one is told.
    for gate in reversed(list(red_gates(result.all_events))):
        fault = f"{gate_fault(gate)}\n  code: gate-failed"
        faults[targets[asset_of(gate.asset_key)]] = fault
    for target in targets.values():
        missing = target in work.make and target.asset not in made
        if target not in faults and not missing:
            continue
        if not leave_out(failures, target, pipeline.needed(target)):
            fault = faults.get(target) or faults.get(None) or NO_FAULT
            where = f"job {work.job}, run {result.run_id}"
            # A step's fault is the text of its error, and so ends with its code.
            what, told, code = fault.rpartition("\n  code: ")
            failures.faults[target] = FerError(
                what if told else fault, code=code if told else "step-failed", where=where
            )


def _stopped(result: dg.JobExecutionResult) -> bool:
    """Whether a run ended because this process or the run was told to stop."""
    reasons = [
        event.job_failure_data.failure_reason
        for event in result.all_events
        if event.event_type_value == "PIPELINE_FAILURE"
    ]
    canceled = result.dagster_run.status == dg.DagsterRunStatus.CANCELED
    return canceled or RunFailureReason.UNEXPECTED_TERMINATION in reasons


def judge_in_run(pipeline: Pipeline, target: Target, instance: dg.DagsterInstance) -> None:
    """Judge a target's current artifact in a run of its stage's job; ``StageFailed`` if it blocks.

    Dagster accepts a verdict without a run only once for each partition.
    """
    job, failures = GROUPS[pipeline.stage(target.asset).group].job, Failures()
    work = Work(job, target.partition, {}, (target,))
    _run(pipeline, _definitions(pipeline), work, instance, failures)
    if failures.faults:
        raise StageFailed(failures)


def announce(pipeline: Pipeline, artifact: Artifact, instance: dg.DagsterInstance) -> None:
    """Report an artifact and its verdicts to Dagster, unless Dagster shows them as the latest.

    This happens when another instance or a notebook made the latest artifact.
    """
    record = artifact.record
    key = asset_key(pipeline.profile.name, record.asset)
    shown, since = latest(instance, key, record.partition)
    if shown == artifact.sha256:
        return
    # Told with the time of its work, if that does not put it behind what is shown.
    timely = record.made_at.timestamp() > since
    report(
        instance,
        dg.AssetMaterialization(
            key,
            partition=record.partition,
            metadata=artifact_metadata(artifact, faces=pipeline.shows_faces),
            tags={DATA_VERSION_TAG: artifact.sha256},
        ),
        record.made_at.timestamp() if timely else None,
    )
    gates = {gate.rule: gate for gate in pipeline.gates(record.asset)}
    judged = [each for each in artifact.receipts().values() if each.rule in gates]
    receipts = [each for each in judged if each.passed is not None]
    if record.partition is None:
        for receipt in receipts:
            at = datetime.fromisoformat(receipt.checked_at).timestamp() if timely else None
            report(instance, verdict_event(key, gates[receipt.rule], receipt, artifact), at)
    elif receipts:
        judge_in_run(pipeline, Target(record.asset, record.partition), instance)
