"""``fer purge``: remove a photo, a photo's group, a source or a recorded session."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import JsonOption, console, styled, table
from fer_ml.base.errors import FerError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from fer_assets.purging import Plan


def purge(
    photo: Annotated[
        str | None,
        typer.Option(help="One photo: its hash, a sample_id, an image_path, or an image file"),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="The same, plus all photos of its group: near-duplicates in any source"),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of a source, removed as a whole")] = None,
    session: Annotated[
        Path | None,
        typer.Option(help="Folder of a recorded session; photos taken from it by a buffer go too"),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Carry out the purge; without it, only show what would be removed"
        ),
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Reason, kept in the log; do not name a person")
    ] = "consent withdrawn",
    as_json: JsonOption = False,
) -> None:
    """Remove a photo, its group, a source or a session from every profile; list what depends on it.

    Example: fer purge --group 3f1c9a0be2d45c77

    Example: fer purge --source my_faces --reason "licence ended" --yes
    """
    from fer_assets import purging
    from fer_ml.base.settings import settings

    named = {"photo": photo, "group": group, "source": source, "session": session}
    chosen = {kind: value for kind, value in named.items() if value is not None}
    if len(chosen) != 1:
        raise FerError(
            f"exactly one thing to purge must be named, not {len(chosen)}",
            code="options-conflict",
            allowed="one of " + _options(named),
        )
    ((kind, value),) = chosen.items()
    plan = purging.plan(settings(), kind, str(value))
    if yes:
        purging.carry_out(settings(), plan, reason)
    if as_json:
        print(json.dumps(plan.to_json(carried_out=yes), indent=2))
        return
    for part in _parts(plan, carried_out=yes):
        console.print(part, soft_wrap=True)


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _parts(plan: "Plan", *, carried_out: bool) -> "Iterator[Table | Text | str]":
    """Yield sections: what is removed, what the user must remove, and what depends on it."""
    profiles = table("profile")
    for name in ("faces", "images of the pool", "sheets, pages, thumbs", "rest on it"):
        profiles.add_column(name, justify="right")
    for part in plan.holdings:
        sheets = sum(len(names) for names in part.faces.values())
        figures = (part.samples, len(part.pool), sheets, len({a.key for a in part.resting}))
        profiles.add_row(part.store.profile, *map(str, figures))
    yield profiles
    done = "removed" if carried_out else "would be removed"
    caches = sum(len(part.caches) for part in plan.holdings)
    recorded = "".join(f", session {folder.name}" for folder in plan.wanted.folders)
    yield f"{len(plan.files) - caches} files and {caches} caches {done}{recorded}."
    if plan.resting:
        yield f"Rest on it, and are stale then: {', '.join(plan.resting)}."
    for profile, claims in plan.claims.items():
        if claims:
            yield f"Claims of {profile} on it: {', '.join(claims)}."
    for path in plan.raw:
        yield styled(("still in the raw folder", "yellow"), f" {path}")
    if plan.raw:
        yield "Remove these yourself. They are kept out of every manifest made from now on."
    if carried_out:
        yield "Make what is stale again: fer materialize. What was done stands in purged.json."
    else:
        yield styled(("Nothing was changed.", "bold"), " To carry it out, add --yes.")
