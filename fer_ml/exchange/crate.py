"""An RO-Crate (Process Run Crate): artifacts are datasets, making them is a CreateAction.

The crate describes the files by hash and does not hold them: they are weights and tables about
people's faces, and whoever shares those decides it by hand.
"""

from collections.abc import Sequence
from pathlib import Path

from rocrate.model.contextentity import ContextEntity
from rocrate.model.dataset import Dataset
from rocrate.model.entity import Entity
from rocrate.model.file import File
from rocrate.rocrate import ROCrate

from fer_ml.claims.trace import Node
from fer_ml.exchange.facts import SOFTWARE, path_of, run_uuid, software_version, times, told
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import word_of

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENCE = "as the training data's; the faces of FER datasets are for research only"


def write(nodes: Sequence[Node], profile: str, out: Path) -> None:
    """Write the crate's folder."""
    crate(nodes, profile).write(out)


def crate(nodes: Sequence[Node], profile: str) -> ROCrate:
    """All nodes, each after what it was made from."""
    made = ROCrate()
    made.name = f"Lineage of profile {profile}"
    made.description = "Artifacts of a facial-expression pipeline by content hash, and their making"
    made.license = LICENCE
    made.datePublished = max(
        times(node.artifact)[1].isoformat() for node in nodes if node.artifact is not None
    )
    standard = made.add(
        ContextEntity(made, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate"})
    )
    made.root_dataset["conformsTo"] = standard
    software = made.add(
        ContextEntity(
            made,
            f"#{SOFTWARE}",
            {
                "@type": "SoftwareApplication",
                "name": SOFTWARE,
                "softwareVersion": software_version(),
            },
        )
    )
    held: dict[tuple[str, str], Entity] = {}
    for node in nodes:
        entity = _dataset(made, node, profile)
        held[node.item.key, node.item.sha256] = entity
        if node.artifact is None:
            continue
        start, end = times(node.artifact)
        properties = {
            "name": f"make {node.item.key}",
            "startTime": start.isoformat(),
            "endTime": end.isoformat(),
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "version": node.artifact.record.code_version,
        }
        action = made.add_action(
            software,
            f"#run-{run_uuid(node.artifact)}",
            object=[held[below.item.key, below.item.sha256] for below in node.inputs],
            result=[entity],
            properties=properties,
        )
        made.root_dataset.append_to("mentions", action)
    return made


def _dataset(made: ROCrate, node: Node, profile: str) -> Entity:
    """One artifact or raw folder, with its files, gates and further facts."""
    base = f"arcp://name,fer-{profile}/{path_of(node)}/{node.item.sha256}/"
    facts = [
        _fact(made, f"{base}#{name}", name, value)
        for name, value in {**told(node), **_gates(node)}.items()
    ]
    entity = made.add(
        Dataset(
            made,
            base,
            properties={
                "name": node.item.key,
                "identifier": node.item.sha256,
                "sha256": node.item.sha256,
                "description": "raw folder, by its fingerprint"
                if node.item.root is not None
                else "artifact, by its content hash",
                **({"additionalProperty": facts} if facts else {}),
            },
        )
    )
    if node.artifact is not None:
        entity["hasPart"] = [
            _file(made, base, name, node.artifact) for name in node.artifact.record.files
        ]
    return entity


def _file(made: ROCrate, base: str, name: str, artifact: Artifact) -> Entity:
    entry = artifact.record.files[name]
    properties = {"name": name, "contentSize": str(entry.bytes), "sha256": entry.sha256}
    return made.add(File(made, base + name, properties=properties))


def _gates(node: Node) -> dict[str, str]:
    receipts = node.artifact.receipts().values() if node.artifact is not None else ()
    return {f"gate/{r.rule}": word_of(r.passed) for r in receipts}


def _fact(made: ROCrate, identifier: str, name: str, value: str) -> Entity:
    properties = {"@type": "PropertyValue", "name": name, "value": value}
    return made.add(ContextEntity(made, identifier, properties))
