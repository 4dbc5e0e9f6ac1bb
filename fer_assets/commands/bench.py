"""``fer bench``: measure every performance figure that this project claims."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import console
from fer_ml.base.errors import FerError


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of benchmark scripts, without .py; default: all"),
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Folder tree of real faces as PNG; default: synthetic faces")
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(help="Folder of clips with a face (*.gif), for the demo's figures"),
    ] = None,
    docs: Annotated[Path | None, typer.Option(help="Also write the figures into this page")] = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="Short run that only tests whether the scripts work")
    ] = False,
) -> None:
    """Measure every performance figure that this project claims, on an idle machine.

    Example: fer bench --faces data/ferplus --clips clips --docs docs/performance.md
    """
    from fer_assets import bench as suite
    from fer_ml.base.settings import settings

    current_settings = settings()
    places = _places({"faces": faces, "clips": clips})
    if trial and docs is not None:
        raise FerError(
            "--trial and --docs exclude each other: a trial measures nothing",
            code="options-conflict",
            fix="leave one of them out",
        )
    measured = suite.measure(
        current_settings.project,
        suite.scripts(names or []),
        places,
        trial=trial,
        tell=lambda line: console.print(line, markup=False, highlight=False),
    )
    failed = [run.command for run in measured.runs if run.failed]
    if trial and not failed:
        print("The scripts work; nothing was kept.")
    if not trial:
        artifact = suite.keep(measured, current_settings.home)
        print(f"{artifact.file(suite.PAGE)}  {artifact.sha256[:12]}")
        if docs is not None:
            suite.publish(artifact, docs)
    if failed:
        raise FerError(
            f"failed: {', '.join(failed)}",
            code="benchmark-failed",
            fix="run such a script alone to find the cause",
        )


def _places(given: dict[str, Path | None]) -> dict[str, Path]:
    for name, place in given.items():
        if place is not None and not place.exists():
            raise FerError(
                f"--{name} names a path that does not exist",
                code="missing-file",
                where=place,
                fix="correct the path",
            )
    return {name: place.resolve() for name, place in given.items() if place is not None}
