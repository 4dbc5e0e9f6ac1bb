"""``fer validate``: judge any manifest CSV."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_assets.commands.common import JsonOption, ProfileOption, console, styled, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV to judge")],
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that contains the images; repeatable"),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also decode images unchanged since the last validation")
    ] = False,
    findings: Annotated[
        Path | None, typer.Option(help="Write all findings to this CSV, not only examples")
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge any manifest CSV: every row, every image. Exit code 2 when a blocking gate fails.

    Paths may be relative to a root or to the project, or absolute paths of another machine; the
    output says which base was found for them. The profile decides when faces count as copies.

    Example: fer validate my_manifest.csv --root my_images
    """
    from fer_ml.base.files import private_folder
    from fer_ml.base.settings import settings
    from fer_ml.recipes.loading import load_profile
    from fer_ml.validation.report import validate_file

    private_folder(settings().home / ".validate")  # It keeps thumbs of faces.
    report = validate_file(
        manifest,
        root or [manifest.resolve().parent],
        settings().home / ".validate",
        near=load_profile(settings(), profile).near_rule,
        since=time.time() if full else 0.0,
    )
    if findings is not None:
        import polars as pl

        from fer_ml.base.files import write_atomic
        from fer_ml.validation.rules import FINDINGS_SCHEMA

        every = pl.DataFrame(report["findings"], schema=FINDINGS_SCHEMA)
        write_atomic(findings, every.write_csv().encode())
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        counts = f"{report['rows_total']:,} rows, {report['rows_valid']:,} of them usable"
        console.print(f"{report['manifest']}: {counts}", soft_wrap=True)
        console.print(_rules(report))
        for line in _verdict(report):
            console.print(line)
    if not report["passed"]:
        raise typer.Exit(2)


def _rules(report: dict[str, Any]) -> "Table":
    """Return a table of rules with the number of findings and the first finding of each."""
    rules = table()
    for name in ("", "rule", "found", "first example"):
        rules.add_column(name)
    for rule, outcome in report["rules"].items():
        mark = {True: ("ok", "green"), None: ("-", "dim")}.get(
            outcome["passed"], ("note", "yellow")
        )
        if outcome["passed"] is False and outcome["blocking"]:
            mark = ("red", "red")
        example = outcome["examples"][0] if outcome["examples"] else outcome["detail"]
        count = "-" if outcome["passed"] is None else f"{outcome['value']:,}"
        rules.add_row(styled(mark), rule, count, example)
    return rules


def _verdict(report: dict[str, Any]) -> "Iterator[Text | str]":
    """Yield how the images were checked, what their paths are relative to, and the verdict."""
    from fer_ml.manifests.inspection import how_checked
    from fer_ml.validation.gates import MANIFEST_GATES

    yield f"Images: {how_checked(report['checked'])}."
    for base in report["bases"]:
        cut = f", its first {base['cut']} folders taken away" if base["cut"] else ""
        where = f"below {base['root']}{cut}" if base["root"] else "nowhere"
        yield f"Paths {base['start']}... ({base['rows']:,} rows): found {where}."
    twins = sum(entry["with_twin"] for entry in report["test_twins"].values())
    tests = sum(entry["test_rows"] for entry in report["test_twins"].values())
    if tests:
        yield f"Test rows with a twin in another split: {twins:,} of {tests:,}."
    red = [
        rule
        for rule, entry in report["rules"].items()
        if entry["blocking"] and entry["passed"] is False
    ]
    for rule in red:
        fix = next(gate.fix for gate in MANIFEST_GATES if gate.rule == rule)
        yield styled((rule, "red"), f": {fix}")
    yield styled(("Not fit for use.", "red") if red else ("Fit for use.", "green"))
