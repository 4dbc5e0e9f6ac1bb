"""The metadata of an RO-Crate (``ro-crate-metadata.json``), as a Process Run Crate.

Each file is a File with its hash, each artifact a Dataset of such files, its making a CreateAction,
and each claim a Claim on the artifacts it rests on. Raw folders are given by their fingerprint.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from fer_ml.base.files import stays_below
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node
from fer_ml.exchange.facts import (
    LICENCE,
    PRODUCER,
    SOFTWARE,
    artifact_facts,
    path_of,
    run_uuid,
    software_version,
    times,
)
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import word_of
from fer_ml.storage.record import FileEntry

METADATA = "ro-crate-metadata.json"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
#: RO-Crate 1.1 has no term for a hash; this is the one that the profiles of workflow runs give it.
HASH_TERM = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
#: Of the files that a crate holds.
MEDIA = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".yaml": "application/yaml",
}

Entity = dict[str, Any]
ABOUT: Entity = {
    "@id": METADATA,
    "@type": "CreativeWork",
    "about": {"@id": "./"},
    "conformsTo": {"@id": CRATE},
}
FIXED: tuple[Entity, ...] = (
    {
        "@id": PROFILE,
        "@type": "CreativeWork",
        "name": "Process Run Crate",
        "version": PROFILE.rpartition("/")[2],
    },
    {"@id": "#licence", "@type": "CreativeWork", "name": "Licence", "description": LICENCE},
)


def folder_of(artifact: Artifact) -> str:
    """Return the path of an artifact's folder inside a crate."""
    record = artifact.record
    home = "/".join(part for part in (record.asset, record.partition) if part)
    return f"artifacts/{home}/{artifact.folder.name}"


def metadata(
    title: str, claims: Iterable[Resolved], nodes: Iterable[Node], files: Mapping[str, FileEntry]
) -> dict[str, Any]:
    """Return the metadata of a crate; ``files`` are keyed by their paths in it.

    ``nodes`` are all steps that the ``claims`` rest on.
    """
    nodes, claims = list(nodes), list(claims)
    made = [node for node in nodes if node.artifact is not None]
    graph = [entity for node in nodes for entity in _step(node, files)]
    stated = [entity for claim in claims for entity in _claim(claim)]
    mentioned = [e for e in (*graph, *stated) if e["@type"] in ("CreateAction", "Claim")]
    newest = max(times(node.artifact)[1] for node in made if node.artifact)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": "Claims of a report with the artifacts that they rest on: records, receipts "
        f"and files by content hash. '{SOFTWARE}' verifies it: fer claims verify FOLDER",
        "datePublished": newest.isoformat(),
        "license": {"@id": "#licence"},
        "conformsTo": {"@id": PROFILE},
        "hasPart": _refs(
            [
                *(e["@id"] for e in graph if e["@type"] == "Dataset"),
                *map(quote, files),
            ]
        ),
        "mentions": _refs(entity["@id"] for entity in mentioned),
    }
    listed = [_file(name, entry) for name, entry in files.items()]
    return {
        "@context": [f"{CRATE}/context", HASH_TERM],
        "@graph": [ABOUT, root, *FIXED, _software(), *graph, *stated, *listed],
    }


def stated_files(graph: Iterable[Entity]) -> dict[str, FileEntry]:
    """Return the files that a crate's metadata lists; ``ValueError`` for one not described."""
    entries = {}
    for entity in graph:
        if entity["@type"] == "File":
            name = unquote(entity["@id"])
            if not stays_below(name):
                raise ValueError(f"{name!r} is no path in a crate")
            size = int(entity["contentSize"])
            entries[name] = FileEntry(sha256=entity["sha256"], bytes=size)
    return entries


def _software() -> Entity:
    return {
        "@id": PRODUCER,
        "@type": "SoftwareApplication",
        "name": SOFTWARE,
        "softwareVersion": software_version(),
        "url": {"@id": PRODUCER},
    }


def _file(name: str, entry: FileEntry) -> Entity:
    suffix = f".{name.rpartition('.')[2]}"
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name,
        "contentSize": str(entry.bytes),
        "sha256": entry.sha256,
        "encodingFormat": MEDIA.get(suffix, "text/plain"),
    }


def _step(node: Node, files: Mapping[str, FileEntry]) -> list[Entity]:
    """Describe a step: a raw folder as a value, an artifact with its facts and its making."""
    if node.artifact is None:
        return [_value(_name(node), node.item.key, node.item.sha256)]
    base = _name(node)
    facts = [
        _value(f"#fact-{path_of(node)}-{node.item.sha256}-{name}", name, value)
        for name, value in {**artifact_facts(node), **_gates(node)}.items()
    ]
    record = node.artifact.record
    absent = [name for name in record.files if f"{unquote(base)}{name}" not in files]
    left_out = f"; not in this crate: {', '.join(absent)}" if absent else ""
    start, end = times(node.artifact)
    return [
        {
            "@id": base,
            "@type": "Dataset",
            "name": node.item.key,
            "description": f"artifact, by its content hash{left_out}",
            "identifier": record.sha256,
            "dateCreated": end.isoformat(),
            "hasPart": _refs(quote(name) for name in files if name.startswith(unquote(base))),
            "additionalProperty": _refs(fact["@id"] for fact in facts),
        },
        {
            "@id": f"#run-{run_uuid(node.artifact)}",
            "@type": "CreateAction",
            "name": f"make {node.item.key}",
            "description": f"version {record.code_version} of the step that makes it",
            "instrument": {"@id": PRODUCER},
            **({"object": _refs(map(_name, node.inputs))} if node.inputs else {}),
            "result": {"@id": base},
            "startTime": start.isoformat(timespec="milliseconds"),
            "endTime": end.isoformat(timespec="milliseconds"),
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
        *facts,
    ]


def _name(node: Node) -> str:
    if node.artifact is None:
        return quote(f"#{node.item.key}-{node.item.sha256}", safe="/#")
    return quote(f"{folder_of(node.artifact)}/")


def _claim(claim: Resolved) -> list[Entity]:
    value = _value(f"#value-{claim.claim.id}", claim.claim.id, claim.shown())
    stated = {
        "@id": f"#claim-{claim.claim.id}",
        "@type": "Claim",
        "name": claim.claim.id,
        "text": claim.sentence(),
        "creativeWorkStatus": claim.status,
        **({"isBasedOn": _refs(map(_name, claim.traces))} if claim.traces else {}),
        "about": {"@id": value["@id"]},
    }
    return [stated, value]


def _refs(identifiers: Iterable[str]) -> Any:
    """Return references; a single one is not wrapped in a list, as RO-Crate advises."""
    references = [{"@id": identifier} for identifier in identifiers]
    return references[0] if len(references) == 1 else references


def _gates(node: Node) -> dict[str, str]:
    return {f"gate/{r.rule}": word_of(r.passed) for r in node.receipts.values()}


def _value(identifier: str, name: str, value: str) -> Entity:
    identifier = quote(identifier, safe="/#")
    return {"@id": identifier, "@type": "PropertyValue", "name": name, "value": value}
