"""The lineage as W3C PROV: artifacts are entities, their making activities, gates attributes.

The format is PROV-JSON, PROV-N or JSON-LD, by the suffix of the file.
"""

from collections.abc import Sequence
from pathlib import Path

from prov.identifier import Namespace, QualifiedName
from prov.model import PROV_TYPE, ProvDocument

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.claims.trace import Node
from fer_ml.exchange.facts import (
    SOFTWARE,
    artifact_facts,
    path_of,
    run_uuid,
    software_version,
    times,
)
from fer_ml.storage.gates import word_of

FER = Namespace("fer", "urn:fer:")
FORMATS = {".json": "json", ".jsonld": "jsonld", ".provn": "provn"}


def write(nodes: Sequence[Node], profile: str, out: Path) -> None:
    """Write the PROV document in the format of ``out``'s suffix."""
    if out.suffix not in FORMATS:
        raise FerError(
            f"unknown suffix {out.suffix!r}",
            code="unknown-suffix",
            where=out,
            allowed=", ".join(FORMATS),
        )
    text = document(nodes, profile).serialize(format=FORMATS[out.suffix])
    write_atomic(out, str(text).encode())


def document(nodes: Sequence[Node], profile: str) -> ProvDocument:
    """Return the PROV document of all nodes, each after its inputs."""
    made = ProvDocument()
    made.add_namespace(FER)
    software = made.agent(
        FER[SOFTWARE],
        {PROV_TYPE: "prov:SoftwareAgent", FER["version"]: software_version()},
    )
    for node in nodes:
        raw = node.item.root is not None
        entity = made.entity(
            name_of(node, profile),
            [
                (PROV_TYPE, FER["raw" if raw else "artifact"]),
                ("prov:label", node.item.key),
                (FER["fingerprint" if raw else "sha256"], node.item.sha256),
                *(
                    (FER[key.replace("/", "_")], value)
                    for key, value in artifact_facts(node).items()
                ),
                *_files_and_gates(node),
            ],
        )
        if node.artifact is None:
            continue
        record = node.artifact.record
        start, end = times(node.artifact)
        details = {FER["code_version"]: record.code_version, FER["asset"]: node.item.key}
        if record.run_id is not None:
            details[FER["dagster_run"]] = record.run_id
        activity = made.activity(FER[f"run.{run_uuid(node.artifact)}"], start, end, details)
        made.wasGeneratedBy(entity, activity, end)
        made.wasAssociatedWith(activity, software)
        for below in node.inputs:
            made.used(activity, name_of(below, profile))
            made.wasDerivedFrom(entity, name_of(below, profile))
    return made


def name_of(node: Node, profile: str) -> QualifiedName:
    """Return the name of an artifact in the document: profile, asset, partition, content hash."""
    return FER[f"{profile}.{path_of(node).replace('/', '.')}.{node.item.sha256}"]


def _files_and_gates(node: Node) -> list[tuple[QualifiedName, str]]:
    """Return ``fer:file`` as ``name sha256``, ``fer:gate`` as ``rule verdict blocking|warning``."""
    if node.artifact is None:
        return []
    files = [f"{name} {entry.sha256}" for name, entry in node.artifact.record.files.items()]
    gates = [
        f"{r.rule} {word_of(r.passed)} {'blocking' if r.blocking else 'warning'}"
        for r in node.artifact.receipts().values()
    ]
    return [(FER["file"], text) for text in files] + [(FER["gate"], text) for text in gates]
