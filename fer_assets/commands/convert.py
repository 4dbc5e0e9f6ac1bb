"""``fer convert``: convert a checkpoint of the first pipeline."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import console
from fer_ml.base.errors import FerError


def convert(
    old: Annotated[Path, typer.Argument(help="Checkpoint of the first pipeline")],
    new: Annotated[Path, typer.Argument(help="File to write")],
    architecture: Annotated[
        str, typer.Option(help="Architecture by its name in timm, such as resnet18")
    ],
    teacher: Annotated[
        bool, typer.Option("--teacher", help="The checkpoint has an ArcFace head")
    ] = False,
    size: Annotated[int, typer.Option(help="Side of the network's input in px")] = 224,
    clahe_clip: Annotated[
        float, typer.Option(help="CLAHE clip limit of its training; 0: no CLAHE")
    ] = 2.0,
) -> None:
    """Convert a checkpoint of the first pipeline to this platform's format; no code in it is run.

    Example: fer convert best.pt converted.pt --architecture resnet18 --teacher
    """
    from fer_ml.training.convert import convert_apart

    if new.exists():
        raise FerError(
            "the output exists already", code="output-exists", where=new, fix="name a new file"
        )
    options = ["--architecture", architecture, "--size", str(size)]
    options += ["--clahe-clip", str(clahe_clip), *(["--teacher"] if teacher else [])]
    convert_apart(old, new, *options)
    console.print(f"written: {new}")
