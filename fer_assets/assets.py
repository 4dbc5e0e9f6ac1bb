"""Dagster's software-defined assets and asset checks, built from the stages.

An asset makes its artifact through ``Pipeline.make``, which requires inputs that passed their
gates. A check judges the artifact through ``Pipeline.judge``, which writes the receipts that
consumers require. Asset and check themselves only add what Dagster shows.
"""

import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from fer_assets.dagster_private import DATA_VERSION_TAG
from fer_assets.keys import asset_key, table_of
from fer_assets.lineage import Target
from fer_assets.metadata import artifact_metadata, outcome_metadata
from fer_assets.pages import describe, describe_source
from fer_assets.pipeline import Pipeline
from fer_assets.stage import DECODING, TRAINING, Need, Stage
from fer_assets.staleness import unjudged
from fer_ml.base.cost import metered
from fer_ml.base.errors import FerError
from fer_ml.base.files import PASSING
from fer_ml.base.settings import environment
from fer_ml.recipes.profile import BACKBONES
from fer_ml.storage.gates import word_of
from fer_ml.storage.record import Input

OWNERS = ["team:fer"]
#: On a run: files that seem unchanged are decoded again.
FULL_PASS_TAG = "fer/full_pass"
#: On a run in Postgres: the machine that it is on.
HOST_TAG = "fer/host"
#: Assets whose partitions become known as they are named, or adopted, by the kind of these.
DYNAMIC = {
    "experiments": "student_experiment",
    "models": "external_model",
    "adopted": "adopted",
}


def partitions_of(pipeline: Pipeline, stage: Stage) -> dg.PartitionsDefinition[Any] | None:
    """Return the partitions definition of a stage's asset; ``None`` if it is unpartitioned."""
    if stage.partitions == "teachers":
        trained = [name for name in BACKBONES if name in pipeline.profile.teachers]
        return dg.StaticPartitionsDefinition(trained)
    if stage.partitions == "folds":
        return dg.StaticPartitionsDefinition(list(pipeline.profile.folds))
    if stage.partitions is not None:
        table = table_of(pipeline.profile.name, DYNAMIC[stage.partitions])
        return dg.DynamicPartitionsDefinition(name=table)
    return None


def mapping_of(pipeline: Pipeline, need: Need) -> dg.PartitionMapping | None:
    """Return the mapping from a consumer's partition to the partitions of one of its inputs."""
    if need.partition == "same":
        return dg.IdentityPartitionMapping()
    if need.partition == "each":
        return dg.AllPartitionMapping()
    if need.partition == "named":
        return dg.SpecificPartitionsPartitionMapping(list(need.keys))
    if need.partition == "folds":
        teachers = {name: teacher for name, (teacher, _) in pipeline.profile.folds.items()}
        return dg.StaticPartitionMapping(teachers)
    return None


def raw_asset(pipeline: Pipeline, source: str) -> dg.SourceAsset:
    """Return ``raw/<source>``: an external folder whose data version is its fingerprint."""

    @dg.observable_source_asset(
        key=asset_key(pipeline.profile.name, f"raw/{source}"),
        group_name="raw",
        description=describe_source(pipeline, source),
        tags={"dagster/kind/file": ""},
    )
    def observe(context: Any) -> dg.ObserveResult:
        return observation(pipeline, source)

    return observe


def observation(pipeline: Pipeline, source: str) -> dg.ObserveResult:
    """Observe a raw source: its current fingerprint as data version."""
    raw_input = pipeline.raw_input(source)
    return dg.ObserveResult(
        data_version=dg.DataVersion(raw_input.sha256),
        metadata={"root": dg.MetadataValue.path(str(raw_input.root))},
    )


def unseen(
    pipeline: Pipeline, instance: dg.DagsterInstance, raw_input: Input
) -> dg.AssetObservation | None:
    """Return an observation of a raw source; ``None`` if the latest has the same fingerprint."""
    key = asset_key(pipeline.profile.name, raw_input.asset)
    latest = instance.fetch_observations(key, limit=1).records
    noted = latest[0].asset_observation.data_version if latest else None  # type: ignore[union-attr]
    if noted == raw_input.sha256:
        return None
    return dg.AssetObservation(
        key,
        tags={DATA_VERSION_TAG: raw_input.sha256},
        metadata={"root": dg.MetadataValue.path(str(raw_input.root))},
    )


def stage_asset(
    pipeline: Pipeline, stage: Stage, condition: dg.AutomationCondition[Any] | None = None
) -> dg.AssetsDefinition:
    """Return the asset of one stage; ``condition`` decides when it is made automatically."""
    profile = pipeline.profile.name
    deps = [
        dg.AssetDep(asset_key(profile, need.asset), partition_mapping=mapping_of(pipeline, need))
        for need in stage.needs
    ]
    if stage.raw is not None:
        deps.append(dg.AssetDep(asset_key(profile, f"raw/{stage.raw}")))

    @dg.asset(
        key=asset_key(profile, stage.asset),
        deps=deps,
        group_name=stage.group,
        kinds=set(stage.kinds),
        owners=OWNERS,
        code_version=pipeline.code_version(stage),
        description=describe(pipeline, stage),
        partitions_def=partitions_of(pipeline, stage),
        pool=stage.pool,
        op_tags=_on_ray(pipeline, stage),
        freshness_policy=_freshness(stage),
        automation_condition=condition,
    )
    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        partition = context.partition_key if context.has_partition_key else None
        target = Target(stage.asset, partition)
        with _plain_failure():
            wait_for_gates(pipeline, target, context.instance, context.run)
            artifact = _as_asked(pipeline, context.instance, context.run).make(
                target, run_id=context.run.run_id
            )
        for source in (item for item in artifact.record.inputs if item.root is not None):
            if (seen := unseen(pipeline, context.instance, source)) is not None:
                context.log_event(seen)
                # Else Dagster says that it was made of what was known before.
                step = context.get_step_execution_context()
                step.wipe_input_asset_version_info(seen.asset_key)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(artifact.sha256),
            metadata=artifact_metadata(artifact, faces=pipeline.shows_faces),
        )

    return materialize


def stage_checks(pipeline: Pipeline, stage: Stage) -> dg.AssetChecksDefinition:
    """Return the gates of one stage as asset checks that are judged together."""
    key = asset_key(pipeline.profile.name, stage.asset)
    gates = pipeline.gates(stage.asset)

    @dg.multi_asset_check(
        name=f"gates_{stage.asset.replace('/', '_')}",
        specs=[
            dg.AssetCheckSpec(
                gate.rule,
                asset=key,
                description=f"{gate.asks}. If it fails: {gate.fix}.",
                blocking=gate.blocking,
                # Each partition keeps its own verdict; without it the last writer's would stand.
                partitions_def=partitions_of(pipeline, stage),
            )
            for gate in gates
        ],
        # Without it the UI offers no button that judges without making.
        can_subset=True,
        # Two gates at once would decode the same images twice.
        pool=DECODING if stage.group == "manifests" else None,
    )
    def judge(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        execution = context.op_execution_context
        partition = execution.partition_key if execution.has_partition_key else None
        with _plain_failure(), metered() as meter:
            outcomes = _as_asked(pipeline, execution.instance, execution.run).judge(
                Target(stage.asset, partition), run_id=execution.run.run_id
            )
        named = {gate.rule: gate for gate in gates}
        cost = {"seconds": meter.seconds, **meter.read()}
        asked = {key.name for key in context.selected_asset_check_keys}
        artifact = pipeline.store.current(stage.asset, partition)
        assert artifact is not None, "it was judged just now"
        for outcome in (outcome for outcome in outcomes if outcome.rule in asked):
            if outcome.passed is None:
                # Dagster has no word for it, and shows a check without a result as skipped: grey.
                context.log.info(f"{outcome.rule}: {word_of(None)}, {outcome.detail}")
                continue
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=outcome.rule,
                passed=outcome.passed,
                severity=dg.AssetCheckSeverity.ERROR
                if named[outcome.rule].blocking
                else dg.AssetCheckSeverity.WARN,
                metadata={**outcome_metadata(named[outcome.rule], outcome, artifact), **cost},
            )

    return judge


def _on_ray(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    """Return the resources that a step requests from a Ray cluster; without a request, no GPU."""
    if stage.pool == TRAINING and pipeline.settings.device == "cuda":
        return {"dagster-ray/config": {"num_gpus": pipeline.settings.processes}}
    return {}


def _freshness(stage: Stage) -> dg.FreshnessPolicy | None:
    """Return the policy that warns about a result that is too old: unjudged for two nights."""
    if stage.fresh_hours is None:
        return None
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=2 * stage.fresh_hours),
        warn_window=timedelta(hours=stage.fresh_hours),
    )


def wait_for_gates(
    pipeline: Pipeline, target: Target, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    """Ask Dagster to retry while another run still judges an input of ``target``.

    A backfill starts a step when its inputs are made, which is before their gates are judged.
    """
    for need in pipeline.needed(target):
        made = pipeline.store.current(need.asset, need.partition)
        if made is None or made.record.run_id in (None, run.run_id):
            continue
        maker = instance.get_run_by_id(made.record.run_id)
        if maker is not None and not maker.is_finished and unjudged(pipeline, need):
            raise dg.RetryRequested(max_retries=360, seconds_to_wait=10)


def _as_asked(pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Pipeline:
    if (
        environment().FER_POSTGRES is not None
    ):  # Other machines see this run, and cannot see its process.
        instance.add_run_tags(run.run_id, {HOST_TAG: socket.gethostname()})
    if FULL_PASS_TAG not in run.tags:
        return pipeline
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    # Once in a run is enough: its manifests share their images.
    return pipeline.looking_again(record.create_timestamp.timestamp())


class _plain_failure:
    """Turn a ``FerError`` into a Dagster failure, so that the UI shows its message first.

    Faults that the user must fix are not retried: they would fail again. An ``OSError`` may be
    temporary (a network folder, a busy disk) and is retried once; a training then resumes.
    Interrupts are passed on unchanged.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        cause = error.__cause__ if isinstance(error, FerError) else error
        passing = isinstance(cause, OSError) and cause.errno in PASSING
        if isinstance(error, FerError) and not passing:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        if isinstance(cause, OSError):
            raise dg.RetryRequested(max_retries=1, seconds_to_wait=5) from error
