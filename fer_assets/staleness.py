"""Decide what has to be made or judged again, and why. Imports no Dagster."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from fer_assets.lineage import Lineage, Target
from fer_ml.base.errors import FerError
from fer_ml.base.processes import processors
from fer_ml.base.shards import in_threads
from fer_ml.storage.artifact import Artifact


def stale_reason(
    pipeline: Lineage,
    target: Target,
    raw: Mapping[str, str],
    damages: Mapping[Path, str | None] = MappingProxyType({}),
) -> str | None:
    """Return why a target must be made (again), or ``None``. ``raw`` has fingerprints by source.

    ``damages`` holds damage that is known already, by run directory.
    """
    stage = pipeline.stage(target.asset)
    current = pipeline.store.current(target.asset, target.partition)
    if current is None:
        return "missing"
    record = current.record
    known = current.folder in damages
    damage = damages[current.folder] if known else current.damage()
    if damage:
        return f"damaged: {damage}"
    purged = current.purged()
    if purged:
        return purged
    unsealed = current.unsealed()
    if unsealed:
        return unsealed
    if record.code_version != stage.code_version:
        return f"code version {record.code_version} is now {stage.code_version}"
    outdated = current.outdated()
    if outdated:
        return outdated
    inputs = {item.key: item.sha256 for item in record.inputs}
    now = {}
    if stage.raw is not None:
        now[f"raw/{stage.raw}"] = raw[stage.raw]
    for need in pipeline.needed(target):
        upstream = pipeline.store.current(need.asset, need.partition)
        now[need.label] = upstream.sha256 if upstream else "missing"
    changed = [key for key in {**inputs, **now} if inputs.get(key) != now.get(key)]
    return f"changed input: {', '.join(changed)}" if changed else None


def too_slow(pipeline: Lineage, target: Target) -> str | None:
    """Return why a measured speed below its limit must be measured again, or ``None``.

    An imported session was measured elsewhere and is not measured again.
    """
    current = pipeline.store.current(target.asset, target.partition)
    if current is None or "imported" in current.record.summary:
        return None
    for asset in pipeline.stages:
        rules = [g.rule for g in pipeline.gates(asset) if g.measured_in == target.asset]
        judged = pipeline.store.current(asset) if rules else None
        if judged is None or current.as_input() not in judged.record.inputs:
            continue
        for rule, receipt in judged.receipts().items():
            # A text says that there was nothing to measure.
            if rule in rules and receipt.passed is False and not isinstance(receipt.value, str):
                return f"{rule} was not reached when it was measured"
    return None


def unjudged(pipeline: Lineage, target: Target) -> bool:
    """Whether a gate has no receipt for the current bytes, blocks, or now blocks differently."""
    current = pipeline.store.current(target.asset, target.partition)
    if current is None:
        return False
    receipts = current.receipts()
    return any(
        gate.rule not in receipts
        or gate.blocking != receipts[gate.rule].blocking
        or (gate.blocking and receipts[gate.rule].passed is False)
        for gate in pipeline.gates(target.asset)
    )


def damages(pipeline: Lineage, targets: Iterable[Target]) -> dict[Path, str | None]:
    """Return the damage to the bytes of each artifact of ``targets``, by run directory.

    Hashing uses all processors, because it is most of the work of examining a profile. Unreadable
    files are left out here; the error is raised for whoever examines that artifact alone.
    """
    artifacts = []
    for target in targets:
        with contextlib.suppress(FerError, OSError):
            artifacts.append(pipeline.store.current(target.asset, target.partition))
    made = [artifact for artifact in artifacts if artifact is not None]
    by_folder: dict[Path, str | None] = {}
    for artifact, look in zip(made, in_threads(_damage, made, processors()), strict=True):
        if look is not None:
            by_folder[artifact.folder] = look[0]
    return by_folder


def _damage(artifact: Artifact) -> tuple[str | None] | None:
    """Return the damage to the bytes; ``None`` if they cannot be read."""
    try:
        return (artifact.damage(),)
    except OSError:
        return None
