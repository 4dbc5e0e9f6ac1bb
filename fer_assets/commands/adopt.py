"""``fer adopt``: take a result that was made elsewhere into the lineage."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_assets.commands.common import ProfileOption, console, open_pipeline, styled
from fer_ml.base.errors import FerError

if TYPE_CHECKING:
    from rich.text import Text

    from fer_ml.storage.artifact import Artifact

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of a finished packed training; or, of the first pipeline, a run directory, "
        "an evaluation, a soft-label export, a manifest csv or a validation JSON",
    ),
]


def adopt(
    path: FolderArgument,
    name: Annotated[
        str | None,
        typer.Option(
            "--as", help="Name of the partition of `adopted`; default: that of the result"
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights of a run directory, converted by fer convert"),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Image folder of a manifest; repeatable"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the result adopted under this name")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Add a result that was made elsewhere to the lineage, without training again.

    A packed training becomes the asset that it was packed for; its inputs and recipe must be those
    that are current here. A result of the first pipeline becomes a partition of `adopted`, with a
    list of contradictions between its files and of facts that could not be verified.

    Example: fer adopt runs/student_ce

    Example: fer adopt old/dkd_20251223 --as dkd_20251223 --checkpoint converted.pt
    """
    from fer_assets.remote import adopt_foreign, adopt_run

    packed = (path / "job.json").is_file()
    if packed and (name or checkpoint or root or replace):
        raise FerError(
            "a run of a packed training is always adopted as the asset it was packed for",
            code="options-conflict",
            where=path,
            fix="leave out --as, --checkpoint, --root and --replace",
        )
    pipeline = open_pipeline(profile)
    from fer_assets.storage import dagster_instance

    with dagster_instance() as instance:
        artifact = (
            adopt_run(pipeline, path, instance)
            if packed
            else adopt_foreign(
                pipeline,
                path,
                instance,
                name=name,
                checkpoint=checkpoint,
                roots=root or (),
                replace=replace,
            )
        )
    _print_adopted(artifact)


def _print_adopted(artifact: "Artifact") -> None:
    from fer_assets.show import checks_text

    console.print(f"{artifact.key} is now {artifact.sha256[:12]}")
    for line in _adoption(artifact):
        console.print(line, soft_wrap=True)
    console.print(styled("Gates: ", checks_text(artifact)))


def _adoption(artifact: "Artifact") -> "Iterator[Text | str]":
    """Yield the findings about an adopted result; nothing for one that was made here."""
    from fer_ml.adoption import ADOPTION_FILE

    if ADOPTION_FILE not in artifact.record.files:
        return
    examination = artifact.read_json(ADOPTION_FILE)
    files = f"{len(examination['files'])} file{'s' * (len(examination['files']) > 1)}"
    yield f"Adopted: {examination['kind']}, {files}, came as {examination['origin']}."
    if examination["missing"]:
        yield styled(("missing", "yellow"), f" {', '.join(examination['missing'])}")
    if examination["left_out"]:
        yield styled((f"left out  {', '.join(examination['left_out'])}", "dim"))
    failed = [check for check in examination["checks"] if not check["holds"]]
    yield f"{len(examination['checks']) - len(failed)} of {len(examination['checks'])} checks hold."
    for check in failed:
        yield styled(("against", "red"), f" {check['check']}: {check['detail']}")
    for what in examination["unverified"]:
        yield styled(("unknown", "yellow"), f" {what}")
