"""``fer doctor``: report what this machine has and what it lacks."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import (
    JsonOption,
    ProfileOption,
    console,
    open_pipeline,
    styled,
    table,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fer_assets.doctor import Finding


def doctor(
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write a zip for a maintainer, without data, faces, names or secrets"),
    ] = None,
) -> None:
    """Report what this machine has and how to fix what is missing. Exit code 1 if it blocks a run.

    Example: fer doctor --bundle for_the_maintainer.zip
    """
    from fer_assets.doctor import examine

    pipeline = open_pipeline(profile)
    findings = examine(pipeline)
    if bundle is not None:
        from fer_assets.support import write_bundle

        names = write_bundle(pipeline, findings, bundle)
        print(f"written: {bundle}, with {', '.join(names)}", file=sys.stderr)
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        console.print(_table(findings))
    if any(finding.state == "blocks" for finding in findings):
        raise typer.Exit(1)


def _table(findings: "list[Finding]") -> "Table":
    colours = {"ok": "green", "note": "yellow", "blocks": "red"}
    rows = table("", "what", "found", "to do")
    for finding in findings:
        mark = styled((finding.state, colours[finding.state]))
        rows.add_row(mark, finding.what, finding.found, finding.fix)
    return rows
