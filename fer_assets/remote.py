"""Trainings that run elsewhere: packed here, taken back here."""

from functools import partial
from pathlib import Path

import dagster as dg

from fer_assets.lineage import Pipeline, Target
from fer_assets.plan import announce
from fer_ml.errors import FerError
from fer_ml.profiles import STUDENTS
from fer_ml.store import Artifact

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
    from fer_ml.training.runs import pack

    other = [target.label for target in targets if target.asset not in PACKED]
    if other or not targets:
        raise FerError(
            f"{', '.join(other) or 'nothing'} cannot be packed", allowed=", ".join(PACKED)
        )
    jobs = [pipeline.job(target, without=targets)[0] for target in targets]
    folder.mkdir(parents=True, exist_ok=True)
    pack(jobs, folder, copy=True)


def adopt_run(pipeline: Pipeline, folder: Path, instance: dg.DagsterInstance) -> Artifact:
    """Make a run that was trained elsewhere the current artifact of its asset, and judge it."""
    from fer_ml.training.runs import build_adopted, step_of

    told = step_of(folder)
    if told["profile"] != pipeline.profile.name:
        raise FerError(
            f"the run is of profile {told['profile']}, this one is {pipeline.profile.name}",
            where=folder,
            fix=f"fer adopt --profile {told['profile']} {folder}",
        )
    target = Target(told["asset"], told["partition"])
    artifact = pipeline.make(target, build=partial(build_adopted, folder=folder))
    pipeline.judge(target)
    announce(artifact, instance, faces=pipeline.shows_faces)
    return artifact
