"""``fer claims``: a report's claims, held against artifacts."""

import json
from collections.abc import Iterator
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
from fer_ml.base.errors import FerError

if TYPE_CHECKING:
    from rich.table import Table

    from fer_ml.claims.verify import Verified

app = typer.Typer(no_args_is_help=True, help="Hold a report's claims against artifacts.")


@app.command()
def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Artifact folder of one profile; default: that of --profile"),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(help="Claims file; default: the folder's own copy, or the profile's file"),
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every byte that the claims rest on, read the receipts, and judge each claim.

    Exit code 2 unless all are grounded. It needs an artifact folder and a claims file: no Dagster,
    no project, no raw data. A folder that was copied here keeps its claims in report_claims.

    Example: fer claims verify outputs/sample
    """
    from fer_assets.stages import gates_of
    from fer_ml.claims.verify import verify_folder, verify_store
    from fer_ml.storage.artifact import Demands

    if folder is None:
        pipeline = open_pipeline(profile)
        verified = verify_store(
            pipeline.store, claims or pipeline.claims_file(), pipeline.fingerprints()
        )
    else:
        if not folder.is_dir():
            raise FerError("no such folder", where=folder, fix="name a profile's artifact folder")
        verified = verify_folder(folder, claims, demands=Demands(gates_of))
    if as_json:
        print(json.dumps(verified.to_json(), indent=2))
    else:
        console.print(claims_table(verified))
        for line in claims_summary(verified):
            console.print(line, soft_wrap=True)
    if not verified.green:
        raise typer.Exit(2)


@app.command()
def schema() -> None:
    """Print the JSON schema of a claims file, for editors.

    Example: fer claims schema > claims/schema.json
    """
    from fer_ml.claims.model import schema

    print(json.dumps(schema(), indent=2))


def claims_table(verified: "Verified") -> "Table":
    """Every claim with its status; the reason stands below the sentence."""
    from fer_assets.show import status_text

    claims = table()
    claims.add_column("status", no_wrap=True)
    for name in ("claim", "sentence"):
        claims.add_column(name, overflow="fold")
    for claim in verified.claims:
        sentence = styled(claim.sentence())
        if claim.reason:
            sentence.append("\n").append_text(styled((claim.reason, "dim")))
        claims.add_row(status_text(claim), claim.claim.id, sentence)
    return claims


def claims_summary(verified: "Verified") -> Iterator[str]:
    """How many claims have each status, over how many artifacts, and what was not looked at."""
    counts = ", ".join(
        f"{count} {status.replace('_', ' ')}" for status, count in verified.counts.items() if count
    )
    steps = [node for node in verified.lineage if node.artifact]
    files = sum(len(node.artifact.record.files) for node in steps if node.artifact)
    yield f"{len(verified.claims)} claims: {counts}."
    if steps:
        yield f"{files} files of {len(steps)} artifacts were hashed again, their receipts read."
    if verified.not_looked_at:
        yield f"Raw folders that are not here, not looked at: {', '.join(verified.not_looked_at)}."
