"""Dagster jobs, schedules, sensors and automation conditions.

All of them are switched on after installation, because none of them trains. A changed raw folder
updates the manifests up to their gates and stops there. Nothing is made for the first time
automatically.
"""

import json
from collections.abc import Callable, Sequence, Set
from typing import Any

import dagster as dg
from pydantic import Field

from fer_assets.abandoned import maker
from fer_assets.announcing import register_partitions
from fer_assets.assets import FULL_PASS_TAG
from fer_assets.dagster_private import DATA_VERSION_TAG, UnresolvedAssetJobDefinition
from fer_assets.digest import digest_of
from fer_assets.keys import asset_key
from fer_assets.notices import notice_of
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.stage import GROUPS
from fer_assets.tracing import export
from fer_ml.base.errors import FerError
from fer_ml.base.notify import send
from fer_ml.privacy.retention import delete_expired

#: What starts by itself waits in the queue behind what people start.
BEHIND_PEOPLE = {"dagster/priority": "-1"}


def stage_jobs(groups_here: Set[str]) -> list[UnresolvedAssetJobDefinition]:
    """Return one job per stage group of the profile: its assets with all their checks."""
    return [
        dg.define_asset_job(
            group.job, selection=dg.AssetSelection.groups(group.name), description=group.does
        )
        for group in GROUPS.values()
        if group.name in groups_here
    ]


def revalidate_jobs(
    pipeline: Pipeline, manifests: Sequence[dg.AssetsDefinition]
) -> list[UnresolvedAssetJobDefinition]:
    """Return the two jobs that judge all manifests again: new reports and receipts, same manifests.

    ``revalidate`` decodes images that changed on disk; ``revalidate_fully`` decodes all images.
    """
    reports = asset_key(pipeline.profile.name, "manifest_validation")
    selection = dg.AssetSelection.assets(reports) | (
        dg.AssetSelection.checks_for_assets(*manifests)
    )
    return [
        dg.define_asset_job(
            "revalidate",
            selection=selection,
            description="Validate all manifests again: every row, and every image that changed "
            "on disk (size, time, inode) since it was last decoded.",
        ),
        dg.define_asset_job(
            "revalidate_fully",
            selection=selection,
            tags={FULL_PASS_TAG: "true"},
            description="Validate all manifests again: every row, every image decoded.",
        ),
    ]


class Everything(dg.Config):
    """Run configuration of the job ``everything``, as the launchpad asks for it."""

    select: str = Field(
        default="",
        description="Assets, partitions or groups, separated by commas, such as "
        "manifests,teacher[RN18], or Dagster's selection syntax, such as +teacher[RN18]. Empty: "
        "everything except assets made on request only.",
    )
    force: bool = Field(default=False, description="Also make selected assets that are up to date.")


def everything_job(pipeline: Pipeline) -> dg.JobDefinition:
    """Return the job that makes what is missing or stale, stage by stage, as ``fer materialize``.

    A Dagster run has one partition, so one run cannot hold all teachers and what follows them. The
    job therefore starts a run for each stage; these appear beside it.
    """

    @dg.op(
        description="Make every missing or stale asset in order, each stage in a run of its own."
    )
    def make_everything(context: dg.OpExecutionContext, config: Everything) -> None:
        try:
            done = materialize(
                pipeline,
                context.instance,
                select=pipeline.named(config.select) if config.select else None,
                force=config.force,
                tags={"fer/everything": context.run.run_id},
            )
        except FerError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        context.add_output_metadata({"made": len(done)})

    @dg.job(
        description="The whole lineage: every missing or stale asset, in order.",
        # The launchpad opens with every field and its default filled in.
        config=dg.RunConfig(ops={"make_everything": Everything()}),
    )
    def everything() -> None:
        make_everything()

    return everything


def digest_job(pipeline: Pipeline) -> dg.JobDefinition:
    """Return the job that sends the digest to the configured recipients."""

    @dg.op(description="Examine all artifacts, and send what is red, stale or unverified.")
    def send_digest(context: dg.OpExecutionContext) -> None:
        digest = digest_of(pipeline)
        context.add_output_metadata({**digest.counts, "made": digest.made})
        try:
            send(digest.notice(), pipeline.settings.notify)
        except FerError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    @dg.job(name="digest", description="Send what is red, stale or unverified now.")
    def digest() -> None:
        send_digest()

    return digest


def revalidations(
    pipeline: Pipeline, jobs: Sequence[UnresolvedAssetJobDefinition]
) -> list[dg.ScheduleDefinition]:
    """Return the schedules: changed images are validated every night, all images every week."""
    nightly, weekly = jobs

    def anything_made() -> str | None:
        made = pipeline.store.current("classification_manifest")
        return None if made else "there is no manifest yet: fer materialize makes the first"

    return [
        _schedule(
            "nightly_revalidation",
            nightly,
            "0 3 * * *",
            "Every night at 03:00 UTC: every row, and every image that changed on disk.",
            anything_made,
        ),
        _schedule(
            "weekly_full_revalidation",
            weekly,
            "0 4 * * 0",
            "Every Sunday at 04:00 UTC: every row, every image decoded again.",
            anything_made,
        ),
    ]


def retention_job(pipeline: Pipeline) -> dg.JobDefinition:
    """Return the job that deletes recorded frames older than ``keep_recordings_days``."""

    @dg.op(description="Delete recorded frames older than keep_recordings_days; logs stay.")
    def delete_recordings(context: dg.OpExecutionContext) -> None:
        settings = pipeline.settings
        deleted = delete_expired(settings.home, settings.config.keep_recordings_days)
        context.add_output_metadata({"sessions": len(deleted)})

    @dg.job(
        name="retention",
        description="Delete recorded frames that are older than keep_recordings_days.",
    )
    def retention() -> None:
        delete_recordings()

    return retention


def retention_schedule(pipeline: Pipeline, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Return the nightly schedule of the retention job; skips without ``keep_recordings_days``."""

    def any_due() -> str | None:
        days = pipeline.settings.config.keep_recordings_days
        return "keep_recordings_days is not set: recordings stay" if days is None else None

    return _schedule(
        "nightly_retention",
        job,
        "0 2 * * *",
        "Every night at 02:00 UTC: deletes recorded frames older than keep_recordings_days.",
        any_due,
    )


def digest_schedule(pipeline: Pipeline, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Return the daily schedule of the digest; it skips when no recipient is configured."""

    def anybody_to_tell() -> str | None:
        ways = pipeline.settings.notify.ways
        return None if ways else "neither FER_WEBHOOK nor FER_SMTP is set: fer digest shows it"

    return _schedule(
        "daily_digest",
        job,
        "0 6 * * *",
        "Every morning at 06:00 UTC: what is red, stale or unverified, by webhook and e-mail.",
        anybody_to_tell,
    )


def _schedule(
    name: str,
    job: UnresolvedAssetJobDefinition | dg.JobDefinition,
    cron: str,
    description: str,
    why_not: Callable[[], str | None],
) -> dg.ScheduleDefinition:
    """Return a schedule that is on, and skips while ``why_not`` returns a reason."""

    def due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reason = why_not()
        return dg.SkipReason(reason) if reason else dg.RunRequest(tags=BEHIND_PEOPLE)

    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_fn=due,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


def raw_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Return the sensor that observes raw folders; ``when_an_input_changed`` reacts to changes."""

    @dg.sensor(
        name="raw_changed",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fingerprints the raw folders every five minutes, and reports a folder whose "
        "fingerprint differs from that in its manifest. Starts no run.",
    )
    def raw_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if context.cursor is None:
            # The conditions take what they find at their own first look for what was handled.
            return dg.SensorResult(skip_reason="looks from the next tick on", cursor="{}")
        noted: dict[str, str] = json.loads(context.cursor)
        now = {}
        for asset, sha256 in pipeline.fingerprints().items():
            made = pipeline.store.current(f"manifest/{asset.removeprefix('raw/')}")
            inputs = {item.asset: item.sha256 for item in made.record.inputs} if made else {}
            # Without a manifest nothing follows from a change: the first one is made by people.
            if made is not None and inputs.get(asset) != sha256:
                now[asset] = sha256
        new = {asset: sha256 for asset, sha256 in now.items() if noted.get(asset) != sha256}
        return dg.SensorResult(
            skip_reason=None if new else "no raw folder changed",
            cursor=json.dumps(now),
            asset_events=[
                dg.AssetObservation(
                    asset_key(pipeline.profile.name, asset), tags={DATA_VERSION_TAG: sha256}
                )
                for asset, sha256 in new.items()
            ],
        )

    return raw_changed


def when_an_input_changed() -> dg.AutomationCondition[Any]:
    """Make a manifest again when the bytes of an input changed and that input passed its gates.

    An input that was made again with the same bytes changes nothing. Each step is a run of its own,
    so a failed gate upstream or an unchanged result stops the propagation.
    """
    condition = dg.AutomationCondition
    refused = condition.any_deps_match(
        ~condition.all_checks_match(condition.check_passed(), blocking_only=True)
    ).with_label("a gate of an input has not passed")
    return (
        condition.any_deps_match(condition.data_version_changed())
        .with_label("an input changed")
        .since_last_handled()
        & ~condition.missing()
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & ~refused
    ).with_label("when an input changed")


def flow_sensor() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the automation conditions; only manifests have one."""
    return dg.AutomationConditionSensorDefinition(
        "flow_up_to_the_gates",
        target=dg.AssetSelection.groups("manifests"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        run_tags=BEHIND_PEOPLE,
        description="Makes a manifest again when an input of it changed and passed its gates. "
        "Trainings have no condition: nothing starts one by itself.",
    )


def failure_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Return the sensor that notifies people of each failed run: its failed gates, or its error."""

    @dg.run_failure_sensor(
        name="run_failed",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports each failed run of the profile: its failed gates or its error, and "
        "the claims that depend on it. Writes to the log; sends webhook and e-mail if configured.",
    )
    def run_failed(context: dg.RunFailureSensorContext) -> None:
        records = context.instance.get_records_for_run(
            context.dagster_run.run_id,
            of_type={dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.STEP_FAILURE},
        ).records
        events = [r.event_log_entry.dagster_event for r in records]
        notice = notice_of(
            pipeline,
            context.dagster_run,
            [event for event in events if event is not None],
            context.failure_event.message or "the run failed without a step failure",
        )
        send(notice, pipeline.settings.notify)

    return run_failed


def span_sensors(pipeline: Pipeline) -> list[dg.SensorDefinition]:
    """Return sensors that export a span per run of the UI or daemon; ``plan`` exports its own."""

    def told(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        record = context.instance.get_run_record_by_id(run.run_id)
        if maker(run) or record is None or not record.start_time:
            return
        assert record.end_time is not None
        export(
            f"run {run.job_name}",
            run.run_id,
            {
                "profile": pipeline.profile.name,
                "run": run.run_id,
                "job": run.job_name,
                "partition": run.tags.get("dagster/partition"),
            },
            (int(record.start_time * 1e9), int(record.end_time * 1e9)),
            None if run.status == dg.DagsterRunStatus.SUCCESS else run.status.value,
            is_run=True,
        )

    ends = (
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    )
    return [
        dg.run_status_sensor(
            run_status=status,
            name=f"span_of_{status.value.lower()}",
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Exports the run's span to OpenTelemetry.",
        )(told)
        for status in ends
    ]


def experiments_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Return the sensor that registers partitions of experiments, models and adopted results."""

    @dg.sensor(
        name="experiments",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers the profile's `experiments` and `models`, and adopted results, as "
        "partitions. Starts no run.",
    )
    def experiments(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        new = register_partitions(pipeline, context.instance)
        return dg.SkipReason(f"new partitions: {', '.join(new)}" if new else "nothing new")

    return experiments
