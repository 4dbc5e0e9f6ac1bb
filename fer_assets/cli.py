"""The ``fer`` command: everything it does is also available in Dagster's UI and CLI.

Each command is a module of ``fer_assets.commands``. Commands import their dependencies inside the
function, so that ``fer --help`` starts at once.
"""

import io
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands import claims, demo, report
from fer_assets.commands.adopt import adopt
from fer_assets.commands.bench import bench
from fer_assets.commands.card import card
from fer_assets.commands.common import Commands
from fer_assets.commands.convert import convert
from fer_assets.commands.digest import digest
from fer_assets.commands.doctor import doctor
from fer_assets.commands.evidence import evidence
from fer_assets.commands.export_lineage import export_lineage
from fer_assets.commands.materialize import materialize
from fer_assets.commands.migrate import migrate
from fer_assets.commands.pack import pack
from fer_assets.commands.purge import purge
from fer_assets.commands.trace import trace
from fer_assets.commands.ui import ui
from fer_assets.commands.validate import validate
from fer_ml.base.errors import FerError
from fer_ml.base.files import readable_os_errors

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"fer-platform {version('fer-platform')}")
        raise typer.Exit


@app.callback()
def fer(
    asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version, and exit"
        ),
    ] = False,
) -> None:
    """Train facial-expression models whose numbers can be traced to the rows behind them."""


# In the order of fer --help.
for command in (
    *(
        materialize,
        ui,
        validate,
        digest,
        trace,
        evidence,
        pack,
        adopt,
        export_lineage,
        convert,
        purge,
    ),
    *(bench, doctor, card, migrate),
):
    app.command()(command)
app.add_typer(demo.app, name="demo")
app.add_typer(report.app, name="report")
app.add_typer(claims.app, name="claims")


def main() -> None:
    """Run the command line; a fault that the user can fix ends in one message and exit code 1."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        # A console or a pipe of Windows may not have every character: none stops a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with readable_os_errors(Path("FER_HOME")):
            try:
                app()
            except OSError as error:
                _require_output(error)
                raise
    except FerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _require_output(error: OSError) -> None:
    """Raise ``FerError`` if standard output cannot be written; that error names no file."""
    if error.filename is not None:
        return
    try:
        print(flush=True)
    except OSError as refused:
        raise FerError(
            f"the output cannot be written: {str(refused.strerror).lower()}",
            code="output-not-written",
            where="standard output",
            fix="send it to a terminal, or to a file on a disk with free space",
        ) from error


def _open_streams() -> None:
    """Open the null device for each standard stream that the caller closed (``>&-``).

    Otherwise the next opened file would get its descriptor, and with it the printed text.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # The processes that it starts have it too.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
