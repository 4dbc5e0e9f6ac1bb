"""The lineage in formats that other tools read: OpenLineage, W3C PROV, RO-Crate.

No path of a machine leaves here, and no face: artifacts are named by asset and hash.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from fer_ml.base.errors import FerError
from fer_ml.base.names import require_new
from fer_ml.claims.trace import Node

Format = Literal["openlineage", "prov", "ro-crate"]
WRITERS: dict[Format, str] = {
    "openlineage": "events",
    "prov": "document",
    "ro-crate": "crate",
}


def export_lineage(nodes: Sequence[Node], profile: str, format: str, out: Path) -> None:
    """Write ``nodes`` (of ``facts.everything``) as one file, or as a crate's folder.

    ``FerError`` when ``out`` exists, the format is unknown, or its library is not installed.
    """
    if format not in get_args(Format):
        raise FerError(f"unknown format {format!r}", allowed=", ".join(get_args(Format)))
    if out.exists() and not (format == "ro-crate" and out.is_dir() and not any(out.iterdir())):
        raise FerError("it exists already", where=out, fix="name a new one")
    require_new(out)
    name = f"fer_ml.exchange.{WRITERS[format]}"  # type: ignore[index]
    try:
        writer = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise FerError(
            f"format {format} needs the library {error.name}, which is not installed",
            fix="pip install -e '.[lineage]'",
        ) from error
    writer.write(nodes, profile, out)
