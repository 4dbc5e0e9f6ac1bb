"""The stages: each module declares one stage, or a family of stages, that makes and judges assets.

A module here is found because it defines ``stages(given)``. It imports no Dagster. Heavy packages
(torch, polars, OpenCV) are imported only inside the functions that make and judge.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType

from fer_assets.stage import Given, Need, Stage, in_order
from fer_ml.base.errors import FerError
from fer_ml.recipes.builtin import PROFILES
from fer_ml.storage.gates import Gate
from fer_ml.storage.record import parse_label


def all_stages(given: Given) -> dict[str, Stage]:
    """Return all stages of a project by asset, each after its inputs."""
    stages = [
        replace(stage, module=module.__name__)
        for module in _modules()
        for stage in module.stages(given)
    ]
    _check(stages)
    citable = [stage for stage in stages if stage.group != "report"]
    return {
        stage.asset: stage
        for stage in in_order(
            replace(stage, needs=(*stage.needs, *_cited(stage.cites, citable))) for stage in stages
        )
    }


@cache
def stages_of_all_profiles() -> dict[str, Stage]:
    """Return the stages of all built-in profiles together, by asset."""
    stages: dict[str, Stage] = {}
    for profile in PROFILES.values():
        stages = all_stages(Given(profile())) | stages
    return stages


def gates_of(asset: str) -> tuple[Gate, ...]:
    """Return the gates of an asset by its name, for callers that do not know its profile.

    Sources, comparisons and curated manifests of any name have the gates of their kind.
    """
    stages = stages_of_all_profiles()
    for start in ("manifest/", "comparison/"):
        if asset.startswith(start):
            asset = next(name for name in stages if name.startswith(start))
    if asset not in stages and asset.endswith("_manifest"):
        asset = "classification_manifest"
    return stages[asset].gates if asset in stages else ()


def _modules() -> Iterator[ModuleType]:
    for module_info in pkgutil.iter_modules(__path__):
        # One that begins with an underscore is shared by the others.
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        if not hasattr(module, "stages"):
            raise FerError(
                f"{module.__name__} declares no stage",
                code="missing-stage",
                where=module.__file__,
                fix="define stages(given) in it, or begin its name with an underscore",
            )
        yield module


def _check(stages: Sequence[Stage]) -> None:
    """Raise ``FerError`` if two stages share a name, or if no stage makes a needed asset."""
    names = [stage.asset for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FerError(
            f"two stages make {', '.join(twice)}",
            code="duplicate-asset",
            where=__name__,
            fix="rename one of them",
        )
    for stage in stages:
        unknown = sorted({need.asset for need in stage.needs} - set(names))
        if unknown:
            raise FerError(
                f"{stage.asset} needs {', '.join(unknown)}, which no stage makes",
                code="unknown-asset",
                where=__name__,
                allowed=", ".join(names),
            )


def _cited(wanted: frozenset[str], stages: Iterable[Stage]) -> Iterator[Need]:
    """Return cited stages as inputs: the partitions named, or all of them."""
    for stage in stages:
        keys = {key for asset, key in map(parse_label, wanted) if asset == stage.asset}
        if keys and stage.partitions is None:
            yield Need(stage.asset)
        elif None in keys:
            yield Need(stage.asset, "each")
        elif keys:
            yield Need(stage.asset, "named", tuple(sorted(filter(None, keys))))
