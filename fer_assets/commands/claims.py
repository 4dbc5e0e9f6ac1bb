"""``fer claims``: check a report's claims against artifacts, export and list them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import (
    Commands,
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

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Check a report's claims against artifacts."
)


@app.command()
def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Artifact root of one profile, or exported evidence (zip or unpacked folder); "
            "default: the artifacts of --profile"
        ),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            help="Claims file; default: the copy in the folder, or the file of the profile"
        ),
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every byte that the claims depend on, read the receipts, and judge each claim.

    Exit code 2 unless all claims are grounded. An artifact root and a claims file suffice: no
    Dagster, no project and no raw data. A copied artifact root has its claims in report_claims.

    Example: fer claims verify outputs/sample
    """
    with verified_claims(folder, claims, profile) as verified:
        if as_json:
            print(json.dumps(verified.to_json(), indent=2))
        else:
            console.print(claims_table(verified))
            for line in claims_summary(verified):
                console.print(line, soft_wrap=True)
    if not verified.green:
        raise typer.Exit(2)


@contextmanager
def verified_claims(
    folder: Path | None, claims: Path | None, profile: str | None
) -> Iterator["Verified"]:
    """Check all claims, and yield the result as a context manager.

    A claim that fails is part of the result and raises nothing. The claims are checked against
    ``folder`` (an artifact root or exported evidence), or without it against the artifacts of
    ``profile``. ``claims`` replaces the claims file kept in ``folder``, or that of the profile.
    """
    from fer_assets.stages import gates_of
    from fer_ml.claims.verify import verify_folder, verify_store
    from fer_ml.exchange.evidence import is_evidence, verified_evidence
    from fer_ml.storage.artifact import Demands

    if folder is None:
        pipeline = open_pipeline(profile)
        file = claims or pipeline.claims_file()
        yield verify_store(pipeline.store, file, pipeline.fingerprints())
    elif is_evidence(folder):
        with verified_evidence(folder, claims, Demands(gates_of, whole=False)) as verified:
            yield verified
    elif folder.is_dir():
        yield verify_folder(folder, claims, demands=Demands(gates_of))
    else:
        fix = "name a profile's artifact folder, or what 'fer claims export' wrote"
        raise FerError("there is no such folder or zip", code="missing-file", where=folder, fix=fix)


@app.command()
def export(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Ids of claims; default: all claims and the report")
    ] = None,
    out: Annotated[Path, typer.Option(help="Zip file to create")] = Path("evidence.zip"),
    faces: Annotated[
        bool,
        typer.Option(
            "--faces", help="Include contact sheets and the faces of the rows behind the claims"
        ),
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Write the evidence of claims as one zip, which 'fer claims verify' can check by itself.

    The zip is an RO-Crate: the claims, and the records, receipts and tables of all artifacts that
    they depend on. Weights are left out. Tables contain names of photos and their labels; records
    contain paths of raw folders. The same artifacts give the same bytes.

    Example: fer claims export dkd-macro-f1 --out evidence.zip
    """
    from fer_ml.base.reading import sha256_file
    from fer_ml.claims.model import read_claims
    from fer_ml.claims.trace import Tracer
    from fer_ml.claims.verify import verify as resolve
    from fer_ml.exchange.evidence import export_evidence

    pipeline = open_pipeline(profile)
    tracer = Tracer(pipeline.store, pipeline.fingerprints())
    claims_file = read_claims(pipeline.claims_file())
    made = [pipeline.store.current(asset) for asset in ("report_claims", "report")]
    reports = [] if claims else [tracer.trace(a) for a in made if a is not None]
    picked = claims_file.picked(*claims) if claims else claims_file
    files = export_evidence(resolve(picked, tracer), pipeline.store, reports, out, faces=faces)
    size = sum(entry.bytes for entry in files.values())
    console.print(f"{len(picked.claims)} claims and {len(files)} files ({size:,} bytes) in {out}")
    console.print(f"sha256 {sha256_file(out)}")


@app.command()
def values(
    out: Annotated[
        Path, typer.Option(help="File to write: claims.tex, _variables.yml (Quarto) or claims.csv")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Artifact root or exported zip; default: the artifact root of --profile"
        ),
    ] = None,
    profile: ProfileOption = None,
) -> None:
    r"""Write the claims' values for a paper: LaTeX macros, variables for Quarto, or csv.

    In LaTeX, \ferclaim{dkd-macro-f1} prints a value and links it to its page of the evidence.

    Example: fer claims values --out claims.tex
    """
    from fer_ml.report.values import write_values

    with verified_claims(folder, None, profile) as verified:
        write_values(verified, out)
    console.print(f"{len(verified.claims)} claims in {out}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a claims file, for editors.

    Example: fer claims schema > claims/schema.json
    """
    from fer_ml.claims.model import schema

    print(json.dumps(schema(), indent=2))


def claims_table(verified: "Verified") -> "Table":
    """Return a table of every claim with its status; a reason stands below its sentence."""
    from fer_assets.show import status_text

    claims = table()
    claims.add_column("status", no_wrap=True)
    for name in ("claim", "sentence"):
        claims.add_column(name)
    for claim in verified.claims:
        sentence = styled(claim.sentence())
        if claim.reason:
            sentence.append("\n").append_text(styled((claim.reason, "dim")))
        claims.add_row(status_text(claim), claim.claim.id, sentence)
    return claims


def claims_summary(verified: "Verified") -> Iterator[str]:
    """Yield lines: claims per status, the number of artifacts, and what was not verified."""
    counts = ", ".join(
        f"{count} {status.replace('_', ' ')}" for status, count in verified.counts.items() if count
    )
    steps = [node for node in verified.lineage if node.artifact]
    files = sum(len(node.artifact.record.files) for node in steps if node.artifact)
    files -= sum(map(len, verified.left_out.values()))
    yield f"{len(verified.claims)} claims: {counts}."
    if steps:
        yield f"{files} files of {len(steps)} artifacts were hashed again, their receipts read."
    if verified.not_looked_at:
        yield f"Raw folders that are not here, not looked at: {', '.join(verified.not_looked_at)}."
    if left_out := sum(map(len, verified.left_out.values())):
        yield f"{left_out} files are not in it, and known by their hashes (--json names them)."
