"""What has to be made, and making it: the work behind ``fer materialize`` and job ``everything``.

Groups of assets run one after the other, each as a Dagster run of its stage's job, in this process.
After each run the next group is planned anew, so that an unchanged result makes no later group
stale.
"""

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from sqlalchemy.exc import IntegrityError

from fer_assets.assets import ADOPTED, EXPERIMENTS, HOST_TAG, MODELS
from fer_assets.lineage import Pipeline, Target
from fer_assets.metadata import artifact_metadata, outcome_metadata
from fer_assets.notices import gate_fault, red_gates, step_fault
from fer_assets.tracing import check_tracing, span
from fer_ml.errors import FerError
from fer_ml.files import discard
from fer_ml.gates import Outcome, gates_of
from fer_ml.processes import ended, gone, owner
from fer_ml.settings import postgres_url
from fer_ml.store import Artifact, Receipt

log = logging.getLogger(__name__)

#: Which job runs the assets of a group.
JOB_OF_GROUP = {
    "manifests": "data",
    "folds": "folds",
    "teachers": "teachers",
    "distillation": "distillation",
    "students": "students",
    "experiments": "experiments",
    "models": "models",
    "comparisons": "comparisons",
    "evaluation": "evaluation",
    "adopted": "adoption",
    "deployment": "deployment",
    "report": "reporting",
}


#: On a run: the process that makes it, as ``host@pid``.
PROCESS_TAG = "fer/process"


@dataclass(frozen=True)
class Work:
    """One run to start: a stage's job, with the targets to make and those only to judge."""

    job: str
    partition: str | None
    make: dict[Target, str]
    judge: tuple[Target, ...]


@dataclass(frozen=True)
class Made:
    """One target that was made or judged, and why."""

    target: Target
    reason: str
    artifact: Artifact


class StageFailed(FerError):
    """A stage's run failed; the first fault is its text."""


def observe(pipeline: Pipeline, instance: dg.DagsterInstance) -> dict[str, str]:
    """Fingerprint the raw folders, note each change in Dagster, and return them by source."""
    found = {}
    for source in pipeline.profile.sources:
        item = pipeline.raw_input(source.name)
        found[source.name] = item.sha256
        key = dg.AssetKey(item.asset.split("/"))
        latest = instance.fetch_observations(key, limit=1).records
        noted = latest[0].asset_observation.data_version if latest else None  # type: ignore[union-attr]
        if noted != item.sha256:
            instance.report_runless_asset_event(
                dg.AssetObservation(
                    key,
                    tags={DATA_VERSION_TAG: item.sha256},
                    metadata={"root": dg.MetadataValue.path(str(Path(str(item.root))))},
                )
            )
    return found


def batches(pipeline: Pipeline, selected: Iterable[Target]) -> list[list[Target]]:
    """The targets grouped by stage and partition, in an order in which each follows its inputs."""
    grouped: dict[tuple[str, str | None], list[Target]] = {}
    for target in selected:
        group = pipeline.stage(target.asset).group
        grouped.setdefault((group, target.partition), []).append(target)
    return list(grouped.values())


def plan(
    pipeline: Pipeline, batch: list[Target], raw: Mapping[str, str], *, force: bool
) -> Work | None:
    """What has to be done for one batch now, or ``None`` when it is up to date."""
    make: dict[Target, str] = {}
    judge = []
    for target in batch:
        reason = "forced" if force else pipeline.stale(target, dict(raw))
        if reason is None:
            above = [need.label for need in pipeline.needed(target) if need in make]
            reason = f"follows {', '.join(above)}" if above else None
        if reason is not None:
            make[target] = reason
        elif pipeline.unjudged(target):
            judge.append(target)
    if not make and not judge:
        return None
    group = pipeline.stage(batch[0].asset).group
    return Work(JOB_OF_GROUP[group], batch[0].partition, make, tuple(judge))


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

    Without ``select`` these are all but those that are made on request only.
    ``StageFailed`` at the first run that fails; what was finished before it stays.
    """
    from fer_assets.definitions import definitions_for

    check_tracing()
    definitions = definitions_for(pipeline)
    pipeline.store.sweep()
    bury(instance)
    raw = observe(pipeline, instance)
    pipeline.place_images(raw)
    done: list[Made] = []
    selected = [target for target in pipeline.targets() if (select or pipeline.standard)(target)]
    for batch in batches(pipeline, selected):
        work = plan(pipeline, batch, raw, force=force)
        if work is not None:
            on_work(work)
            register_partitions(pipeline, instance)
            _run(definitions, work, instance, dict(tags or {}))
        for target in batch:
            artifact = pipeline.store.current(target.asset, target.partition)
            if artifact is None:
                continue
            announce(pipeline, artifact, instance)
            if work is not None and (target in work.make or target in work.judge):
                done.append(Made(target, work.make.get(target, "not judged yet"), artifact))
    return done


def register_partitions(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[str]:
    """Make experiments, models and adopted results known to Dagster; returns the new ones."""
    profile = pipeline.profile
    adopted = pipeline.partitions(pipeline.stage("adopted"))
    tables = ((EXPERIMENTS, profile.experiments), (MODELS, profile.models), (ADOPTED, adopted))
    return [name for definition, names in tables for name in _add(instance, definition, names)]


def _add(instance: dg.DagsterInstance, definition: str, names: Iterable[str]) -> list[str]:
    """Add what is not known yet. Another process may add the same in the same moment."""
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


def bury(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process on this machine is gone, and free their places in the pools.

    A kill, or a restart of the machine, leaves a run started for ever, and a training that waits
    for its place in the pool would wait for ever too. Returns their ids.
    """
    dead = []
    running = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=running)):
        # A number of a process says something on its own machine alone.
        here = postgres_url() is None or run.tags.get(HOST_TAG) == socket.gethostname()
        if gone(run.tags.get(PROCESS_TAG, "")) or (here and _worker_gone(instance, run.run_id)):
            instance.report_run_failed(run, "the process that made this run is gone")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        held = instance.get_run_by_id(run_id)
        if held is None or held.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return dead


def _worker_gone(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run that the UI or the daemon started has lost its process.

    Its first event with a number of a process is that of the worker, which the default launcher
    starts on this machine.
    """
    for record in instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=20, ascending=True
    ).records:
        event = record.event_log_entry.dagster_event
        told = event.engine_event_data.metadata.get("pid") if event else None
        if told is not None:
            return ended(int(str(told.value)), record.event_log_entry.timestamp)
    return False


def _run(
    definitions: dg.Definitions, work: Work, instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    keys = {dg.AssetKey(target.asset.split("/")) for target in work.make}
    checks = {
        dg.AssetCheckKey(dg.AssetKey(target.asset.split("/")), gate.rule)
        for target in (*work.make, *work.judge)
        for gate in gates_of(target.asset)
    }
    job = definitions.resolve_job_def(work.job).get_subset(
        asset_selection=keys, asset_check_selection=checks
    )
    run_id = str(uuid4())
    names = {"run": run_id, "job": work.job, "partition": work.partition}
    with span(f"run {work.job}", run_id, names, is_run=True) as known:
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=work.partition,
            raise_on_error=False,
            tags={**tags, PROCESS_TAG: owner()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        known["success"] = result.success
    if not result.success:
        raise StageFailed(_first_fault(result), where=f"job {work.job}, run {result.run_id}")


def judge_in_run(pipeline: Pipeline, target: Target, instance: dg.DagsterInstance) -> None:
    """Judge a target's current artifact in a run of its stage's job; ``StageFailed`` if it blocks.

    Dagster takes the verdict on a partition without a run once and never again.
    """
    from fer_assets.definitions import definitions_for

    job = JOB_OF_GROUP[pipeline.stage(target.asset).group]
    _run(definitions_for(pipeline), Work(job, target.partition, {}, (target,)), instance, {})


def _first_fault(result: dg.ExecuteInProcessResult) -> str:
    """The first red gate with its value, limit and fix, or else the first failed step's fault."""
    for gate in red_gates(result.all_events):
        return gate_fault(gate)
    for event in result.all_events:
        if event.event_type_value == "STEP_FAILURE":
            return step_fault(event)
    return "the run failed without a step failure; look at it in the UI"


def announce(pipeline: Pipeline, artifact: Artifact, instance: dg.DagsterInstance) -> None:
    """Tell Dagster of an artifact, and of its verdicts, that it does not show as the latest.

    That is so when another profile, another instance or a notebook made the last one.
    """
    record = artifact.record
    key = dg.AssetKey(record.asset.split("/"))
    if _shown_version(instance, key, record.partition) == artifact.sha256:
        return
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            key,
            partition=record.partition,
            metadata=artifact_metadata(artifact, faces=pipeline.shows_faces),
            tags={DATA_VERSION_TAG: artifact.sha256},
        )
    )
    receipts = artifact.receipts().values()
    if record.partition is None:
        for receipt in receipts:
            instance.report_runless_asset_event(_evaluation(key, receipt))
    elif receipts:
        judge_in_run(pipeline, Target(record.asset, record.partition), instance)


def _shown_version(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None
) -> str | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    return (records[0].asset_materialization.tags or {}).get(DATA_VERSION_TAG)


def _evaluation(key: dg.AssetKey, receipt: Receipt) -> dg.AssetCheckEvaluation:
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
        passed=receipt.passed,
        metadata=outcome_metadata(receipt.asset, outcome),
        severity=dg.AssetCheckSeverity.ERROR if receipt.blocking else dg.AssetCheckSeverity.WARN,
    )


def forget_pictures(assets: Iterable[str]) -> None:
    """Delete the runs that made these assets, and their events: Dagster keeps pictures in them."""
    # These take a third of the time in which a code location loads, and it never comes here.
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

    from fer_assets.storage import dagster_instance

    with dagster_instance() as instance:
        for asset in assets:
            key = dg.AssetKey(asset.split("/"))
            records = instance.fetch_materializations(key, limit=10_000).records
            for run_id in {record.run_id for record in records if record.run_id}:
                if instance.has_run(run_id):
                    instance.delete_run(run_id)
                if isinstance(instance.event_log_storage, SqliteEventLogStorage):
                    # Its rows are deleted, and their bytes still lie in the files of the run.
                    database = instance.event_log_storage.path_for_shard(run_id)
                    for file in map(Path, (database, f"{database}-wal", f"{database}-shm")):
                        if file.exists():
                            file.write_bytes(b"")  # Another process may have it open.
                            discard(file)
            instance.wipe_assets([key])
