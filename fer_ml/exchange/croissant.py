"""Manifests as a Croissant data set: ``croissant.json`` and the tables (MLCommons 1.0).

The tables are copies of the manifests' csv, with hashes; the pictures are not copied.
"""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.files import private_folder, write_json
from fer_ml.base.reading import open_file, open_text
from fer_ml.claims.trace import Node
from fer_ml.evidence.rows import NoRows, manifest_file
from fer_ml.exchange.facts import LICENCE, PRODUCER, path_of, times
from fer_ml.manifests.schema import SCHEMA
from fer_ml.storage.artifact import Artifact

FILE = "croissant.json"
#: The terms of Croissant 1.0, as its specification writes them down.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TYPES = {pl.String(): "sc:Text", pl.Int64(): "sc:Integer", pl.Float64(): "sc:Float"}


def write(nodes: Sequence[Node], profile: str, out: Path) -> None:
    """Write the folder of all manifests among ``nodes``."""
    tables = [(path_of(node).replace("/", "_"), node.artifact) for node in nodes if node.artifact]
    manifests = [(name, made, table) for name, made in tables if (table := _table(made))]
    if not manifests:
        raise FerError(
            "no manifest was selected",
            code="no-manifest-selected",
            where=out,
            fix="add --select classification_manifest",
        )
    private_folder(out)
    distribution, sets = [], []
    for name, made, table in manifests:
        with open_file(made.file(table)) as source, (out / f"{name}.csv").open("wb") as into:
            shutil.copyfileobj(source, into)
        distribution.append(_file(name, made, table))
        with open_text(made.file(table)) as header:
            sets.append(_records(name, made, next(csv.reader(header))))
    write_json(
        out / FILE,
        {
            "@context": CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": f"fer-{profile}",
            "description": f"Manifests of profile {profile}: rows of faces with label and split",
            "license": LICENCE,
            "url": PRODUCER,
            "version": "1.0.0",
            "datePublished": max(times(made)[1] for _, made, _ in manifests).isoformat(),
            "distribution": distribution,
            "recordSet": sets,
        },
    )


def _table(made: Artifact) -> str | None:
    try:
        return manifest_file(made)
    except NoRows:
        return None


def _file(name: str, made: Artifact, table: str) -> dict[str, Any]:
    entry = made.record.files[table]
    return {
        "@type": "cr:FileObject",
        "@id": f"{name}.csv",
        "name": f"{name}.csv",
        "description": f"{made.key}, artifact {made.sha256}",
        "contentUrl": f"{name}.csv",
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": "text/csv",
        "sha256": entry.sha256,
    }


def _records(name: str, made: Artifact, columns: Sequence[str]) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{column}",
            "name": column,
            "dataType": TYPES[SCHEMA[column]],
            "source": {"fileObject": {"@id": f"{name}.csv"}, "extract": {"column": column}},
        }
        for column in columns
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"rows of {made.key}",
        "key": {"@id": f"{name}/sample_id"},
        "field": fields,
    }
