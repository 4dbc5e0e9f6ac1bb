"""``fer migrate``: bring files of an earlier version up to date."""

from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline


def migrate(
    profile: ProfileOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing")
    ] = False,
) -> None:
    """Migrate fer.toml, claims files and Dagster's database from an earlier version.

    Files in the artifact root are never changed. They are read as they are; those that will be made
    again are listed. The old version of each migrated file is kept beside the new one.

    Example: fer migrate --dry-run
    """
    from fer_assets.migrating import changes, made_again
    from fer_ml.base.settings import settings

    current_settings = settings()
    pending_changes = list(changes(current_settings))
    for change in pending_changes:
        word = "would change" if dry_run else "change"
        console.print(f"{word} {change.where}: {change.what}", soft_wrap=True)
        if not dry_run:
            change.carry_out()
    if not pending_changes:
        console.print("Nothing to migrate.")
    settings.cache_clear()
    # A profile that this version refuses must not keep the rest from being brought along.
    for label, why in made_again(open_pipeline(profile)):
        console.print(f"fer materialize makes again: {label} ({why})", soft_wrap=True)
