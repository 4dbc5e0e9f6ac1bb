"""``fer trace``: follow a claim, asset, file or face back to the raw folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import JsonOption, ProfileOption, console, open_pipeline
from fer_ml.base.errors import FerError

if TYPE_CHECKING:
    from fer_ml.evidence.faces import Face


def trace(
    what: Annotated[
        str,
        typer.Argument(
            help="Id of a claim, an asset, a file, the first 8 digits of a hash, or a face (an "
            "image file, an image_path or a sample_id)"
        ),
    ],
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart for Markdown")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the graph as one HTML page, which needs no network")
    ] = None,
) -> None:
    """Trace a claim, an asset, a file or a hash back to the raw folders. Exit code 2 if not green.

    For a face it prints source, raw file, split in each manifest, the prediction of each model, and
    the claims that depend on it.

    Example: fer trace manifest-rows --html trace.html
    """
    pipeline = open_pipeline(profile)
    from fer_assets.show import faces_of, trace_of, trace_tree
    from fer_ml.claims import graph
    from fer_ml.claims.trace import NothingToTrace

    try:
        traced = trace_of(pipeline, what)
    except NothingToTrace:
        faces = faces_of(pipeline, what)
        if not faces:
            raise
        if as_mermaid or html:
            raise FerError(
                f"{what} is a face, which has no graph",
                code="options-conflict",
                fix="leave the option out, or open the page of the face from 'fer evidence'",
            ) from None
        _show_faces(faces, as_json)
        return
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


def _show_faces(faces: Sequence["Face"], as_json: bool) -> None:
    from fer_assets.show import face_tree

    if as_json:
        print(json.dumps([face.to_json() for face in faces], indent=2))
    else:
        for face in faces:
            console.print(face_tree(face))
