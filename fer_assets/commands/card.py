"""``fer card``: print the model card of a student for readers."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import JsonOption, ProfileOption, console
from fer_assets.commands.student import bundle_folder
from fer_ml.base.visible import visible_lines


def card(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle folder; default: the student that ships")
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a student's model card, after verifying its bytes and the chain of artifacts behind it.

    Example: fer card

    Example: fer card -p sample
    """
    from fer_ml.bundles.bundle import load_bundle
    from fer_ml.bundles.model_card import as_markdown
    from fer_ml.bundles.provenance import CHAIN_FILE, verify_chain

    student = load_bundle(bundle_folder(bundle, profile))
    # A bundle in its artifact root has none: fer trace verifies it there.
    chain = verify_chain(student) if (student.folder / CHAIN_FILE).is_file() else None
    if as_json:
        print(student.card.model_dump_json(indent=2))
        return
    from rich.markdown import Markdown

    console.print(Markdown(visible_lines(as_markdown(student.card, chain))))
    if chain is not None:
        console.print(
            f"Verified: these bytes are {chain.top.label} {chain.top.sha256[:12]}, and the hashes "
            f"of {len(chain.links)} artifacts lead down to {len(chain.raw)} raw folders."
        )
