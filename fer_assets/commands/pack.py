"""``fer pack``: write a training for machines with only torch, timm, numpy and pydantic."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline, show_progress
from fer_ml.base.errors import FerError


def pack(
    select: Annotated[
        str, typer.Argument(help="A teacher, students or an experiment, comma-separated")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to create")],
    profile: ProfileOption = None,
) -> None:
    """Pack a training into a folder that needs only torch, timm, numpy and pydantic.

    Consecutive students may be packed together; each starts from the best checkpoint of the one
    before it.

    Example: fer pack "student_ce,student_kd,student_dkd" packed
    """
    from fer_assets.remote import pack_targets
    from fer_assets.selection import require_inputs

    if folder.exists() and any(folder.iterdir()):
        raise FerError(
            "the folder is not empty",
            code="folder-not-empty",
            where=folder,
            fix="name a new folder",
        )
    pipeline = open_pipeline(profile)
    chosen = pipeline.named(select)
    require_inputs(pipeline, chosen, force=True)
    show_progress()
    pack_targets(pipeline, [t for t in pipeline.targets() if chosen(t)], folder)
    console.print(f"Packed into {folder}. Copy it anywhere, with the package fer_ml, and run")
    console.print(f"  python -m fer_ml.packed {folder.name} --out runs", soft_wrap=True)
    console.print("then take each folder below runs back, in this order, with: fer adopt FOLDER")
