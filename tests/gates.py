"""The gates of every asset of the built-in profiles, for stores that no pipeline opened."""

from functools import cache

from fer_assets.stage import Given, Stage
from fer_assets.stages import all_stages
from fer_ml.recipes.builtin import PROFILES
from fer_ml.storage.gates import Gate
from fer_ml.storage.store import Demands


@cache
def _stages() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for profile in PROFILES.values():
        stages = all_stages(Given(profile())) | stages
    return stages


def gates_of(asset: str) -> tuple[Gate, ...]:
    """The gates of an asset; those of any source, comparison or manifest by its kind."""
    stages = _stages()
    for start in ("manifest/", "comparison/"):
        if asset.startswith(start):
            asset = next(name for name in stages if name.startswith(start))
    if asset not in stages and asset.endswith("_manifest"):
        asset = "classification_manifest"
    return stages[asset].gates if asset in stages else ()


def blocking_rules(asset: str) -> tuple[str, ...]:
    """The rules of which a consumer demands a passing receipt."""
    return tuple(gate.rule for gate in gates_of(asset) if gate.blocking)


#: What the gates demand, with every receipt counted.
DEMANDS = Demands(gates_of)
#: Of a store of things: each has one gate, which blocks.
GOOD = Demands(lambda asset: (Gate("good", "it is good", "make it good"),))
