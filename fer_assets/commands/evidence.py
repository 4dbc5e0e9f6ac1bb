"""``fer evidence``: write pages with the rows behind each claim."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline
from fer_ml.base.errors import FerError


def evidence(
    claims: Annotated[list[str] | None, typer.Argument(help="Ids of claims; default: all")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder to pass on, with the report; default: the artifact root"),
    ] = None,
    faces: Annotated[
        bool, typer.Option("--faces", help="Copy the faces into the folder; they are personal data")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Write a page for each claim: its gates, and every row behind its numbers.

    The pages open without a server and recompute the numbers. In the artifact root they show its
    faces; a folder to pass on contains faces only with --faces. fer ui serves the pages too.

    Example: fer evidence dkd-macro-f1 --out for_a_reviewer
    """
    if faces and out is None:
        raise FerError(
            "--faces needs a folder to copy the faces into",
            code="missing-option",
            fix="name the folder with --out",
        )
    pipeline = open_pipeline(profile)
    from fer_assets import evidence as work

    if out is None:
        index = work.write(pipeline)
    else:
        index = work.export(pipeline, out, claims or (), faces=faces)
    pages = [index.parent / "claims" / f"{claim}.html" for claim in claims or ()]
    for page in pages or [index]:
        console.print(f"written: {page}", soft_wrap=True)
