"""The code location: definitions of the active profile (``FER_PROFILE``, ``fer.toml``)."""

import warnings

import dagster as dg

from fer_assets.assets import raw_asset, stage_asset, stage_checks
from fer_assets.automation import (
    everything_job,
    experiments_sensor,
    raw_sensor,
    revalidate_jobs,
    revalidations,
    stage_jobs,
)
from fer_assets.lineage import Pipeline
from fer_ml.gates import gates_of

# Partitioned checks are a preview feature; the version bounds in pyproject.toml answer for it.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def definitions_for(pipeline: Pipeline) -> dg.Definitions:
    """All assets, checks, jobs, schedules and sensors of a pipeline."""
    stages = pipeline.stages
    assets = {name: stage_asset(pipeline, stage) for name, stage in stages.items()}
    validated = [assets[name] for name, stage in stages.items() if stage.group == "manifests"]
    revalidate = revalidate_jobs(validated)
    return dg.Definitions(
        assets=[
            *(raw_asset(pipeline, source.name) for source in pipeline.profile.sources),
            *assets.values(),
        ],
        asset_checks=[
            stage_checks(pipeline, stage) for stage in stages.values() if gates_of(stage.asset)
        ],
        jobs=[
            everything_job(pipeline),
            *stage_jobs({stage.group for stage in stages.values()}),
            *revalidate,
        ],
        schedules=revalidations(revalidate),
        sensors=[raw_sensor(pipeline), experiments_sensor(pipeline)],
        executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    )


defs = definitions_for(Pipeline.open())
