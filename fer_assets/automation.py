"""Jobs, the schedules that re-validate, and the sensor on changed raw data."""

from collections.abc import Iterator, Sequence, Set

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from pydantic import Field

from fer_assets.assets import FULL_PASS_TAG
from fer_assets.lineage import Pipeline
from fer_assets.plan import materialize, register_partitions
from fer_ml.errors import FerError

#: Job, its groups, and what it is for. One job for the data, one for each later stage.
STAGE_JOBS: dict[str, tuple[tuple[str, ...], str]] = {
    "data": (("manifests",), "Clean, unify, curate and validate all manifests."),
    "folds": (("folds",), "Train one backbone without one fold of the training rows."),
    "teachers": (("teachers",), "Train one backbone and take its logits."),
    "distillation": (("distillation",), "Fuse the teachers and export soft labels."),
    "students": (("students",), "Train CE, KD and DKD."),
    "experiments": (("experiments",), "Train one recipe of the profile's experiments."),
    "comparisons": (("comparisons",), "Hold experiments against each other, fairly."),
    "models": (("models",), "Take in one model from elsewhere."),
    "evaluation": (("evaluation",), "Score every model, try every student, select one."),
    "adoption": (
        ("adopted",),
        "Measure an adopted run, export it, or examine what was adopted again.",
    ),
    "deployment": (("deployment",), "Export the bundle and run the demo session."),
    "reporting": (("report",), "Resolve the claims and render the report."),
}


def stage_jobs(groups_here: Set[str]) -> list[UnresolvedAssetJobDefinition]:
    """A job for each stage that the profile has: its assets with all of their checks."""
    return [
        dg.define_asset_job(
            name, selection=dg.AssetSelection.groups(*groups), description=description
        )
        for name, (groups, description) in STAGE_JOBS.items()
        if groups_here & set(groups)
    ]


def revalidate_jobs(manifests: Sequence[dg.AssetsDefinition]) -> list[UnresolvedAssetJobDefinition]:
    """Judge all manifests again: new reports, new receipts, no new manifests.

    ``revalidate`` decodes what changed on disk; ``revalidate_fully`` decodes everything.
    """
    selection = dg.AssetSelection.assets("manifest_validation") | (
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
    """The form of the job ``everything`` in the launchpad."""

    select: str = Field(
        default="",
        description="Assets, partitions or groups, separated by commas, such as "
        "manifests,teacher[RN18]. Empty: everything but what is made on request only.",
    )
    force: bool = Field(
        default=False, description="Make what is selected also where it is up to date."
    )


def everything_job(pipeline: Pipeline) -> dg.JobDefinition:
    """The whole lineage: what is missing or stale, stage by stage, as ``fer materialize`` does.

    One run cannot hold both all teachers and what follows them, since a run has one partition; so
    this job starts the stages' own runs, which appear beside it.
    """

    @dg.op(description="Make what is missing or stale, in order, each stage in a run of its own.")
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
        description="The whole lineage: whatever is missing or stale, in order.",
        # The launchpad opens with every field and its default filled in.
        config=dg.RunConfig(ops={"make_everything": Everything()}),
    )
    def everything() -> None:
        make_everything()

    return everything


def revalidations(jobs: Sequence[UnresolvedAssetJobDefinition]) -> list[dg.ScheduleDefinition]:
    """Every night what changed, every week everything. Off until somebody switches them on."""
    nightly, weekly = jobs
    return [
        dg.ScheduleDefinition(
            name="nightly_revalidation",
            job=nightly,
            cron_schedule="0 3 * * *",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Every night at 03:00: every row, and every image that changed on disk.",
        ),
        dg.ScheduleDefinition(
            name="weekly_full_revalidation",
            job=weekly,
            cron_schedule="0 4 * * 0",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Every Sunday at 04:00: every row, every image decoded again.",
        ),
    ]


def raw_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Start the data job when a raw folder's fingerprint changes. Off until switched on."""

    @dg.sensor(
        name="raw_changed",
        job_name="data",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Watches the raw folders; a change starts the data job, and no training.",
    )
    def raw_changed(
        context: dg.SensorEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        try:
            found = {s.name: pipeline.raw_input(s.name).sha256 for s in pipeline.profile.sources}
        except FerError as error:
            yield dg.SkipReason(str(error))
            return
        seen = ",".join(f"{name}:{value}" for name, value in sorted(found.items()))
        if seen == context.cursor:
            yield dg.SkipReason("no raw folder changed")
            return
        context.update_cursor(seen)
        yield dg.RunRequest(run_key=seen)

    return raw_changed


def experiments_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Keep the partitions of experiments, models and what was adopted in step. On by itself."""

    @dg.sensor(
        name="experiments",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes the profile's `experiments` and `models`, and what was adopted, known "
        "as partitions; starts nothing.",
    )
    def experiments(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        new = register_partitions(pipeline, context.instance)
        return dg.SkipReason(f"new partitions: {', '.join(new)}" if new else "nothing new")

    return experiments
