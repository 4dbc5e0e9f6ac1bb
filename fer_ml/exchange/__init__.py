"""Export to formats of other tools: the lineage, manifests as Croissant, evidence as an RO-Crate.

The lineage names artifacts by asset and hash, and contains no paths of a machine and no faces.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from fer_ml.base.errors import FerError
from fer_ml.base.names import require_new
from fer_ml.claims.trace import Node

Format = Literal["openlineage", "prov", "croissant"]
WRITERS: dict[Format, str] = {
    "openlineage": "events",
    "prov": "document",
    "croissant": "croissant",
}


def export_lineage(nodes: Sequence[Node], profile: str, format: str, out: Path) -> None:
    """Write ``nodes`` (of ``lineage_nodes``) as one file; for Croissant, the manifests as a folder.

    Raises ``FerError`` when ``out`` exists, the format is unknown, or its library is not installed.
    """
    if format not in get_args(Format):
        raise FerError(
            f"unknown format {format!r}",
            code="unknown-format",
            allowed=", ".join(get_args(Format)),
            fix="use 'fer claims export' for an RO-Crate with the files in it",
        )
    if out.exists():
        raise FerError(
            "the output exists already", code="output-exists", where=out, fix="name a new one"
        )
    require_new(out)
    name = f"fer_ml.exchange.{WRITERS[format]}"  # type: ignore[index]
    try:
        writer = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise FerError(
            f"format {format} needs the library {error.name}, which is not installed",
            code="missing-package",
            fix="pip install -e '.[lineage]'",
        ) from error
    writer.write(nodes, profile, out)
