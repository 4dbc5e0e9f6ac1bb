"""From an artifact back to the raw folders it rests on, by content hash."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fer_ml.errors import FerError
from fer_ml.gates import blocking_rules
from fer_ml.store import Artifact, Input, Store


@dataclass(frozen=True)
class Node:
    """One step of a trace. ``problem`` says why it must not be trusted, or is ``None``.

    ``artifact`` is ``None`` for raw folders and for bytes that are no longer here.
    """

    item: Input
    artifact: Artifact | None
    problem: str | None
    inputs: tuple["Node", ...]

    def walk(self) -> Iterator["Node"]:
        """This node and everything below it, each distinct one once, nearest first."""
        seen: set[tuple[str, str]] = set()
        queue = [self]
        while queue:
            node = queue.pop(0)
            key = (node.item.key, node.item.sha256)
            if key not in seen:
                seen.add(key)
                yield node
                queue.extend(node.inputs)

    def to_json(self) -> dict[str, Any]:
        """The trace as JSON values."""
        record = self.artifact.record if self.artifact else None
        return {
            "asset": self.item.key,
            "sha256": self.item.sha256,
            "root": self.item.root,
            "problem": self.problem,
            "folder": str(self.artifact.folder) if self.artifact else None,
            "created_at": record.created_at if record else None,
            "run_id": record.run_id if record else None,
            "code_version": record.code_version if record else None,
            "splits": record.splits if record else {},
            "receipts": _receipts(self.artifact),
            "inputs": [node.to_json() for node in self.inputs],
        }


def _receipts(artifact: Artifact | None) -> dict[str, bool]:
    return {r.rule: r.passed for r in artifact.receipts().values()} if artifact else {}


class Tracer:
    """Builds traces over one store; each artifact is read and verified once."""

    def __init__(self, store: Store, fingerprints: dict[str, str] | None = None) -> None:
        """``fingerprints`` of raw folders now, by asset; without them they are not judged."""
        self._store = store
        self._fingerprints = fingerprints
        self._nodes: dict[tuple[str, str], Node] = {}

    def trace(self, artifact: Artifact) -> Node:
        """The whole path of an artifact."""
        return self._node(artifact.as_input(), ())

    def _node(self, item: Input, above: tuple[str, ...]) -> Node:
        key = (item.key, item.sha256)
        if item.key in above:
            raise FerError(f"the lineage runs in a circle: {' <- '.join([*above, item.key])}")
        if key not in self._nodes:
            self._nodes[key] = self._raw(item) if item.root is not None else self._made(item, above)
        return self._nodes[key]

    def _raw(self, item: Input) -> Node:
        problem = None
        if self._fingerprints is not None:
            now = self._fingerprints.get(item.asset)
            if now is None:
                problem = "raw folder is gone"
            elif now != item.sha256:
                problem = "raw folder changed since"
        return Node(item, None, problem, ())

    def _made(self, item: Input, above: tuple[str, ...]) -> Node:
        artifact = self._store.find(item.asset, item.partition, item.sha256)
        if artifact is None:
            return Node(item, None, "these bytes are no longer here", ())
        inputs = tuple(self._node(i, (*above, item.key)) for i in artifact.record.inputs)
        return Node(item, artifact, self._problem(artifact), inputs)

    def _problem(self, artifact: Artifact) -> str | None:
        damage = artifact.damage()
        if damage:
            return f"damaged: {damage}"
        current = self._store.current(artifact.record.asset, artifact.record.partition)
        if current is None or current.sha256 != artifact.sha256:
            return "a newer one is current"
        receipts = artifact.receipts()
        for rule in blocking_rules(artifact.record.asset):
            if rule not in receipts:
                return f"gate '{rule}' has not judged these bytes"
            if not receipts[rule].passed:
                return f"gate '{rule}' failed"
        return None


def find_artifact(store: Store, what: str) -> Artifact:
    """The artifact meant by an asset (``teacher[RN18]``), a file in a run folder, or a hash."""
    from pathlib import Path

    name, _, rest = what.partition("[")
    current = store.current(name, rest.rstrip("]") or None) if _is_asset_name(name) else None
    if current is not None:
        return current
    path = Path(what).resolve()
    for folder in (path, *path.parents):
        if (folder / "record.json").is_file():
            return store.open(folder)
    if len(what) >= 8 and all(ch in "0123456789abcdef" for ch in what):
        for record in store.root.rglob("record.json"):
            artifact = store.open(record.parent)
            entries = (artifact.sha256, *(f.sha256 for f in artifact.record.files.values()))
            if any(value.startswith(what) for value in entries):
                return artifact
    raise FerError(
        f"nothing to trace for {what!r}",
        where=store.root,
        allowed="a claim id, an asset such as teacher[RN18], a file in a run folder, or a hash",
        fix="run 'fer materialize' first, or look at the assets with 'fer ui'",
    )


def _is_asset_name(name: str) -> bool:
    return bool(name) and all(part.isidentifier() for part in name.split("/"))
