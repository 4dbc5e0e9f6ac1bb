"""The ``fer`` command. It only saves typing: all of it is also there in Dagster's UI and CLI.

What a command needs is imported inside it, so that ``fer --help`` is there at once.
"""

import gc
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_assets.stopping import Stopping
from fer_ml.base.errors import FerError
from fer_ml.base.files import readable_os_errors

if TYPE_CHECKING:
    from rich.console import Console

    from fer_assets.lineage import Pipeline
    from fer_assets.plan import Work

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train facial-expression models whose numbers can be traced to the rows behind them.",
)
report_app = typer.Typer(no_args_is_help=True, help="Checks on Markdown reports.")
app.add_typer(report_app, name="report")


class _Printer:
    """rich's console, which is imported when something is printed."""

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console

        # A pipe has no width of its own; tables in a log file are not squeezed into 80 columns.
        return Console(width=None if sys.stdout.isatty() else 140)

    def print(self, *parts: object, **options: Any) -> None:
        """As rich prints."""
        self._console.print(*parts, **options)


console = _Printer()

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="Recipe to run: sample, ferplus, ferplus_ensemble, paper or own"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts")]


def main() -> None:
    """Entry point: a fault that the user can mend ends in one message and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        # A console or a pipe of Windows may not have every character: none stops a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with readable_os_errors(Path("FER_HOME")):
            app()
    except FerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _open(profile: str | None) -> "Pipeline":
    """The pipeline of a profile, which child processes then find active too."""
    from fer_assets.lineage import Pipeline
    from fer_ml.base.settings import settings

    pipeline = Pipeline.open(profile)
    os.environ["FER_PROFILE"] = pipeline.profile.name
    settings.cache_clear()
    os.environ.setdefault("DAGSTER_HOME", str(pipeline.settings.project / "dagster_home"))
    return pipeline


@app.command()
def materialize(
    profile: ProfileOption = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Assets, partitions or groups, by commas, or Dagster's selection syntax: "
            "+NAME makes what NAME needs too; default: all"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make also what is up to date")] = False,
) -> None:
    """Make whatever is missing or stale, in order, with all gates.

    What fails stops what rests on it and nothing else. After Ctrl-C the same command goes on.

    Example: fer materialize --profile sample --select "manifests,teacher[RN18]"

    Example: fer materialize --select "+teacher[B3]"
    """
    with Stopping() as stopping:
        _materialize(profile, select, force, stopping)
    if stopping.signal is not None:
        command = shlex.join(["fer", *sys.argv[1:]])
        print(
            "stopped: what was finished stays, and a training goes on from its last snapshot\n"
            f"  go on: {command}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + stopping.signal)


def _materialize(profile: str | None, select: str | None, force: bool, stopping: Stopping) -> None:
    started = time.monotonic()
    # What is imported stays; to look for garbage in it would take a tenth of a run without work.
    gc.disable()
    from fer_ml.base.processor import check_processor

    check_processor()
    pipeline = _open(profile)
    selection = None if select is None else pipeline.named(select)
    if selection is not None:
        from fer_assets.selection import require_inputs

        require_inputs(pipeline, selection, force=force)
    from fer_assets.plan import StageFailed, materialize
    from fer_assets.storage import dagster_instance

    _show_progress()

    def on_work(work: "Work") -> None:
        gc.enable()
        stopping.obey()
        for target, reason in work.make.items():
            console.print(f"[bold]make[/bold]  {_escape(target.label)} [dim]({_escape(reason)})[/]")
        for target in work.judge:
            console.print(f"[bold]judge[/bold] {_escape(target.label)} [dim](no receipt yet)[/]")

    failed = None
    with dagster_instance() as instance:
        try:
            done = materialize(pipeline, instance, select=selection, force=force, on_work=on_work)
        except StageFailed as error:
            failed, done = error, error.done
        except KeyboardInterrupt:
            pipeline.store.sweep_own()
            raise
    total = sum(map(selection or pipeline.standard, pipeline.targets()))
    seconds = time.monotonic() - started
    if not done and failed is None:
        console.print(f"All {total} targets are up to date; nothing to do ({seconds:.1f} s).")
        return
    from fer_assets import show

    if done:
        console.print(show.made_table(done))
    for line in show.warnings(done):
        console.print(line)
    console.print(f"{len(done)} of {total} targets made or judged in {seconds:.0f} s.")
    if failed is not None:
        left = (*failed.failures.faults, *failed.failures.lost)
        # What was made is not to be forced again.
        again = ",".join(target.label for target in left) if force else select
        command = pipeline.command(select=again, force=force)
        print(show.failures(failed.failures, command), file=sys.stderr)
        raise typer.Exit(1)
    for part in show.closing(pipeline):
        console.print(part)
    console.print("Look at it: fer ui" + ("" if profile is None else f" --profile {profile}"))


class _TqdmHandler(logging.Handler):
    """Log lines that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # A fault's own text comes at the end; where it arose stands in the log file.
        tqdm.write(f"      {record.getMessage()}", file=sys.stderr)


def _show_progress() -> None:
    from fer_ml.base import logs

    logs.start(_TqdmHandler())


def _escape(text: str) -> str:
    """Square brackets are markup to rich: teacher[RN18] must stay readable."""
    return text.replace("[", r"\[")


@app.command()
def ui(
    profile: ProfileOption = None,
    port: Annotated[int, typer.Option(help="Port on this machine")] = 3000,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="For guests: everything is shown, nothing can be started"),
    ] = False,
) -> None:
    """Open Dagster's web UI on this machine, for the given profile.

    It listens on 127.0.0.1 alone; docs/security.md says how to let others in. Runs that a killed
    process or a restart of the machine left started are ended first.

    Example: fer ui --profile sample --port 3000
    """
    pipeline = _open(profile)
    home = Path(os.environ["DAGSTER_HOME"])
    if not read_only:
        from fer_assets.plan import bury
        from fer_assets.storage import dagster_instance

        with dagster_instance() as instance:
            pipeline.store.sweep()
            bury(instance)
    from fer_assets.pages import VIEWS, view_path

    address = f"http://127.0.0.1:{port}"
    console.print(f"Dagster for profile {pipeline.profile.name}: {address}")
    for name, (page, selection) in VIEWS.items():
        console.print(f"  {name}: {address}{view_path(page, selection)}", soft_wrap=True)
    # Started inside DAGSTER_HOME, so that the project's .env cannot point it elsewhere.
    os.chdir(home)
    workspace = str(pipeline.settings.project / "workspace.yaml")
    # Schedules and sensors belong to the UI that can start something.
    server = ["dagster_webserver", "--read-only"] if read_only else ["dagster", "dev"]
    command = ["-m", *server, "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
    os.environ["FER_PROJECT"] = str(pipeline.settings.project)
    if hasattr(os, "fork"):
        os.execv(sys.executable, [sys.executable, *command])
    # Windows has no exec. This process waits, and Ctrl-C is the server's, which gets it too.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    raise typer.Exit(subprocess.call([sys.executable, *command]))


@app.command()
def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV")],
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that the images lie below; may be given several times"),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Decode also what has not changed since the last time")
    ] = False,
    findings: Annotated[
        Path | None, typer.Option(help="Write every finding to this CSV, not only examples")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge any manifest CSV: every row, every image. Exit code 2 when a blocking gate fails.

    Paths may be relative to a root or to the project, or absolute ones of another machine: which
    base was found for which paths is told.

    Example: fer validate my_manifest.csv --root my_images
    """
    from fer_ml.base.files import private_folder
    from fer_ml.base.settings import settings
    from fer_ml.validation.report import validate_file

    private_folder(settings().home / ".validate")  # It keeps thumbs of faces.
    found = validate_file(
        manifest,
        root or [manifest.resolve().parent],
        settings().home / ".validate",
        since=time.time() if full else 0.0,
    )
    if findings is not None:
        import polars as pl

        from fer_ml.base.files import write_atomic
        from fer_ml.validation.rules import FINDINGS_SCHEMA

        table = pl.DataFrame(found["findings"], schema=FINDINGS_SCHEMA)
        write_atomic(findings, table.write_csv().encode())
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        from fer_assets import show

        for part in show.validation(found):
            console.print(part)
    if not found["passed"]:
        raise typer.Exit(2)


@app.command()
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
    from fer_assets import show
    from fer_assets.digest import digest_of

    found = digest_of(_open(profile))
    if html is not None:
        from fer_ml.base.files import write_atomic

        write_atomic(html, found.page().encode())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    elif html is not None:
        console.print(f"written: {html}")
    else:
        for part in show.digest_table(found):
            console.print(part)
    if found.counts["red"]:
        raise typer.Exit(2)


@app.command()
def trace(
    what: Annotated[
        str, typer.Argument(help="A claim id, an asset, a file or the first 8 digits of a hash")
    ],
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart, for Markdown")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one page with the graph, which needs no network")
    ] = None,
) -> None:
    """Follow a claim, an asset, a file or a hash back to the raw folders. Exit code 2 if not green.

    Example: fer trace manifest-rows --html trace.html
    """
    pipeline = _open(profile)
    from fer_assets import show
    from fer_ml.claims import graph

    found = show.trace_of(pipeline, what)
    if html is not None:
        from fer_ml.base.files import write_atomic

        write_atomic(html, graph.page(found, f"Trace of {what}").encode())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    elif as_mermaid:
        print(graph.mermaid(found), end="")
    elif html is not None:
        console.print(f"written: {html}")
    else:
        console.print(show.trace_tree(found))
    if not found.sound:
        raise typer.Exit(2)


claims_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Hold a report's claims against artifacts."
)
app.add_typer(claims_app, name="claims")


@claims_app.command()
def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Artifact folder of one profile; default: that of --profile"),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(help="Claims file; default: the folder's own copy, or the profile's file"),
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every byte that the claims rest on, read the receipts, and judge each claim.

    Exit code 2 unless all are grounded. It needs an artifact folder and a claims file: no Dagster,
    no project, no raw data. A folder that was copied here keeps its claims in report_claims.

    Example: fer claims verify outputs/sample
    """
    from fer_assets import show
    from fer_ml.claims.verify import verify_folder, verify_store

    if folder is None:
        pipeline = _open(profile)
        found = verify_store(
            pipeline.store, claims or pipeline.claims_file(), pipeline.fingerprints()
        )
    else:
        if not folder.is_dir():
            raise FerError("no such folder", where=folder, fix="name a profile's artifact folder")
        found = verify_folder(folder, claims)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        console.print(show.claims_table(found))
        for line in show.claims_summary(found):
            console.print(_escape(line), soft_wrap=True)
    if not found.green:
        raise typer.Exit(2)


@claims_app.command("schema")
def claims_schema() -> None:
    """Print the JSON schema of a claims file, for editors.

    Example: fer claims schema > claims/schema.json
    """
    from fer_ml.claims.model import schema

    print(json.dumps(schema(), indent=2))


@report_app.command()
def check(
    report: Annotated[Path, typer.Argument(help="Any report in Markdown")],
    as_json: JsonOption = False,
) -> None:
    """Hold a report's citations against its references, and look for the reproducibility checklist.

    Exit code 2 when a citation is not listed, or listed twice.

    Example: fer report check docs/results.md
    """
    from fer_ml.report.checklist import check_list
    from fer_ml.report.citations import check_citations
    from fer_ml.report.markdown import read_text

    text = read_text(report)
    citations, items = check_citations(text), check_list(text)
    if as_json:
        found = {
            "citations": citations.to_json(),
            "checklist": [item.to_json() for item in items],
        }
        print(json.dumps(found, indent=2))
    else:
        from fer_assets import show

        for part in show.report_checks(citations, items):
            console.print(part)
    if not citations.sound:
        raise typer.Exit(2)


@app.command()
def pack(
    select: Annotated[str, typer.Argument(help="A teacher, students or an experiment, by commas")],
    folder: Annotated[Path, typer.Argument(help="New folder")],
    profile: ProfileOption = None,
) -> None:
    """Pack a training into a folder that trains where only torch, timm and numpy are installed.

    Students that follow each other may be packed together; each starts from the best of the one
    before it.

    Example: fer pack "student_ce,student_kd,student_dkd" packed
    """
    from fer_assets.remote import pack_targets
    from fer_assets.selection import require_inputs

    if folder.exists() and any(folder.iterdir()):
        raise FerError("the folder is not empty", where=folder, fix="name a new one")
    pipeline = _open(profile)
    chosen = pipeline.named(select)
    require_inputs(pipeline, chosen, force=True)
    _show_progress()
    pack_targets(pipeline, [t for t in pipeline.targets() if chosen(t)], folder)
    console.print(f"Packed into {folder}. Copy it anywhere, with the package fer_ml, and run")
    console.print(f"  python -m fer_ml.packed {folder.name} --out runs", soft_wrap=True)
    console.print("then take each folder below runs back, in this order, with: fer adopt FOLDER")


@app.command()
def adopt(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A run of a packed training, or of the first pipeline: a run folder, an "
            "evaluation, a soft-label export, a manifest csv, a validation JSON",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="Partition of `adopted`; default: its own name")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Of a run folder: its weights, converted by fer convert"),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Of a manifest: folder of its images; may be given several times"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of what was adopted by this name")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Take a result that was made elsewhere into the lineage, without training again.

    A run of a packed training becomes the asset that it was packed for; it must have been made from
    the inputs and the recipe that are current here. Anything of the first pipeline becomes a
    partition of `adopted`, with what its files contradict and what could not be verified.

    Example: fer adopt runs/student_ce

    Example: fer adopt old/dkd_20251223 --as dkd_20251223 --checkpoint converted.pt
    """
    from fer_assets.remote import adopt_foreign, adopt_run

    packed = (path / "job.json").is_file()
    if packed and (name or checkpoint or root or replace):
        raise FerError(
            "a run of a packed training becomes the asset that it was packed for",
            where=path,
            fix="leave out --as, --checkpoint, --root and --replace",
        )
    pipeline = _open(profile)
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
    from fer_assets import show

    console.print(f"{_escape(artifact.key)} is now {artifact.sha256[:12]}")
    for line in show.adoption(artifact):
        console.print(line, soft_wrap=True)
    console.print(f"Gates: {show.checks_text(artifact)}")


@app.command()
def export_lineage(
    out: Annotated[Path, typer.Option(help="New file; for ro-crate a new folder")],
    format: Annotated[str, typer.Option(help="openlineage, prov or ro-crate")] = "openlineage",
    select: Annotated[
        str | None,
        typer.Option(help="Assets, partitions or groups, by commas; default: all that were made"),
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Write the lineage for other tools: artifacts by hash, their making, gates, raw fingerprints.

    Every byte is verified on the way; what is stale or damaged says so in the file. It holds no
    path of this machine.

    Example: fer export-lineage --format prov --out lineage.json --select student_bundle
    """
    from fer_ml.exchange import export_lineage as write
    from fer_ml.exchange.facts import everything

    pipeline = _open(profile)
    chosen = (lambda target: True) if select is None else pipeline.named(select)
    made = [
        pipeline.store.current(target.asset, target.partition)
        for target in pipeline.targets()
        if chosen(target)
    ]
    nodes = everything(pipeline.store, [a for a in made if a is not None], pipeline.fingerprints())
    write(nodes, pipeline.profile.name, format, out)
    raw = sum(node.item.root is not None for node in nodes)
    console.print(f"{len(nodes) - raw} artifacts and {raw} raw folders in {out}")
    for node in nodes:
        if node.problem:
            console.print(f"[yellow]note[/] {_escape(node.item.key)}: {_escape(node.problem)}")


@app.command()
def convert(
    old: Annotated[Path, typer.Argument(help="Checkpoint of the first pipeline")],
    new: Annotated[Path, typer.Argument(help="File to write")],
    architecture: Annotated[str, typer.Option(help="timm's name, such as resnet18")],
    teacher: Annotated[bool, typer.Option("--teacher", help="It has the ArcFace head")] = False,
    size: Annotated[int, typer.Option(help="Side of its input in px")] = 224,
    clahe_clip: Annotated[float, typer.Option(help="0: trained without CLAHE")] = 2.0,
) -> None:
    """Turn a checkpoint of the first pipeline into this platform's. Its code is not run.

    Example: fer convert best.pt converted.pt --architecture resnet18 --teacher
    """
    from fer_ml.training.convert import convert_apart

    if new.exists():
        raise FerError("the file exists", where=new, fix="name a new one")
    options = ["--architecture", architecture, "--size", str(size)]
    options += ["--clahe-clip", str(clahe_clip), *(["--teacher"] if teacher else [])]
    convert_apart(old, new, *options)
    console.print(f"written: {new}")


@app.command()
def purge(
    photo: Annotated[
        str | None,
        typer.Option(help="One photo: hash of it or of a sample, image_path, or an image file"),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="The same, with every photo of its group: near-duplicates in any source"),
    ] = None,
    source: Annotated[str | None, typer.Option(help="A whole source")] = None,
    session: Annotated[
        Path | None,
        typer.Option(help="A recorded session's folder, and photos that a buffer took from it"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Carry it out; without it nothing is")] = False,
    reason: Annotated[
        str, typer.Option(help="For the log; name nobody in it")
    ] = "consent withdrawn",
    as_json: JsonOption = False,
) -> None:
    """Take a photo, its group, a source or a session out of every profile; say what rested on it.

    Example: fer purge --group 3f1c9a0be2d45c77

    Example: fer purge --source my_faces --reason "licence ended" --yes
    """
    from fer_assets import purging, show
    from fer_ml.base.settings import settings

    named = {"photo": photo, "group": group, "source": source, "session": session}
    chosen = {kind: value for kind, value in named.items() if value is not None}
    if len(chosen) != 1:
        raise FerError(
            f"{len(chosen)} things to purge are named", allowed="one of " + _options(named)
        )
    ((kind, value),) = chosen.items()
    plan = purging.plan(settings(), kind, str(value))
    if yes:
        purging.carry_out(settings(), plan, reason)
    if as_json:
        print(json.dumps(plan.to_json(carried_out=yes), indent=2))
        return
    for part in show.purge_plan(plan, carried_out=yes):
        console.print(part, soft_wrap=True)


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks by their script's name; default: all")
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Real faces as PNG, at any depth; default: drawn ones")
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(help="Clips with a face (*.gif), for the demo's figures")
    ] = None,
    docs: Annotated[Path | None, typer.Option(help="Write the page of figures there too")] = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="Seconds instead of minutes: do the scripts work?")
    ] = False,
) -> None:
    """Measure every performance figure that this project claims, on an idle machine.

    Example: fer bench --faces data/ferplus --clips clips --docs docs/performance.md
    """
    from fer_assets import bench as suite
    from fer_ml.base.settings import settings

    here = settings()
    given = {"faces": faces, "clips": clips, "yunet": here.yunet}
    for name, place in given.items():
        if place is not None and not place.exists():
            raise FerError(f"--{name}: there is nothing", where=place)
    places = {name: place.resolve() for name, place in given.items() if place is not None}
    if trial and docs is not None:
        raise FerError("a trial's figures say nothing: --trial and --docs exclude each other")
    measured = suite.measure(
        here.project,
        suite.scripts(names or []),
        places,
        trial=trial,
        tell=lambda line: console.print(line, markup=False, highlight=False),
    )
    if trial:
        print("The scripts work; nothing was kept.")
        return
    artifact = suite.keep(measured, here.home)
    print(f"{artifact.file(suite.PAGE)}  {artifact.sha256[:12]}")
    if docs is not None:
        suite.publish(artifact, docs)


@app.command()
def doctor(
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    fetch_detector: Annotated[
        bool,
        typer.Option("--fetch-detector", help="Download YuNet, the better face detector, first"),
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write a zip for a maintainer, without data, faces, names and secrets"),
    ] = None,
) -> None:
    """Say what this machine has, and what to do about what is missing. Exit code 1 if it blocks.

    Example: fer doctor --fetch-detector

    Example: fer doctor --bundle for_the_maintainer.zip
    """
    from fer_assets.doctor import examine, fetch_yunet
    from fer_ml.base.settings import settings

    if fetch_detector:
        print(f"YuNet is at {fetch_yunet(settings().home)}", file=sys.stderr)
        settings.cache_clear()
    pipeline = _open(profile)
    findings = examine(pipeline)
    if bundle is not None:
        from fer_assets.support import write_bundle

        names = write_bundle(pipeline, findings, bundle)
        print(f"written: {bundle}, with {', '.join(names)}", file=sys.stderr)
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        from rich.table import Table

        table = Table("", "what", "found", "to do", box=None, pad_edge=False)
        marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "blocks": "[red]blocks[/]"}
        for finding in findings:
            table.add_row(
                marks[finding.state], finding.what, _escape(finding.found), _escape(finding.fix)
            )
        console.print(table)
    if any(finding.state == "blocks" for finding in findings):
        raise typer.Exit(1)


@app.command()
def card(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle folder; default: the student that ships")
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a student's card for people, after verifying its bytes and the chain it came from.

    Example: fer card

    Example: fer card -p sample
    """
    from fer_ml.bundles.bundle import load_bundle
    from fer_ml.bundles.model_card import as_markdown
    from fer_ml.bundles.provenance import CHAIN_FILE, verify_chain

    held = load_bundle(_bundle_folder(bundle, profile, None))
    # A bundle in its artifact root has none: fer trace verifies it there.
    chain = verify_chain(held) if (held.folder / CHAIN_FILE).is_file() else None
    if as_json:
        print(held.card.model_dump_json(indent=2))
        return
    from rich.markdown import Markdown

    console.print(Markdown(as_markdown(held.card, chain)))
    if chain is not None:
        console.print(
            f"Verified: these bytes are {chain.top.label} {chain.top.sha256[:12]}, and the hashes "
            f"of {len(chain.links)} artifacts lead down to {len(chain.raw)} raw folders."
        )


@app.command()
def migrate(
    profile: ProfileOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; change nothing")
    ] = False,
) -> None:
    """Bring fer.toml, claims files and Dagster's database of an earlier version along.

    Files in the artifact root stay as they are: they are read as they are, or made again, which is
    told. Each old file is kept beside the new one.

    Example: fer migrate --dry-run
    """
    from fer_assets.migrating import changes, made_again
    from fer_ml.base.settings import settings

    here = settings()
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(here.project / "dagster_home")))
    found = list(changes(here, home))
    for change in found:
        word = "would change" if dry_run else "change"
        console.print(f"{word} {_escape(str(change.where))}: {change.what}", soft_wrap=True)
        if not dry_run:
            change.carry_out()
    if not found:
        console.print("Nothing to migrate.")
    settings.cache_clear()
    # A profile that this version refuses must not keep the rest from being brought along.
    for label, why in made_again(_open(profile)):
        console.print(f"fer materialize makes again: {_escape(label)} ({why})", soft_wrap=True)


@app.command()
def demo(
    video: Annotated[
        Path | None,
        typer.Option(help="Video, GIF, folder of images or recorded session; default: the camera"),
    ] = None,
    photo: Annotated[Path | None, typer.Option(help="One photo; prints its faces")] = None,
    camera: Annotated[int, typer.Option(help="Camera number")] = 0,
    web: Annotated[
        bool, typer.Option("--web", help="A web page with the browser's camera")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --web on 127.0.0.1; 0: a free one")] = 8765,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder; default: the student that ships")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="With -p: fp32 (default), or fp16 or int8 where small_bundles offers it"),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="auto (yunet where FER_YUNET or doctor has its file), haar, yunet")
    ] = "auto",
    detect_width: Annotated[
        int | None, typer.Option(help="Width in px at which the detector looks; default: its own")
    ] = None,
    detect_every: Annotated[int, typer.Option(help="Look for faces at every n-th frame")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the log; default: outputs/demo/<time>")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the raw frames too, so that they can be replayed")
    ] = False,
    headless: Annotated[bool, typer.Option("--headless", help="No window, only the log")] = False,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames")] = None,
    score: Annotated[
        Path | None, typer.Option(help="Print the key figures of a session's folder, as JSON")
    ] = None,
    buffer: Annotated[
        Path | None,
        typer.Option(help="Make training material of a recorded session's labelled faces in --out"),
    ] = None,
    self_labelled: Annotated[
        bool, typer.Option("--self-labelled", help="With --buffer: by the model's own labels")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Run a student on a camera, a video, a photo or in the browser, and log every frame.

    It is the student that ships with the package, or with -p that of a profile.

    Example: fer demo --web

    Example: fer demo -p sample --video clip.avi --headless
    """
    if score is not None:
        _print_score(score)
        return
    if buffer is not None:
        _make_buffer(buffer, out, self_labelled)
        return
    from demo_app.detection import make_detector
    from demo_app.parameters import Parameters, parameters_for
    from fer_ml.base.settings import settings
    from fer_ml.bundles.bundle import load_bundle
    from fer_ml.privacy.retention import delete_expired

    _show_progress()
    delete_expired(settings().home, settings().config.keep_recordings_days)
    held = load_bundle(_bundle_folder(bundle, profile, precision))
    console.print(f"Student: {held.card.name}, profile {held.card.profile}, {held.folder}")
    yunet = settings().yunet
    finder = make_detector(detector, yunet, detect_width)
    if photo is not None:
        _print_photo(photo, held, finder)
        return
    if not 1 <= detect_every <= 30:
        raise FerError(f"--detect-every is {detect_every}", allowed="1 to 30")
    start: Parameters = parameters_for(held.card).model_copy(update={"detect_every": detect_every})
    if web:
        from demo_app.web import serve

        serve(
            held,
            lambda: make_detector(detector, yunet, detect_width),
            start,
            out or settings().home / "demo",
            port=port,
            on_ready=lambda link: print(f"Open {link}\nCtrl-C ends it.", flush=True),
        )
        return
    from contextlib import nullcontext

    from demo_app.session import run_session

    folder = out or settings().home / "demo" / time.strftime("%Y%m%dT%H%M%S")
    source: Path | int = video if video is not None else camera
    if headless:
        view: Any = nullcontext()
    else:
        from demo_app.window import Window

        view = Window()
    with view as shown:
        summary = run_session(
            source, held, finder, folder, start, max_frames=max_frames, view=shown, record=record
        )
    times = (
        "too short to time"
        if summary.frame_ms_p50 is None
        else f"{summary.frame_ms_p50:.1f} ms a frame (p95 {summary.frame_ms_p95:.1f})"
    )
    console.print(
        f"{summary.frames} frames, {summary.faces} faces, {times}; detector {summary.detector}; "
        f"log in {summary.out}"
    )
    if summary.ended == "cut_short":
        stated = "" if summary.frames_stated is None else f" of the {summary.frames_stated} stated"
        console.print(
            f"[yellow]{_escape(summary.input)} ended early[/], after {summary.frames} frames"
            f"{stated}: the camera went away, or the file is damaged; the log is complete up to "
            "there"
        )
    if isinstance(source, Path):
        _compare_with_recording(source, folder)


def _print_photo(photo: Path, bundle: Any, detector: Any) -> None:
    from demo_app.photo import classify_photo

    faces = classify_photo(photo, bundle, detector)
    for face in faces:
        console.print(f"{face.raw_label} {max(face.probs):.2f} at {face.box_xyxy_px}")
    if not faces:
        console.print("no face found")


def _print_score(session: Path) -> None:
    from demo_app.kpis import compute_kpis
    from demo_app.logs import PER_FRAME_FILE

    print(json.dumps(compute_kpis(session / PER_FRAME_FILE, None), indent=2))


def _make_buffer(session: Path, out: Path | None, self_labelled: bool) -> None:
    from demo_app.buffer import BufferRule, build_buffer

    if out is None:
        raise FerError("--buffer needs --out", fix="name a new folder for the buffer")
    rule = BufferRule(labels="self" if self_labelled else "manual")
    print(json.dumps(build_buffer(session, out, rule), indent=2))


def _compare_with_recording(session: Path, replay: Path) -> None:
    """Print the replay half of the dual gate where ``session`` is a recorded one."""
    from demo_app.kpis import compute_kpis
    from demo_app.logs import PER_FRAME_FILE
    from fer_assets.stages.demo import replay_gate

    if not (session / PER_FRAME_FILE).is_file():
        return
    now, before = (compute_kpis(folder / PER_FRAME_FILE, None) for folder in (replay, session))
    for outcome in replay_gate(now, before):
        mark = "[green]ok[/]" if outcome.passed else "[yellow]worse[/]"
        console.print(
            f"{mark} {outcome.rule}: {outcome.value} (limit {outcome.limit}; {outcome.detail})"
        )


def _bundle_folder(bundle: Path | None, profile: str | None, precision: str | None) -> Path:
    """The named bundle, the student of a named profile, or the one that ships."""
    if profile is None:
        if precision is not None:
            raise FerError(
                "--precision is of a profile's student", fix="name the profile too: -p NAME"
            )
        from demo_app.shipped import SHIPPED

        return bundle or SHIPPED
    if bundle is not None:
        raise FerError("--bundle and --profile name two students", fix="give one of them")
    return _own_bundle(profile, precision or "fp32")


def _own_bundle(profile: str, precision: str) -> Path:
    from fer_assets.lineage import Pipeline
    from fer_ml.storage.gates import blocking_rules

    store = Pipeline.open(profile).store
    if precision == "fp32":
        return store.require("student_bundle", rules=blocking_rules("student_bundle")).folder
    small = store.require("small_bundles", rules=blocking_rules("small_bundles"))
    offered = [p for p in ("fp16", "int8") if f"{p}/card.json" in small.record.files]
    if precision not in offered:
        raise FerError(
            f"precision {precision!r} is not offered: macro-F1 lost "
            f"{small.record.summary.get(f'{precision}_macro_f1_lost')}, latency "
            f"{small.record.summary.get(f'{precision}_latency_ratio')} times that of fp32",
            where=small.folder,
            allowed=", ".join(("fp32", *offered)),
        )
    return small.folder / precision
