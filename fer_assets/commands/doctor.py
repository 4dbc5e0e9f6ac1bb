"""``fer doctor``: what this machine has and lacks."""

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
    fetch_detector: Annotated[
        bool,
        typer.Option(
            "--fetch-detector",
            help="Download YuNet first, the face detector, where its package is missing",
        ),
    ] = False,
    detector_file: Annotated[
        Path | None, typer.Option(help="Take YuNet from this file first, in place of a download")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write a zip for a maintainer, without data, faces, names and secrets"),
    ] = None,
) -> None:
    """Say what this machine has, and what to do about what is missing. Exit code 1 if it blocks.

    Example: fer doctor --detector-file Downloads/face_detection_yunet_2023mar.onnx

    Example: fer doctor --bundle for_the_maintainer.zip
    """
    from fer_assets.doctor import examine, fetch_yunet
    from fer_ml.base.settings import settings

    if fetch_detector or detector_file is not None:
        print(f"YuNet is at {fetch_yunet(settings().home, detector_file)}", file=sys.stderr)
        settings.cache_clear()
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
