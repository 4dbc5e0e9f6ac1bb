"""Results from elsewhere: trainings packed here and taken back, and those of the first pipeline."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import dagster as dg

from fer_assets.lineage import Pipeline, Target
from fer_assets.plan import announce, judge_in_run, register_partitions
from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder
from fer_ml.base.names import require_new
from fer_ml.recipes.profiles import STUDENTS
from fer_ml.storage.gates import blocking_rules
from fer_ml.storage.store import Artifact

#: What a packed job may be made of.
PACKED = (
    "teacher",
    "teacher_fold",
    "teacher_logits",
    "ensemble",
    "softlabels",
    *(f"student_{stage}" for stage in STUDENTS),
    "student_experiment",
)


def pack_targets(pipeline: Pipeline, targets: list[Target], folder: Path) -> None:
    """Pack these trainings, and the labelling between them, in their order into ``folder``."""
    from fer_assets.stages.trainings import pack

    other = [target.label for target in targets if target.asset not in PACKED]
    if other or not targets:
        raise FerError(
            f"{', '.join(other) or 'nothing'} cannot be packed", allowed=", ".join(PACKED)
        )
    require_new(folder)
    jobs = [pipeline.job(target, without=targets)[0] for target in targets]
    private_folder(folder)
    pack(jobs, folder, copy=True)


def adopt_run(pipeline: Pipeline, folder: Path, instance: dg.DagsterInstance) -> Artifact:
    """Make a run that was trained elsewhere the current artifact of its asset, and judge it."""
    from fer_assets.stages.trainings import build_adopted, step_of

    told = step_of(folder)
    if told["profile"] != pipeline.profile.name:
        raise FerError(
            f"the run is of profile {told['profile']}, this one is {pipeline.profile.name}",
            where=folder,
            fix=f"fer adopt --profile {told['profile']} {folder}",
        )
    target = Target(told["asset"], told["partition"])
    artifact = pipeline.make(target, build=partial(build_adopted, folder=folder))
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
    """Take a result of the first pipeline in as a partition of ``adopted``, and judge it.

    ``name`` is the partition, by default what is adopted is called. One that is taken already is
    refused unless ``replace`` is set.
    """
    from fer_assets.stages.adopted import build_foreign
    from fer_ml.adoption.folder import adopted_name, named_hashes, recognise

    taken = pipeline.partitions(pipeline.stage("adopted"))
    target = Target("adopted", adopted_name(name, path, taken))
    foreign = recognise(path)
    held = pipeline.store.current(target.asset, target.partition)
    if held is not None and not replace:
        raise FerError(
            f"{target.label} is taken: it holds the {held.record.summary['adopted']} that came as "
            f"{held.record.summary['origin']!r}",
            where=held.folder,
            fix="name it: --as OTHER, or put it in that one's place: --replace",
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
    """The current manifests, made here or adopted, that hold a csv with one of these sha256."""
    found = []
    for target in pipeline.targets():
        if target.asset != "adopted" and pipeline.stage(target.asset).group != "manifests":
            continue
        held = pipeline.store.current(target.asset, target.partition)
        if held is None or not any(
            entry.sha256 in hashes and name.endswith(".csv")
            for name, entry in held.record.files.items()
        ):
            continue
        # One that is damaged or failed its gates is no evidence for anything.
        with contextlib.suppress(FerError):
            pipeline.store.require(
                target.asset, target.partition, rules=blocking_rules(target.asset)
            )
            found.append(target)
    return found
