"""``fer ui``: serve Dagster's web UI on this machine."""

import os
import secrets
from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline
from fer_assets.stopping import Stopping


def ui(
    profile: ProfileOption = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any free port")] = 3000,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Show everything, but start nothing; for guests"),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name under which a proxy serves it, such as fer.example.org; repeatable"
        ),
    ] = None,
) -> None:
    """Open Dagster's web UI on this machine, for the given profile.

    It listens on 127.0.0.1 only, and the printed link grants access; docs/operate.md says how to
    give access to others. First it ends runs that are still marked as started although their
    process was killed or the machine restarted.

    Example: fer ui --profile sample --port 3000
    """
    from fer_ml.base.ports import open_port
    from fer_ml.base.settings import require_whole_paths

    with Stopping() as stopping, open_port(port) as listener:
        from fer_assets.storage import dagster_home, dagster_instance

        require_whole_paths()
        pipeline = open_pipeline(profile)
        dagster_home()
        if not read_only:
            from fer_assets.abandoned import fail_abandoned

            with dagster_instance() as instance:
                pipeline.store.sweep()
                fail_abandoned(instance)
        from fer_assets.serving import serve

        token = secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        console.print("Dagster is loading the lineage; the links follow.")
        # Dagster's processes start here: inside the project, which they look for, and not beside
        # its .env, which could point them elsewhere.
        os.chdir(pipeline.settings.project / "dagster_home")
        serve(
            pipeline,
            listener,
            token=token,
            names=set(name or ()),
            read_only=read_only,
            on_ready=lambda: _print_links(pipeline.profile.name, address, token),
        )
    if stopping.signal is not None:
        raise typer.Exit(128 + stopping.signal)


def _print_links(profile: str, address: str, token: str) -> None:
    """Print the links of the pages, once they can be opened."""
    from fer_assets.pages import PAGES, VIEWS, view_path

    for line in (
        f"Profile {profile}: {address}{PAGES}?token={token}",
        "Open that link first; Ctrl-C ends it. Then there are these pages:",
        f"  Dagster: {address}/",
        *(f"  {view}: {address}{view_path(*shown)}" for view, shown in VIEWS.items()),
        f"  evidence of claims: {address}{PAGES}evidence/",
    ):
        console.print(line, soft_wrap=True)
