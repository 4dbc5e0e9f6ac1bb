"""What makes and judges each asset: a module a stage, or a family of stages of the same kind.

A module here defines ``stages(given)`` and is found by that. It imports no Dagster, and what is
heavy (torch, polars, OpenCV) only inside the functions that make and judge.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import ModuleType

from fer_assets.stage import Given, Need, Stage, in_order
from fer_ml.storage.store import parse_label


def all_stages(given: Given) -> dict[str, Stage]:
    """All stages of a project by asset, in an order in which each follows what it needs."""
    found = [stage for module in _modules() for stage in module.stages(given)]
    citable = [stage for stage in found if stage.group != "report"]
    return {
        stage.asset: stage
        for stage in in_order(
            replace(stage, needs=(*stage.needs, *_cited(stage.cites, citable))) for stage in found
        )
    }


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(__path__):
        # One that begins with an underscore is shared by the others.
        if not module.name.startswith("_"):
            yield importlib.import_module(f"{__name__}.{module.name}")


def _cited(wanted: frozenset[str], stages: Iterable[Stage]) -> Iterator[Need]:
    """Cited stages as inputs: the partitions that are named, or all of them."""
    for stage in stages:
        keys = {key for asset, key in map(parse_label, wanted) if asset == stage.asset}
        if keys and stage.partitions is None:
            yield Need(stage.asset)
        elif None in keys:
            yield Need(stage.asset, "each")
        elif keys:
            yield Need(stage.asset, "named", tuple(sorted(filter(None, keys))))
