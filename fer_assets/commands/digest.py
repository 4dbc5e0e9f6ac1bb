"""``fer digest``: what is red, stale or unverified now."""

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

if TYPE_CHECKING:
    from rich.table import Table

    from fer_assets.digest import Digest

STATE_COLOURS = {"red": "red", "stale": "yellow", "unverified": "yellow", "warns": "dim"}


def digest(
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one page, which needs no network")
    ] = None,
) -> None:
    """Say what is red, stale or unverified now, and what to do about it. Exit code 2 if any is red.

    Example: fer digest --html digest.html
    """
    from fer_assets.digest import digest_of

    found = digest_of(open_pipeline(profile))
    if html is not None:
        from fer_ml.base.files import write_atomic

        write_atomic(html, found.page().encode())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    elif html is not None:
        console.print(f"written: {html}")
    else:
        for part in _parts(found):
            console.print(part)
    if found.counts["red"]:
        raise typer.Exit(2)


def _parts(digest: "Digest") -> "Iterator[Table | str]":
    """What is not green, the worst first, and how much was looked at."""
    if digest.entries:
        entries = table()
        entries.add_column("", no_wrap=True)
        for name in ("what", "found", "to do"):
            entries.add_column(name, overflow="fold")
        entries.add_column("rest on it", justify="right", no_wrap=True)
        for entry in digest.entries:
            entries.add_row(
                styled((entry.state, STATE_COLOURS[entry.state])),
                entry.name,
                entry.what,
                entry.fix,
                str(entry.resting or ""),
            )
        yield entries
    yield digest.headline
    yield (
        f"{digest.made} artifacts and {digest.claims} claims looked at; {digest.not_made} not made."
    )
