"""``fer trace``: back to the raw folders."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import JsonOption, ProfileOption, console, open_pipeline


def trace(
    what: Annotated[
        str, typer.Argument(help="A claim id, an asset, a file or the first 8 digits of a hash")
    ],
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart, for Markdown")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one page with the graph, which needs no network")
    ] = None,
) -> None:
    """Follow a claim, an asset, a file or a hash back to the raw folders. Exit code 2 if not green.

    Example: fer trace manifest-rows --html trace.html
    """
    pipeline = open_pipeline(profile)
    from fer_assets.show import trace_of, trace_tree
    from fer_ml.claims import graph

    traced = trace_of(pipeline, what)
    if html is not None:
        from fer_ml.base.files import write_atomic

        write_atomic(html, graph.page(traced, f"Trace of {what}").encode())
    if as_json:
        print(json.dumps(traced.to_json(), indent=2))
    elif as_mermaid:
        print(graph.mermaid(traced), end="")
    elif html is not None:
        console.print(f"written: {html}")
    else:
        console.print(trace_tree(traced))
    if not traced.sound:
        raise typer.Exit(2)
