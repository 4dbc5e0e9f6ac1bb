"""Trace an artifact back to the raw folders it was made from, by content hash."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.sources.raw import fingerprint
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import RECORD_FILE, Input, Receipt, parse_label
from fer_ml.storage.store import Store

#: A lineage deeper than this was not made by this program.
MAX_DEPTH = 100


@dataclass(frozen=True)
class Node:
    """One step of a trace. ``artifact`` is ``None`` for raw folders and for deleted artifacts.

    ``problem`` says why the step must not be trusted, or is ``None``. With ``drifted`` the bytes
    differ from their record; any other problem makes the step stale: not current, gates not passed,
    or no longer here. ``looked`` is false for a raw folder on another machine, whose fingerprint
    could not be checked.
    """

    item: Input
    artifact: Artifact | None
    problem: str | None
    inputs: tuple["Node", ...] = ()
    drifted: bool = False
    looked: bool = True

    @cached_property
    def identity(self) -> tuple[str, str]:
        """Asset and content hash; equal identities are the same step."""
        return (self.item.key, self.item.sha256)

    @property
    def state(self) -> str:
        """The state: ``sound``, ``drifted``, ``stale``, or ``elsewhere`` when not checked."""
        if self.problem is not None:
            return "drifted" if self.drifted else "stale"
        return "sound" if self.looked else "elsewhere"

    @property
    def warns(self) -> list[str]:
        """The gates that this artifact did not pass; blocking ones also make it a problem."""
        return [rule for rule, receipt in self.receipts.items() if receipt.passed is False]

    @cached_property
    def receipts(self) -> dict[str, Receipt]:
        """The receipts of exactly these bytes, by gate."""
        return self.artifact.receipts() if self.artifact else {}

    @cached_property
    def below(self) -> tuple["Node", ...]:
        """The node and everything it was made from, each distinct step once, nearest first."""
        return tuple(walk([self]))

    def to_json(self) -> dict[str, Any]:
        """The step as JSON values; ``inputs`` names the steps below it.

        ``state`` is sound, drifted, stale or elsewhere, ``problem`` the reason; ``receipts`` says
        by gate whether it passed. ``fer trace --json`` prints the same as ``steps``.
        """
        record = self.artifact.record if self.artifact else None
        return {
            "asset": self.item.key,
            "sha256": self.item.sha256,
            "recipe_sha256": record.recipe_sha256 if record else self.item.recipe_sha256,
            "root": self.item.root,
            "problem": self.problem,
            "state": self.state,
            "looked_at": self.looked,
            "warns": self.warns,
            "folder": self.artifact.folder.name if self.artifact else None,
            "created_at": record.created_at if record else None,
            "run_id": record.run_id if record else None,
            "code_version": record.code_version if record else None,
            "splits": record.splits if record else {},
            "receipts": {rule: receipt.passed for rule, receipt in self.receipts.items()},
            "inputs": [{"asset": n.item.key, "sha256": n.item.sha256} for n in self.inputs],
        }


def walk(roots: Iterable[Node]) -> Iterator[Node]:
    """Yield all nodes from ``roots`` down, each distinct one once, nearest first."""
    seen: set[tuple[str, str]] = set()
    layer = list(roots)
    while layer:
        below: list[Node] = []
        for node in layer:
            if node.identity not in seen:
                seen.add(node.identity)
                yield node
                below += node.inputs
        layer = below


class Tracer:
    """Builds traces in one store; each artifact is read and verified once.

    Raw folders are compared with ``fingerprints``, by asset; without these, with the folder that is
    now at the recorded place. With ``raw_elsewhere`` a missing folder counts as being on another
    machine, else as gone.
    """

    def __init__(
        self,
        store: Store,
        fingerprints: Mapping[str, str] | None = None,
        *,
        raw_elsewhere: bool = False,
    ) -> None:
        self.store = store
        self._fingerprints = fingerprints
        self._raw_elsewhere = raw_elsewhere
        self._nodes: dict[Input, Node] = {}
        self._current: dict[tuple[str, str | None], Artifact | None] = {}

    def current(self, asset: str, partition: str | None) -> Artifact | None:
        """Return the current artifact, cached; ``FerError`` when its record cannot be read."""
        key = (asset, partition)
        if key not in self._current:
            self._current[key] = self.store.current(asset, partition)
        return self._current[key]

    def trace(self, artifact: Artifact) -> Node:
        """Return the whole trace of an artifact; ``FerError`` when it contains a cycle."""
        item = artifact.as_input()
        if item not in self._nodes:
            self._nodes[item] = self._made(item, artifact, ())
        return self._nodes[item]

    def _node(self, item: Input, above: tuple[str, ...]) -> Node:
        if item.key in above:
            raise FerError(
                f"the recorded lineage has a cycle: {' <- '.join([*above, item.key])}",
                code="lineage-cycle",
                fix=f"restore the run folders of {item.key}, or materialize it again",
            )
        if len(above) > MAX_DEPTH:
            raise FerError(
                f"the recorded lineage of {item.key} is too deep",
                code="lineage-too-deep",
                allowed=f"at most {MAX_DEPTH} steps",
            )
        if item not in self._nodes:
            self._nodes[item] = (
                self._raw(item) if item.root is not None else self._found(item, above)
            )
        return self._nodes[item]

    def _raw(self, item: Input) -> Node:
        if self._fingerprints is not None:
            now = self._fingerprints.get(item.asset)
        else:
            root = Path(str(item.root))
            now = fingerprint(root) if root.is_dir() else None
        if now is None and self._raw_elsewhere:
            return Node(item, None, None, looked=False)
        if now is None:
            return Node(item, None, "raw folder is gone")
        return Node(item, None, None if now == item.sha256 else "raw folder changed since")

    def _found(self, item: Input, above: tuple[str, ...]) -> Node:
        try:
            identity = item.asset, item.partition, item.sha256
            artifact = self.store.find(*identity, item.recipe_sha256)
            if artifact is None and self.store.find(*identity) is not None:
                return Node(item, None, "its recipe is not that of when it was used", drifted=True)
        except FerError as error:
            return Node(item, None, error.what, drifted=True)
        if artifact is None:
            return Node(item, None, "these bytes are no longer here")
        return self._made(item, artifact, above)

    def _made(self, item: Input, artifact: Artifact, above: tuple[str, ...]) -> Node:
        inputs = tuple(self._node(i, (*above, item.key)) for i in artifact.record.inputs)
        drift = self._drift(artifact)
        if drift is not None:
            return Node(item, artifact, drift, inputs, drifted=True)
        problem = (
            self._superseded(artifact)
            or artifact.purged()
            or artifact.unsealed()
            or artifact.failed()
            or artifact.unjudged()
            or artifact.outdated()
            or self._before_its_input(artifact, inputs)
        )
        return Node(item, artifact, problem, inputs)

    def _drift(self, artifact: Artifact) -> str | None:
        damage = artifact.damage()
        if damage:
            return f"damaged: {damage}"
        try:
            self.current(artifact.record.asset, artifact.record.partition)
        except FerError as error:
            return error.what
        return None

    def _superseded(self, artifact: Artifact) -> str | None:
        current = self.current(artifact.record.asset, artifact.record.partition)
        current_is_it = current is not None and current.sha256 == artifact.sha256
        return None if current_is_it else "a newer one is current"

    def _before_its_input(self, artifact: Artifact, inputs: tuple[Node, ...]) -> str | None:
        """Say that an artifact is older than one of its inputs (impossible), or return ``None``."""
        made = artifact.record.made_at
        for node in inputs:
            if node.artifact is None or node.artifact.record.made_at <= made:
                continue
            if any(copy.record.made_at <= made for copy in self._copies(node.artifact)):
                continue
            return (
                f"older than its input {node.item.key}: a clock ran backwards, or a record was "
                "edited"
            )
        return None

    def _copies(self, artifact: Artifact) -> list[Artifact]:
        """Return all run directories with these bytes; a result may have been made again later."""
        record = artifact.record
        try:
            artifacts = list(self.store.all(record.asset, record.partition))
        except FerError:
            return []
        return [other for other in artifacts if other.sha256 == artifact.sha256]


class NothingToTrace(FerError):
    """Raised for a text that names no artifact."""


def find_artifact(store: Store, what: str) -> Artifact:
    """Return the artifact meant by a label (``teacher[RN18]``), a file, or a prefix of its hash.

    A file in a run directory stands for that directory; a copy elsewhere is found by its bytes.
    """
    name, partition = parse_label(what)
    if name and all(part.isidentifier() for part in name.split("/")):
        current = store.current(name, partition)
        if current is not None:
            return current
    path, root = Path(os.path.realpath(what)), Path(os.path.realpath(store.root))
    for folder in (path, *path.parents):
        if folder.is_relative_to(root) and (folder / RECORD_FILE).is_file():
            return store.open(store.root / folder.relative_to(root))
    digits = sha256_file(path) if path.is_file() else what
    if len(digits) >= 8 and all(ch in "0123456789abcdef" for ch in digits):
        matches = list(_with_hash(store, digits))
        labels = sorted({artifact.key for artifact in matches})
        if len(labels) == 1:
            return matches[-1]
        if labels:
            raise FerError(
                f"several assets have files with the hash {digits[:12]}",
                code="ambiguous-name",
                allowed=", ".join(labels),
                fix="name one of them, or more digits of the hash",
            )
    raise NothingToTrace(
        f"{what!r} names nothing that can be traced",
        code="nothing-to-trace",
        where=store.root,
        allowed="a claim id, an asset such as teacher[RN18], a file in a run folder or a copy of "
        "one, the first 8 digits of a hash, or a face: an image, its path, or a sample's digits",
        fix="run 'fer materialize' first, or look at the assets with 'fer ui'",
    )


def _with_hash(store: Store, digits: str) -> Iterator[Artifact]:
    for artifact in store.every():
        hashes = (artifact.sha256, *(entry.sha256 for entry in artifact.record.files.values()))
        if any(value.startswith(digits) for value in hashes):
            yield artifact
