"""``fer demo``: run a student on a camera, a video, a photo or in the browser; read its logs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_assets.commands.common import Commands, ProfileOption, console, show_progress, styled
from fer_assets.commands.session import compare_with_recording, run_shown
from fer_assets.commands.student import bundle_folder
from fer_ml.base.errors import FerError

if TYPE_CHECKING:
    from demo_app.detection import Detector
    from demo_app.parameters import Parameters
    from fer_ml.bundles.bundle import Bundle


class _Subcommands(Commands):
    """A command group that suggests a subcommand when none comes first (``fer demo --web``)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            kind = "option" if args[0].startswith("-") else "command"
            meant = " or ".join(self._meant(args))
            ctx.fail(f"No such {kind}: {args[0]}. The subcommand comes first: {meant}")
        return super().parse_args(ctx, args)

    def _meant(self, args: list[str]) -> list[str]:
        """Return usages of subcommands that an option names, or its argument does; else all."""
        options = {arg.lstrip("-").partition("=")[0] for arg in args if arg.startswith("-")}
        usages, meant = [], []
        for name, command in self.commands.items():
            arguments = [str(p.name) for p in command.params if p.param_type_name == "argument"]
            usages.append(" ".join(["fer demo", name, *map(str.upper, arguments)]))
            if options & {name, *arguments[:1]}:
                meant.append(usages[-1])
        return meant or usages


app = typer.Typer(
    cls=_Subcommands,
    no_args_is_help=True,
    help="Run a student on a camera, a video, a photo or in the browser; read its logs.",
)

BundleOption = Annotated[
    Path | None, typer.Option(help="Bundle folder; default: the student shipped with the package")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="With -p: fp32 (default); fp16 or int8 if small_bundles offers it"),
]
DetectorOption = Annotated[
    str, typer.Option(help="yunet or haar; haar misses most turned or small faces")
]
DetectWidthOption = Annotated[
    int | None,
    typer.Option(help="Width in px of the image given to the detector; default: its own"),
]
DetectEveryOption = Annotated[int, typer.Option(help="Run the detector on every n-th frame")]
OutOption = Annotated[
    Path | None, typer.Option(help="New folder for the log; default: outputs/demo/<time>")
]
RecordOption = Annotated[
    bool,
    typer.Option("--record", help="Also keep the raw frames, so that the session can be replayed"),
]
HeadlessOption = Annotated[
    bool, typer.Option("--headless", help="Open no window; write only the log")
]
MaxFramesOption = Annotated[int | None, typer.Option(help="Stop after this number of frames")]
SessionArgument = Annotated[
    Path, typer.Argument(metavar="SESSION", help="Folder of a logged session")
]


@app.command()
def play(
    video: Annotated[
        Path,
        typer.Argument(metavar="VIDEO", help="Video, GIF, folder of images or recorded session"),
    ],
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    detector: DetectorOption = "yunet",
    detect_width: DetectWidthOption = None,
    detect_every: DetectEveryOption = 1,
    out: OutOption = None,
    record: RecordOption = False,
    headless: HeadlessOption = False,
    max_frames: MaxFramesOption = None,
    profile: ProfileOption = None,
) -> None:
    """Run a student on a video and log every frame; compare a recorded session with its log.

    Runs the student shipped with the package, or with -p the student of a profile.

    Example: fer demo play clip.mp4

    Example: fer demo play clip.avi -p sample --headless
    """
    student = _student(bundle, profile, precision)
    finder = _detector(detector, detect_width)
    start = _parameters(student, detect_every)
    summary = run_shown(
        video, student, finder, start, out, record=record, headless=headless, max_frames=max_frames
    )
    compare_with_recording(video, summary.out)


@app.command()
def camera(
    number: Annotated[int, typer.Option(help="Number of the camera on this machine, from 0")] = 0,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    detector: DetectorOption = "yunet",
    detect_width: DetectWidthOption = None,
    detect_every: DetectEveryOption = 1,
    out: OutOption = None,
    record: RecordOption = False,
    headless: HeadlessOption = False,
    max_frames: MaxFramesOption = None,
    profile: ProfileOption = None,
) -> None:
    """Run a student on a camera of this machine and log every frame.

    Example: fer demo camera

    Example: fer demo camera --number 1 --record
    """
    student = _student(bundle, profile, precision)
    finder = _detector(detector, detect_width)
    start = _parameters(student, detect_every)
    run_shown(
        number, student, finder, start, out, record=record, headless=headless, max_frames=max_frames
    )


@app.command()
def web(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any free port")] = 8765,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    detector: DetectorOption = "yunet",
    detect_width: DetectWidthOption = None,
    detect_every: DetectEveryOption = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for recorded sessions; default: outputs/demo")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Open a web page that uses the browser's camera; it is reachable from this machine only.

    Example: fer demo web
    """
    from demo_app.detection import make_detector
    from demo_app.web import serve
    from fer_ml.base.settings import settings

    student = _student(bundle, profile, precision)
    _detector(detector, detect_width)  # Its warning is printed once; each page shows it too.
    serve(
        student,
        lambda: make_detector(detector, detect_width),
        _parameters(student, detect_every),
        out or settings().home / "demo",
        port=port,
        on_ready=lambda link: print(f"Open {link}\nCtrl-C ends it.", flush=True),
    )


@app.command()
def photo(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Image file")],
    face: Annotated[
        bool, typer.Option("--face", help="The image is a cropped face; run no detector")
    ] = False,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    detector: DetectorOption = "yunet",
    detect_width: DetectWidthOption = None,
    profile: ProfileOption = None,
) -> None:
    """Print the faces of one photo, each with its label and box.

    Example: fer demo photo party.jpg

    Example: fer demo photo 48x48.png --face
    """
    from demo_app.photo import classify_photo

    student = _student(bundle, profile, precision)
    faces = classify_photo(photo, student, None if face else _detector(detector, detect_width))
    for number, this_face in enumerate(faces, 1):
        which = f"face {number} of {len(faces)}: " if len(faces) > 1 else ""
        status = this_face.state.status
        doubt = "" if status == "label" else f" ({status.replace('_', ' ')})"
        console.print(
            f"{which}{this_face.raw_label} {max(this_face.probs):.2f}{doubt} "
            f"at {this_face.box_xyxy_px}"
        )
    if not faces:
        console.print("no face found; where the picture is a face as a whole, add --face")


@app.command()
def score(session: SessionArgument) -> None:
    """Print the key figures of a session, as JSON.

    Example: fer demo score outputs/demo/20260101T101500
    """
    from demo_app.kpis import compute_kpis
    from demo_app.logs import PER_FRAME_FILE

    print(json.dumps(compute_kpis(session / PER_FRAME_FILE, None), indent=2))


@app.command()
def buffer(
    session: SessionArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="New folder for the training material")
    ],
    self_labelled: Annotated[
        bool, typer.Option("--self-labelled", help="Use labels of the model, not manual ones")
    ] = False,
) -> None:
    """Make training material from the labelled faces of a recorded session.

    Example: fer demo buffer outputs/demo/20260101T101500 buffer
    """
    from demo_app.buffer import BufferRule, build_buffer

    rule = BufferRule(labels="self" if self_labelled else "manual")
    print(json.dumps(build_buffer(session, out, rule), indent=2))


def _student(bundle: Path | None, profile: str | None, precision: str | None) -> "Bundle":
    """Return the student to run, after deleting recordings whose retention time is over."""
    from fer_ml.base.settings import settings
    from fer_ml.bundles.bundle import load_bundle
    from fer_ml.privacy.retention import delete_expired

    show_progress()
    delete_expired(settings().home, settings().config.keep_recordings_days)
    student = load_bundle(bundle_folder(bundle, profile, precision))
    console.print(f"Student: {student.card.name}, profile {student.card.profile}, {student.folder}")
    return student


def _detector(name: str, width: int | None) -> "Detector":
    from demo_app.detection import make_detector, warning

    detector = make_detector(name, width)
    if message := warning(detector):
        console.print(styled((message, "yellow")))
    return detector


def _parameters(student: "Bundle", detect_every: int) -> "Parameters":
    from demo_app.parameters import parameters_for

    if not 1 <= detect_every <= 30:
        raise FerError(f"--detect-every is {detect_every}", code="invalid-value", allowed="1 to 30")
    return parameters_for(student.card).model_copy(update={"detect_every": detect_every})
