"""Plan what has to be made, batch by batch, and what is left out after a failure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from fer_assets.assets import unseen
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.stage import GROUPS
from fer_assets.staleness import stale_reason, too_slow, unjudged
from fer_ml.base.errors import FerError
from fer_ml.sources.raw import ensure_raw
from fer_ml.storage.artifact import Artifact


@dataclass(frozen=True)
class Work:
    """One run to start: a stage's job, the targets to make, and the targets only to judge."""

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
    """What could not be made: the error of each failed target, and the targets that depend on them.

    ``lost`` maps each skipped target to the failed ones among its direct and indirect inputs.
    """

    faults: dict[Target, FerError] = field(default_factory=dict)
    lost: dict[Target, list[Target]] = field(default_factory=dict)

    def note(self, target: Target, error: FerError | OSError) -> None:
        """Record that ``target`` failed, also if the operating system refuses to read a file."""
        if isinstance(error, OSError):
            error = FerError(
                f"a file cannot be read: {error.strerror or error}",
                code="unreadable-file",
                where=error.filename,
                fix="make it readable again (disk, network folder, permissions)",
            )
        self.faults[target] = error

    def below(self, needed: Iterable[Target]) -> list[Target]:
        """Return the failed targets among ``needed`` and their direct and indirect inputs."""
        causes = ([n] if n in self.faults else self.lost.get(n, []) for n in needed)
        return list(dict.fromkeys(target for targets in causes for target in targets))

    def __contains__(self, target: Target) -> bool:
        return target in self.faults or target in self.lost


class StageFailed(FerError):
    """A target could not be made or failed a gate; the message is the first error.

    ``done`` lists what was made nevertheless, and ``failures`` everything that was not.
    """

    def __init__(self, failures: Failures, done: Sequence[Made] = ()) -> None:
        first = next(iter(failures.faults.values()))
        super().__init__(
            first.what,
            code=first.code,
            where=first.where,
            allowed=first.allowed,
            fix=first.fix,
        )
        self.failures = failures
        self.done = list(done)


def observe(pipeline: Pipeline, instance: dg.DagsterInstance, failures: Failures) -> dict[str, str]:
    """Fingerprint the raw folders, report each change to Dagster, return fingerprints by source.

    If a source is missing, its manifest counts as failed.
    """
    ensure_raw(pipeline.profile, pipeline.store)
    fingerprints = {}
    for source in pipeline.profile.sources:
        try:
            item = pipeline.raw_input(source.name)
        except (FerError, OSError) as error:
            failures.note(Target(f"manifest/{source.name}"), error)
            continue
        fingerprints[source.name] = item.sha256
        if (seen := unseen(pipeline, instance, item)) is not None:
            instance.report_runless_asset_event(seen)
    return fingerprints


def batches(pipeline: Pipeline, selected: Iterable[Target]) -> list[list[Target]]:
    """Group the targets by stage and partition, each group after its inputs."""
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
    """Return what has to be done for one batch, or ``None`` if it is up to date.

    Targets that depend on a failure are left out; a target that cannot be examined counts as
    failed.
    """
    make: dict[Target, str] = {}
    judge = []
    for target in batch:
        try:
            needed = pipeline.needed(target)
            if target in failures or leave_out(failures, target, needed):
                continue
            reason = "forced" if force else stale_reason(pipeline, target, raw, damages)
            above = [need.label for need in needed if need in make]
            reason = reason or (f"follows {', '.join(above)}" if above else None)
            reason = reason or too_slow(pipeline, target)
            if reason is not None:
                make[target] = reason
            elif unjudged(pipeline, target):
                judge.append(target)
        except (FerError, OSError) as error:
            failures.note(target, error)
    if not make and not judge:
        return None
    group = pipeline.stage(batch[0].asset).group
    return Work(GROUPS[group].job, batch[0].partition, make, tuple(judge))


def leave_out(failures: Failures, target: Target, needed: Iterable[Target]) -> bool:
    """Record ``target`` as lost if it depends on a failed one; return whether it does."""
    below = failures.below(needed)
    if below:
        failures.lost[target] = below
    return bool(below)
