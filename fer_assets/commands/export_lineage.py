"""``fer export-lineage``: write the lineage in formats of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline, styled


def export_lineage(
    out: Annotated[Path, typer.Option(help="File to create; for croissant a new folder")],
    format: Annotated[
        str, typer.Option(help="Format: openlineage, prov or croissant")
    ] = "openlineage",
    select: Annotated[
        str | None,
        typer.Option(help="Assets, partitions or groups, comma-separated; default: all that exist"),
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Write the lineage for other tools: hashes of artifacts, how they were made, gates, inputs.

    Every byte is verified, and the file marks stale or damaged artifacts. It contains no path of
    this machine. Croissant describes only the selected manifests, with their tables beside it.

    Example: fer export-lineage --format prov --out lineage.json --select student_bundle
    """
    from fer_ml.exchange import export_lineage as write
    from fer_ml.exchange.facts import lineage_nodes

    pipeline = open_pipeline(profile)
    chosen = (lambda target: True) if select is None else pipeline.named(select)
    made = [
        pipeline.store.current(target.asset, target.partition)
        for target in pipeline.targets()
        if chosen(target)
    ]
    nodes = lineage_nodes(
        pipeline.store, [a for a in made if a is not None], pipeline.fingerprints()
    )
    write(nodes, pipeline.profile.name, format, out)
    raw = sum(node.item.root is not None for node in nodes)
    console.print(f"{len(nodes) - raw} artifacts and {raw} raw folders in {out}")
    for node in nodes:
        if node.problem:
            console.print(styled(("note", "yellow"), f" {node.item.key}: {node.problem}"))
