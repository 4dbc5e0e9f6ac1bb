"""``fer report``: checks on Markdown reports."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import JsonOption, console, styled, table

if TYPE_CHECKING:
    from rich.table import Table

    from fer_ml.report.checklist import Finding
    from fer_ml.report.citations import Citations

app = typer.Typer(no_args_is_help=True, help="Checks on Markdown reports.")


@app.command()
def check(
    report: Annotated[Path, typer.Argument(help="Any report in Markdown")],
    as_json: JsonOption = False,
) -> None:
    """Hold a report's citations against its references, and look for the reproducibility checklist.

    Exit code 2 when a citation is not listed, or listed twice.

    Example: fer report check docs/results.md
    """
    from fer_ml.report.checklist import check_list
    from fer_ml.report.citations import check_citations
    from fer_ml.report.markdown import read_text

    text = read_text(report)
    citations, items = check_citations(text), check_list(text)
    if as_json:
        found = {
            "citations": citations.to_json(),
            "checklist": [item.to_json() for item in items],
        }
        print(json.dumps(found, indent=2))
    else:
        console.print(_citations(citations))
        console.print("")
        console.print(_checklist(items))
    if not citations.sound:
        raise typer.Exit(2)


def _citations(citations: "Citations") -> "Table":
    counts = table(show_header=False)
    counts.add_row("references listed", str(len(citations.listed)), "")
    counts.add_row("cited", str(len(citations.used)), "")
    for name, numbers, colour in (
        ("cited and not listed", citations.missing, "red"),
        ("listed twice", citations.twice, "red"),
        ("listed and not cited", citations.uncited, "yellow"),
    ):
        which = " ".join(
            f"[{number}]" + (f" in line {citations.used[number]}" if "cited and" in name else "")
            for number in numbers
        )
        count = styled((str(len(numbers)), colour if numbers else "green"))
        counts.add_row(name, count, which)
    return counts


def _checklist(items: "tuple[Finding, ...]") -> "Table":
    checklist = table(title="Reproducibility checklist", show_header=False)
    for found in items:
        mark = styled(("stated", "green") if found.stated else ("not stated", "yellow"))
        lines = ", ".join(str(line) for line in sorted({*found.lines} - {0}))
        checklist.add_row(mark, found.item.asks, f"line {lines}" if lines else "")
    return checklist
