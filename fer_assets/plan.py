"""What has to be made, and making it: the work behind ``fer materialize`` and job ``everything``.

Groups of assets run one after the other, each as a Dagster run of its stage's job, in this process.
After each run the next group is planned anew, so that an unchanged result makes no later group
stale.
"""

import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.events import RunFailureReason
from sqlalchemy.exc import IntegrityError

from fer_assets.assets import ADOPTED, EXPERIMENTS, HOST_TAG, MODELS
from fer_assets.lineage import Pipeline, Target
from fer_assets.metadata import artifact_metadata, outcome_metadata
from fer_assets.notices import gate_fault, red_gates, step_fault
from fer_assets.selection import Selection, require_inputs
from fer_assets.tracing import check_tracing, span
from fer_ml.base.errors import FerError
from fer_ml.base.files import discard
from fer_ml.base.processes import ended, gone, owner
from fer_ml.base.settings import postgres_url
from fer_ml.sources.raw import ensure_raw
from fer_ml.storage.gates import Outcome, gates_of
from fer_ml.storage.store import Artifact, Receipt

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


NO_FAULT = "the run failed without a step failure; look at it in the UI"
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


@dataclass
class Failures:
    """What could not be made: the fault of each target that failed, and what rests on these.

    ``lost`` are the targets that were left out, each with those that failed among what it is made
    of, at any distance.
    """

    faults: dict[Target, FerError] = field(default_factory=dict)
    lost: dict[Target, list[Target]] = field(default_factory=dict)

    def note(self, target: Target, error: FerError | OSError) -> None:
        """``target`` has failed, be it that the system refuses to read what is there."""
        if isinstance(error, OSError):
            error = FerError(
                f"cannot be read: {error.strerror or error}",
                where=error.filename,
                fix="make it readable again (disk, network folder, permissions)",
            )
        self.faults[target] = error

    def below(self, needed: Iterable[Target]) -> list[Target]:
        """Those that failed among ``needed`` and what these are made of."""
        found = ([n] if n in self.faults else self.lost.get(n, []) for n in needed)
        return list(dict.fromkeys(target for targets in found for target in targets))

    def __contains__(self, target: Target) -> bool:
        return target in self.faults or target in self.lost


class StageFailed(FerError):
    """Something could not be made or did not pass a gate; the first fault is its text.

    ``done`` was made all the same, and ``failures`` are all that was not.
    """

    def __init__(self, failures: Failures, done: Sequence[Made] = ()) -> None:
        first = next(iter(failures.faults.values()))
        super().__init__(first.what, where=first.where, allowed=first.allowed, fix=first.fix)
        self.failures = failures
        self.done = list(done)


def observe(pipeline: Pipeline, instance: dg.DagsterInstance, failures: Failures) -> dict[str, str]:
    """Fingerprint the raw folders, note each change in Dagster, and return them by source.

    The manifest of a source that is not there has failed.
    """
    ensure_raw(pipeline.profile, pipeline.store)
    found = {}
    for source in pipeline.profile.sources:
        try:
            item = pipeline.raw_input(source.name)
        except (FerError, OSError) as error:
            failures.note(Target(f"manifest/{source.name}"), error)
            continue
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
    pipeline: Pipeline,
    batch: list[Target],
    raw: Mapping[str, str],
    failures: Failures,
    damages: Mapping[Path, str | None],
    *,
    force: bool,
) -> Work | None:
    """What has to be done for one batch now, or ``None`` when it is up to date.

    What rests on something that failed is left out; a target that cannot be looked at has failed.
    """
    make: dict[Target, str] = {}
    judge = []
    for target in batch:
        try:
            needed = pipeline.needed(target)
            if target in failures or _leave_out(failures, target, needed):
                continue
            reason = "forced" if force else pipeline.stale(target, raw, damages)
            above = [need.label for need in needed if need in make]
            reason = reason or (f"follows {', '.join(above)}" if above else None)
            reason = reason or pipeline.too_slow(target)
            if reason is not None:
                make[target] = reason
            elif pipeline.unjudged(target):
                judge.append(target)
        except (FerError, OSError) as error:
            failures.note(target, error)
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

    Without ``select`` these are all but those that are made on request only. What fails stops what
    rests on it and nothing else: ``StageFailed`` comes after the rest was made.
    ``KeyboardInterrupt`` when it is stopped; what is finished stays.
    """
    if isinstance(select, Selection):
        require_inputs(pipeline, select, force=force)
    check_tracing()
    pipeline.store.sweep()
    bury(instance)
    definitions, failures = _definitions(pipeline), Failures()
    raw = observe(pipeline, instance, failures)
    pipeline.place_images(raw)
    done: list[Made] = []
    selected = [target for target in pipeline.targets() if (select or pipeline.standard)(target)]
    failures.faults = {t: fault for t, fault in failures.faults.items() if t in selected}
    damages = {} if force else pipeline.damages(selected)
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


def _leave_out(failures: Failures, target: Target, needed: Iterable[Target]) -> bool:
    """Note ``target`` as lost if it rests on what failed; whether it does."""
    below = failures.below(needed)
    if below:
        failures.lost[target] = below
    return bool(below)


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


def _definitions(pipeline: Pipeline) -> Callable[[], dg.Definitions]:
    """The definitions, made when there is something to run: they take a part of a second."""

    @cache
    def definitions() -> dg.Definitions:
        from fer_assets.definitions import definitions_for

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
    """Start the run of a stage and wait for it; what it did not make is noted in ``failures``.

    ``KeyboardInterrupt`` when it was stopped.
    """
    keys = {dg.AssetKey(target.asset.split("/")) for target in work.make}
    checks = {
        dg.AssetCheckKey(dg.AssetKey(target.asset.split("/")), gate.rule)
        for target in (*work.make, *work.judge)
        for gate in gates_of(target.asset)
    }
    job = (
        definitions()
        .resolve_job_def(work.job)
        .get_subset(asset_selection=keys, asset_check_selection=checks)
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
    if _stopped(result):
        raise KeyboardInterrupt
    if not result.success:
        _note(pipeline, work, result, failures)


def _note(
    pipeline: Pipeline, work: Work, result: dg.ExecuteInProcessResult, failures: Failures
) -> None:
    """Note what a run did not make, and why."""
    started = {*work.make, *work.judge}
    targets = {target.asset: target for target in pipeline.targets() if target in started}
    steps = {asset.replace("/", "__"): target for asset, target in targets.items()}
    steps |= {f"gates_{asset.replace('/', '_')}": target for asset, target in targets.items()}
    made: set[str] = set()
    faults: dict[Target | None, str] = {}
    for event in result.all_events:
        if event.event_type_value == "ASSET_MATERIALIZATION" and event.asset_key is not None:
            made.add(event.asset_key.to_user_string())
        elif event.event_type_value == "STEP_FAILURE":
            faults.setdefault(steps.get(str(event.step_key)), step_fault(event))
    # Of a red gate its step says no more than that it failed; the first one is told.
    for gate in reversed(list(red_gates(result.all_events))):
        faults[targets[gate.asset_key.to_user_string()]] = gate_fault(gate)
    for target in targets.values():
        missing = target in work.make and target.asset not in made
        if target not in faults and not missing:
            continue
        if not _leave_out(failures, target, pipeline.needed(target)):
            fault = faults.get(target) or faults.get(None) or NO_FAULT
            where = f"job {work.job}, run {result.run_id}"
            failures.faults[target] = FerError(fault, where=where)


def _stopped(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run ended because this process, or the run, was told to stop."""
    reasons = [
        event.job_failure_data.failure_reason
        for event in result.all_events
        if event.event_type_value == "PIPELINE_FAILURE"
    ]
    canceled = result.dagster_run.status == dg.DagsterRunStatus.CANCELED
    return canceled or RunFailureReason.UNEXPECTED_TERMINATION in reasons


def judge_in_run(pipeline: Pipeline, target: Target, instance: dg.DagsterInstance) -> None:
    """Judge a target's current artifact in a run of its stage's job; ``StageFailed`` if it blocks.

    Dagster takes the verdict on a partition without a run once and never again.
    """
    job, failures = JOB_OF_GROUP[pipeline.stage(target.asset).group], Failures()
    work = Work(job, target.partition, {}, (target,))
    _run(pipeline, _definitions(pipeline), work, instance, failures)
    if failures.faults:
        raise StageFailed(failures)


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
