"""``fer digest``: list what is failed, stale or unverified now."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import (
    JsonOption,
    ProfileOption,
    console,
    open_pipeline,
    styled,
)

STATE_COLOURS = {"red": "red", "stale": "yellow", "unverified": "yellow", "warns": "dim"}


def digest(
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write one HTML page, which needs no network")
    ] = None,
) -> None:
    """List what is red, stale or unverified, and what to do. Exit code 2 if anything is red.

    Example: fer digest --html digest.html
    """
    from fer_assets.digest import digest_of

    overview = digest_of(open_pipeline(profile))
    if html is not None:
        from fer_ml.base.files import write_atomic

        write_atomic(html, overview.page().encode())
    if as_json:
        print(json.dumps(overview.to_json(), indent=2))
    elif html is not None:
        console.print(f"written: {html}")
    else:
        # Soft-wrapped: a command can be copied, however narrow the terminal is.
        for line in overview.text().splitlines():
            state = line.partition(" ")[0]
            console.print(styled((line, STATE_COLOURS.get(state, ""))), soft_wrap=True)
        console.print(overview.headline)
    if overview.counts["red"]:
        raise typer.Exit(2)
