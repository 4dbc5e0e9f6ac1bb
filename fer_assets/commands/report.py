"""``fer report``: check any report against its references and claims."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import Commands, JsonOption, console, styled, table

if TYPE_CHECKING:
    from rich.table import Table

    from fer_ml.report.checklist import Finding
    from fer_ml.report.citations import Citations
    from fer_ml.report.claimed import Covered

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Check any report against its references and claims."
)


@app.command()
def check(
    report: Annotated[Path, typer.Argument(help="Report file: .md, .tex, .docx or .ipynb")],
    claims: Annotated[
        Path | None,
        typer.Option(help="Check the numbers against these claims: artifact root or exported zip"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a report's citations against its references, and its numbers against claims.

    It also looks for the reproducibility checklist. Exit code 2 if a citation is unlisted or listed
    twice, or if a printed value differs from its claim. Numbers that no claim covers are listed.

    Example: fer report check paper.tex --claims evidence.zip
    """
    from fer_assets.commands.claims import verified_claims
    from fer_ml.report.checklist import check_list
    from fer_ml.report.citations import check_citations
    from fer_ml.report.claimed import check_claims
    from fer_ml.report.foreign import read_report

    text = read_report(report)
    citations, items = check_citations(text), check_list(text)
    covered = None
    if claims is not None:
        with verified_claims(claims, None, None) as verified:
            verified.require_grounded()
            covered = check_claims(text, verified.claims, verified.held.names)
    if as_json:
        findings = {
            "citations": citations.to_json(),
            "checklist": [item.to_json() for item in items],
            "claims": covered.to_json() if covered else None,
        }
        print(json.dumps(findings, indent=2))
    else:
        console.print(_citations(citations))
        console.print("")
        console.print(_checklist(items))
        if covered is not None:
            console.print("")
            console.print(_numbers(covered))
    if not citations.sound or not (covered is None or covered.sound):
        raise typer.Exit(2)


def _numbers(covered: "Covered") -> "Table":
    numbers = table(title="Numbers", show_header=False)
    summary = "refers to {} claims, {} numbers are covered by none"
    numbers.add_row("", summary.format(len(covered.referred), len(covered.uncovered)), "")
    for said in covered.wrong:
        says = f"{said.claim} is {said.shown}, and not {said.said}"
        if said.shown is None:
            says = f"there is no claim {said.claim}"
        numbers.add_row(styled(("wrong", "red")), says, f"line {said.line}")
    for number in covered.uncovered:
        numbers.add_row(styled(("no claim", "yellow")), number.near, f"line {number.line}")
    return numbers


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
    for finding in items:
        mark = styled(("stated", "green") if finding.stated else ("not stated", "yellow"))
        lines = ", ".join(str(line) for line in sorted({*finding.lines} - {0}))
        checklist.add_row(mark, finding.item.asks, f"line {lines}" if lines else "")
    return checklist
