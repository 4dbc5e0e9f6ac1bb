"""``fer convert``: take a network from elsewhere into this platform's formats."""

from pathlib import Path
from typing import Annotated

import typer

from fer_assets.commands.common import console
from fer_ml.base.errors import FerError


def convert(
    old: Annotated[Path, typer.Argument(help="Checkpoint of the first pipeline, or .tflite")],
    new: Annotated[Path, typer.Argument(help="File to write; of a .tflite: folder of the bundle")],
    architecture: Annotated[
        str | None, typer.Option(help="Architecture by its name in timm, such as resnet18")
    ] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="The checkpoint has an ArcFace head")
    ] = False,
    size: Annotated[int, typer.Option(help="Side of the network's input in px")] = 224,
    clahe_clip: Annotated[
        float, typer.Option(help="CLAHE clip limit of its training; 0: no CLAHE")
    ] = 2.0,
    classes: Annotated[
        str | None,
        typer.Option(help="Of a .tflite: the seven classes in the order of its outputs, by commas"),
    ] = None,
    mean: Annotated[
        float, typer.Option(help="Of a .tflite: it is given (pixel - mean) / std, pixel in 0 to 1")
    ] = 0.5,
    std: Annotated[float, typer.Option(help="Of a .tflite: see --mean")] = 0.5,
) -> None:
    """Convert a checkpoint of the first pipeline to this platform's, or a .tflite to a bundle.

    No code in the file is run.

    Example: fer convert best.pt converted.pt --architecture resnet18 --teacher
    """
    if new.exists():
        raise FerError(
            "the output exists already", code="output-exists", where=new, fix="name a new file"
        )
    if old.suffix == ".tflite":
        from fer_ml.bundles.tflite import convert_tflite

        convert_tflite(old, new, _stated(classes, "classes").split(","), mean, std)
    else:
        from fer_ml.training.convert import convert_apart

        options = ["--architecture", _stated(architecture, "architecture"), "--size", str(size)]
        options += ["--clahe-clip", str(clahe_clip), *(["--teacher"] if teacher else [])]
        convert_apart(old, new, *options)
    console.print(f"written: {new}")


def _stated(value: str | None, option: str) -> str:
    if value is None:
        raise FerError(
            f"--{option} is missing: the file does not say it",
            code="missing-option",
            where="fer convert",
            fix=f"add --{option}",
        )
    return value
