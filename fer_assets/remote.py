"""Results from elsewhere: trainings packed here and adopted, and those of the first pipeline."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from fer_assets.announcing import register_partitions
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.running import announce, judge_in_run
from fer_assets.stage import Stage
from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder
from fer_ml.base.names import require_new
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job


def pack_targets(pipeline: Pipeline, targets: list[Target], folder: Path) -> None:
    """Pack these trainings, and the labelling between them, in order, into ``folder``."""
    from fer_ml.runs.parts import pack

    stages = {target: pipeline.stage(target.asset) for target in targets}
    other = [target.label for target, stage in stages.items() if stage.part is None]
    if other or not targets:
        raise FerError(
            f"{', '.join(other) or 'nothing'} cannot be packed",
            code="not-packable",
            allowed=", ".join(stage.asset for stage in pipeline.stages.values() if stage.part),
        )
    require_new(folder)
    parts = [_part(stage, pipeline.job(t, without=targets)[0]) for t, stage in stages.items()]
    private_folder(folder)
    pack(parts, folder, copy=True)


def _part(stage: Stage, job: Job[Any]) -> Any:
    assert stage.part is not None
    return stage.part(job)


def adopt_run(pipeline: Pipeline, folder: Path, instance: dg.DagsterInstance) -> Artifact:
    """Make a packed run that was trained elsewhere its asset's current artifact, and judge it."""
    from fer_ml.runs.taking_in import step_of, take_in

    step = step_of(folder)
    if step["profile"] != pipeline.profile.name:
        raise FerError(
            f"the run is of profile {step['profile']}, not of {pipeline.profile.name}",
            code="profile-mismatch",
            where=folder,
            fix=f"fer adopt --profile {step['profile']} {folder}",
        )
    target = Target(step["asset"], step["partition"])
    stage = pipeline.stage(target.asset)
    if stage.part is None:
        raise FerError(
            f"{target.label} is not an asset that can be packed",
            code="not-packable",
            where=folder,
            fix="pack again with this version",
        )
    artifact = pipeline.make(target, build=lambda run, job: take_in(run, _part(stage, job), folder))
    register_partitions(pipeline, instance)
    announce(pipeline, artifact, instance)
    judge_in_run(pipeline, target, instance)
    return artifact


def adopt_foreign(
    pipeline: Pipeline,
    path: Path,
    instance: dg.DagsterInstance,
    *,
    name: str | None = None,
    checkpoint: Path | None = None,
    roots: Sequence[Path] = (),
    replace: bool = False,
) -> Artifact:
    """Adopt a result of the first pipeline as a partition of ``adopted``, and judge it.

    ``name`` is the partition; the default is the result's own name. An existing name is refused
    unless ``replace`` is set.
    """
    from fer_ml.adoption.build import build_foreign
    from fer_ml.adoption.folder import adopted_name, named_hashes, recognise

    taken = pipeline.partitions(pipeline.stage("adopted"))
    target = Target("adopted", adopted_name(name, path, taken))
    foreign = recognise(path)
    other = pipeline.store.current(target.asset, target.partition)
    if other is not None and not replace:
        raise FerError(
            f"{target.label} is taken: it holds the {other.record.summary['adopted']} that came as "
            f"{other.record.summary['origin']!r}",
            code="name-taken",
            where=other.folder,
            fix="choose another name: --as OTHER, or replace the earlier result: --replace",
        )
    artifact = pipeline.make(
        target,
        build=partial(build_foreign, foreign=foreign, checkpoint=checkpoint, roots=roots),
        needs=[t for t in manifests_of(pipeline, named_hashes(foreign)) if t != target],
    )
    register_partitions(pipeline, instance)
    announce(pipeline, artifact, instance)
    judge_in_run(pipeline, target, instance)
    return artifact


def manifests_of(pipeline: Pipeline, hashes: set[str]) -> list[Target]:
    """Return the current manifests, made or adopted, with a csv of one of these sha256."""
    targets = []
    for target in pipeline.targets():
        if target.asset != "adopted" and pipeline.stage(target.asset).group != "manifests":
            continue
        artifact = pipeline.store.current(target.asset, target.partition)
        if artifact is None or not any(
            entry.sha256 in hashes and name.endswith(".csv")
            for name, entry in artifact.record.files.items()
        ):
            continue
        # One that is damaged or failed its gates is no evidence for anything.
        with contextlib.suppress(FerError):
            pipeline.store.require(target.asset, target.partition)
            targets.append(target)
    return targets
