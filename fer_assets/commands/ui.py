"""``fer ui``: Dagster's web UI on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline
from fer_ml.base.ports import open_port


def ui(
    profile: ProfileOption = None,
    port: Annotated[int, typer.Option(help="Port on this machine")] = 3000,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="For guests: everything is shown, nothing can be started"),
    ] = False,
) -> None:
    """Open Dagster's web UI on this machine, for the given profile.

    It listens on 127.0.0.1 alone; docs/security.md says how to let others in. Runs that a killed
    process or a restart of the machine left started are ended first.

    Example: fer ui --profile sample --port 3000
    """
    # Dagster itself would go on without a page, and start its daemon beside the one that is there.
    open_port(port).close()
    pipeline = open_pipeline(profile)
    home = Path(os.environ["DAGSTER_HOME"])
    if not read_only:
        from fer_assets.abandoned import fail_abandoned
        from fer_assets.storage import dagster_instance

        with dagster_instance() as instance:
            pipeline.store.sweep()
            fail_abandoned(instance)
    from fer_assets.pages import VIEWS, view_path

    address = f"http://127.0.0.1:{port}"
    console.print(f"Dagster for profile {pipeline.profile.name}: {address}")
    for name, (page, selection) in VIEWS.items():
        console.print(f"  {name}: {address}{view_path(page, selection)}", soft_wrap=True)
    # Started inside DAGSTER_HOME, so that the project's .env cannot point it elsewhere.
    os.chdir(home)
    workspace = str(pipeline.settings.project / "workspace.yaml")
    # Schedules and sensors belong to the UI that can start something.
    server = ["dagster_webserver", "--read-only"] if read_only else ["dagster", "dev"]
    command = ["-m", *server, "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
    os.environ["FER_PROJECT"] = str(pipeline.settings.project)
    if hasattr(os, "fork"):
        os.execv(sys.executable, [sys.executable, *command])
    # Windows has no exec. This process waits, and Ctrl-C is the server's, which gets it too.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    raise typer.Exit(subprocess.call([sys.executable, *command]))
