"""Code shared by the demo's stages: the source that is played, and how."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fer_assets.stage import Recipe, Surroundings
from fer_ml.base.errors import FerError
from fer_ml.base.reading import regular, sha256_file
from fer_ml.recipes.profile import Profile
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

if TYPE_CHECKING:
    from demo_app.detection import Detector
    from demo_app.session import SessionSummary
    from fer_ml.bundles.bundle import Bundle

#: The faces of a clip that are known, beside its log.
TRUTH_FILE = "truth.csv"
#: What the session showed when it was recorded, by the bundle that it was recorded with.
BEFORE_FILE = "before_per_frame.csv"


#: The contents of each file in the run folder; ``<...>`` stands for a name.
SESSION_FILES = {
    "per_frame.csv": "a row for each face, or one for a frame without a face",
    "events.csv": (
        "`label`, `start_frame`, `end_frame`, `start_time_sec`, `end_time_sec`, `source`, "
        "`track_id`: stretches in which a track shows one label (`stabilised`), or a person gives "
        "one (`manual`, without a track)"
    ),
    "demoresultssummary.csv": (
        "one row: what ran, on what, how fast, and the parameters at the start; `ema_alpha`, "
        "`vote_window` and `vote_min_count` belong to the old log and stay empty"
    ),
    "thresholds.json": (
        "the parameters at the start (`ema_tau_s`, `hysteresis_delta`, `vote_s`, `vote_share`, "
        "`unsure_below`, `gap_s`, `detect_every`), `parameters_sha256`, `detector`, `model`, "
        "`model_sha256`, `bundle_sha256`, `checkpoint_sha256`, `temperature`, `preprocess`, "
        "`preprocess_digest`, `changes` (`frame_index`, `time_sec`, `parameters_sha256` and the "
        "parameters from there on)"
    ),
}


@dataclass(frozen=True)
class DemoRecipe(Recipe):
    """The detector, and whether a recorded session is played instead of the clip."""

    detector: Literal["haar", "yunet"]
    imported: bool

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "DemoRecipe":
        """Return the recipe from the profile."""
        return cls(profile.demo.detector, profile.demo.session is not None)


def files(around: Surroundings, partition: str | None) -> dict[str, Any]:
    """Return hashes of the clip or of the session's log; null while the file is missing.

    Also includes the truth of the clip, or ``thresholds.json`` of the session, if it exists. The
    frames of a session are not hashed: they expire, and the log identifies the session.
    """
    from fer_ml.sources.raw import ensure_raw

    ensure_raw(around.profile, around.store)
    session = around.demo_session()
    source = around.demo_video() if session is None else session / "per_frame.csv"
    hashes: dict[str, Any] = {"video_sha256": sha256_file(source) if source.is_file() else None}
    if session is None and truth_of(source).is_file():
        hashes["truth_sha256"] = sha256_file(truth_of(source))
    if session is not None and (session / "thresholds.json").is_file():
        hashes["thresholds_sha256"] = sha256_file(session / "thresholds.json")
    return hashes


def truth_of(video: Path) -> Path:
    """Return the path of the file with the true faces of a clip; the file may be missing."""
    return video.with_name(f"{video.stem}_truth.csv")


def source_of(job: Job[DemoRecipe]) -> Path | None:
    """Return the recorded session or the clip to play; None for a session without frames."""
    from demo_app.logs import FRAMES_FOLDER

    if not job.recipe.imported:
        return job.paths["video"]
    session = job.paths["session"]
    return session if (session / FRAMES_FOLDER).is_dir() else None


def detector_of(job: Job[DemoRecipe]) -> "Detector":
    """Return the face detector that the recipe names."""
    from demo_app.detection import make_detector

    return make_detector(job.recipe.detector)


def play(source: Path, bundle: "Bundle", detector: "Detector", out: Path) -> "SessionSummary":
    """Run the demo over the whole of ``source`` and write its log into ``out``.

    Raises ``FerError`` if the demo ended before its source did.
    """
    from demo_app.parameters import parameters_for
    from demo_app.session import run_session

    summary = run_session(source, bundle, detector, out, parameters_for(bundle.card))
    if summary.ended != "end":
        raise FerError(
            f"the session ended with {summary.ended!r} after {summary.frames} frames",
            code="session-incomplete",
            where=source,
            fix="check the clip, then materialize again",
        )
    return summary


def copy_truth(video: Path, run: RunFolder) -> Path | None:
    """Copy the truth that lies beside a clip, if there is one."""
    truth = truth_of(video)
    return Path(shutil.copyfile(regular(truth), run.path(TRUTH_FILE))) if truth.is_file() else None
