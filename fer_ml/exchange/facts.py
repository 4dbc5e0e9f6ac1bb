"""Facts of an artifact that every export format states."""

import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.claims.trace import Node, Tracer
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

SOFTWARE = "fer-platform"
PRODUCER = "https://pypi.org/project/fer-platform"
LICENCE = "as the training data's; the faces of FER datasets are for research only"


def software_version() -> str:
    """Return the installed version of this project."""
    return version(SOFTWARE)


def lineage_nodes(
    store: Store, artifacts: Iterable[Artifact], fingerprints: dict[str, str]
) -> list[Node]:
    """Return the artifacts and everything they rest on, down to raw folders, each after its inputs.

    Every byte is verified; a step that must not be trusted has a ``problem``.
    """
    tracer = Tracer(store, fingerprints)
    nodes: dict[tuple[str, str], Node] = {}

    def add(node: Node) -> None:
        key = (node.item.key, node.item.sha256)
        if key not in nodes:
            for below in node.inputs:
                add(below)
            nodes[key] = node

    for artifact in artifacts:
        add(tracer.trace(artifact))
    if not nodes:
        raise FerError(
            "nothing has been made yet",
            code="asset-not-made",
            where=store.root,
            fix="run 'fer materialize' first",
        )
    return list(nodes.values())


def path_of(node: Node) -> str:
    """Return asset and partition as a path: ``teacher/RN18``."""
    return "/".join(part for part in (node.item.asset, node.item.partition) if part)


def times(artifact: Artifact) -> tuple[datetime, datetime]:
    """Return the start and end of an artifact's making, in UTC."""
    end = datetime.fromisoformat(artifact.record.created_at).astimezone(UTC)
    return end - timedelta(seconds=artifact.record.seconds), end


def run_uuid(artifact: Artifact, what: str = "") -> str:
    """Return an id for the making of one artifact, or for its part ``what``.

    The Dagster run has no such id, since one run makes several artifacts.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{artifact.key}/{artifact.folder.name}/{what}"))


def artifact_facts(node: Node) -> dict[str, str]:
    """Return short facts of an artifact as text: code version, splits, adoption, faults."""
    facts = {"problem": _PATH.sub(_last_part, node.problem)} if node.problem else {}
    if node.artifact is None:
        return facts
    record = node.artifact.record
    facts |= {"profile": record.profile, "code_version": record.code_version}
    facts |= {f"chosen_on/{choice}": split for choice, split in record.splits.items()}
    if "adopted" in record.summary:
        facts["adopted"] = str(record.summary["adopted"])
        facts["unverified"] = str(record.summary["unverified"])
        facts["contradictions"] = str(record.summary["contradictions"])
    return facts


#: An absolute path inside a sentence.
_PATH = re.compile(r"(?<![^\s('\"])(?:~|[A-Za-z]:)?[/\\]\S+")


def _last_part(found: re.Match[str]) -> str:
    return PureWindowsPath(found.group()).name


def portable(value: Any) -> Any:
    """Return JSON values with each absolute path reduced to its last part."""
    if isinstance(value, dict):
        return {key: portable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [portable(part) for part in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(value)
            if path.is_absolute() or value.startswith("~"):
                return path.name
    return value
