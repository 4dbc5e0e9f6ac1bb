"""``demo_session``: the deployed student on a fixed clip, or on a recorded session.

A recorded session is replayed with the same frames and the same manual labels, so that results are
comparable. A session without frames is imported as it is.
"""

import shutil
from pathlib import Path

from fer_assets.stage import Given, Stage, needs
from fer_assets.stages._demo import (
    BEFORE_FILE,
    SESSION_FILES,
    DemoRecipe,
    copy_truth,
    detector_of,
    files,
    play,
    source_of,
)
from fer_ml.base.errors import FerError
from fer_ml.base.reading import regular
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "truth.csv": (
        "Only of a clip with a `<stem>_truth.csv`: `frame_index`, `face_id`, `label` and its box"
    ),
    "frames/<index>.<kind>": "Only if they were recorded: the raw frames, PNG or JPEG",
    "before_per_frame.csv": "Only of a replayed session: the log that was recorded",
}


def build(run: RunFolder, job: Job[DemoRecipe]) -> None:
    """Run the selected student on the profile's clip or session, and keep the whole log."""
    from demo_app.logs import PER_FRAME_FILE
    from demo_app.session import device_name
    from fer_ml.bundles.bundle import load_bundle

    source = source_of(job)
    if source is None:
        _import(job.paths["session"], run)
        return
    bundle = load_bundle(job.input("student_bundle").folder)
    summary = play(source, bundle, detector_of(job), run.folder)
    run.summary.update(
        frames=summary.frames,
        faces=summary.faces,
        detector=summary.detector,
        device=device_name(),
    )
    if job.recipe.imported:
        shutil.copyfile(regular(source / PER_FRAME_FILE), run.path(BEFORE_FILE))
    else:
        copy_truth(source, run)


def _import(session: Path, run: RunFolder) -> None:
    """Import the log of a session without frames; its figures describe the model that made it."""
    from demo_app.kpis import read_per_frame
    from demo_app.logs import EVENTS_FILE, PER_FRAME_FILE, SUMMARY_FILE, THRESHOLDS_FILE

    for name in (PER_FRAME_FILE, EVENTS_FILE, SUMMARY_FILE, THRESHOLDS_FILE):
        try:
            shutil.copyfile(regular(session / name), run.path(name))
        except OSError as error:
            raise FerError(
                f"the session lacks {name}: {error.strerror}",
                code="session-incomplete",
                where=session,
                fix="let demo.session name a folder that fer demo wrote",
            ) from error
    frames, faces = read_per_frame(run.path(PER_FRAME_FILE))
    run.summary.update(frames=len(frames), faces=len(faces), imported=str(session))


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``demo_session``, the same for every profile."""
    return [
        Stage(
            asset="demo_session",
            group="deployment",
            kinds=("opencv", "csv"),
            describe="The log of the bundle on a fixed clip, or on a recorded session: "
            "`per_frame.csv`, `events.csv`, `demoresultssummary.csv`, `thresholds.json`.",
            needs=needs("student_bundle"),
            recipe=DemoRecipe.of,
            files=files,
            holds={**SESSION_FILES, **HOLDS},
            build=build,
            code_version="2",
        )
    ]
