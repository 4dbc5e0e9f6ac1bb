"""The gates of every asset, for stores that no pipeline opened."""

from fer_assets.stages import gates_of
from fer_ml.storage.artifact import Demands
from fer_ml.storage.gates import Gate


def blocking_rules(asset: str) -> tuple[str, ...]:
    """The rules of which a consumer demands a passing receipt."""
    return tuple(gate.rule for gate in gates_of(asset) if gate.blocking)


#: What the gates demand, with every receipt counted.
DEMANDS = Demands(gates_of)
#: Of a store of things: each has one gate, which blocks.
GOOD = Demands(lambda asset: (Gate("good", "it is good", "make it good"),))
