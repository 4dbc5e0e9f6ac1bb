"""The Dagster definitions of a profile, as a repository with the profile's name."""

import logging
import warnings
from dataclasses import replace
from functools import cache

import dagster as dg

import fer_assets.dagster_private.waiting  # noqa: F401 - runs here make their steps in one process
from fer_assets.assets import raw_asset, stage_asset, stage_checks
from fer_assets.automation import (
    digest_job,
    digest_schedule,
    everything_job,
    experiments_sensor,
    failure_sensor,
    flow_sensor,
    raw_sensor,
    retention_job,
    retention_schedule,
    revalidate_jobs,
    revalidations,
    span_sensors,
    stage_jobs,
    when_an_input_changed,
)
from fer_assets.keys import repository_name
from fer_assets.pipeline import Pipeline
from fer_ml.base import logs
from fer_ml.base.errors import FerError
from fer_ml.base.settings import RAY, Settings, environment

# Partitioned checks are a preview feature; the version bounds in pyproject.toml answer for it.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)
# It warns of a check without a result, which is how a gate that is not applicable is shown.
logging.getLogger("dagster._core.execution.plan.active").setLevel(logging.ERROR)

#: Memory that a step sets aside on its machine of a Ray cluster, in bytes.
STEP_MEMORY = 2 * 2**30


@cache
def opened(profile: str) -> dg.RepositoryDefinition:
    """Return the repository of a profile by name, for a process that Dagster starts."""
    logs.start()
    held = definitions_for(Pipeline.open(profile))
    return dg.create_repository_using_definitions_args(
        repository_name(profile),
        assets=held.assets,
        asset_checks=held.asset_checks,
        jobs=held.jobs,
        schedules=held.schedules,
        sensors=held.sensors,
        executor=held.executor,
    )


def definitions_for(pipeline: Pipeline) -> dg.Definitions:
    """Return all assets, checks, jobs, schedules and sensors of a pipeline."""
    pipeline = replace(pipeline)  # What is shown is asked of the store now, and once.
    stages = pipeline.dagster_stages
    flow = when_an_input_changed()
    assets = {
        name: stage_asset(pipeline, stage, flow if stage.group == "manifests" else None)
        for name, stage in stages.items()
    }
    validated = [assets[name] for name, stage in stages.items() if stage.group == "manifests"]
    revalidate = revalidate_jobs(pipeline, validated)
    digest, retention = digest_job(pipeline), retention_job(pipeline)
    return dg.Definitions(
        assets=[
            *(raw_asset(pipeline, source.name) for source in pipeline.profile.sources),
            *assets.values(),
        ],
        asset_checks=[stage_checks(pipeline, stage) for stage in stages.values() if stage.gates],
        jobs=[
            everything_job(pipeline),
            *stage_jobs({stage.group for stage in stages.values()}),
            *revalidate,
            digest,
            retention,
        ],
        schedules=[
            retention_schedule(pipeline, retention),
            *revalidations(pipeline, revalidate),
            digest_schedule(pipeline, digest),
        ],
        sensors=[
            raw_sensor(pipeline),
            flow_sensor(),
            failure_sensor(pipeline),
            experiments_sensor(pipeline),
            *(span_sensors(pipeline) if pipeline.settings.tracing else ()),
        ],
        executor=_executor(pipeline.settings),
    )


def _executor(here: Settings) -> dg.ExecutorDefinition:
    """Return the executor of steps: the run's own process, or the machines of a Ray cluster.

    With one process per step, importing would take longer than the work of most steps.
    """
    if environment().FER_ENGINE != RAY:
        return dg.in_process_executor
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise FerError(
            "FER_ENGINE is ray, and dagster-ray is not installed",
            code="missing-package",
            fix="pip install 'fer-platform[ray]'",
        ) from error
    return ray_executor.configured(
        {
            "ray": {
                # A step takes memory, its shards take processors: steps that wait for their shards
                # never keep them from being computed.
                "memory": STEP_MEMORY,
                "env_vars": [f"{name}={value}" for name, value in here.environment().items()],
            }
        }
    )
