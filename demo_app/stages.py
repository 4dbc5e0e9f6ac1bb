"""The demo as assets: a headless session on a fixed clip, and the KPIs computed from its log."""

import csv
import shutil
from typing import Any

from demo_app.detection import make_detector
from demo_app.kpis import compute_kpis
from demo_app.logs import PER_FRAME_FILE
from demo_app.parameters import parameters_for
from demo_app.session import device_name, run_session
from fer_ml.bundle import load_bundle
from fer_ml.errors import FerError
from fer_ml.gates import Outcome, at_least
from fer_ml.job import Job
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store

TRUTH_FILE = "truth.csv"


def build_session(run: RunFolder, job: Job) -> None:
    """Run the selected student over the profile's clip and keep the whole log."""
    video = job.paths["video"]
    bundle = load_bundle(job.input("student_bundle").folder)
    detector = make_detector(job.profile.demo.detector, job.paths.get("yunet"))
    summary = run_session(video, bundle, detector, run.folder, parameters_for(bundle.card))
    if summary.ended not in ("end", "max_frames"):
        raise FerError(
            f"the session ended with {summary.ended!r} after {summary.frames} frames", where=video
        )
    truth = video.with_name(f"{video.stem}_truth.csv")
    if truth.is_file():
        shutil.copyfile(truth, run.path(TRUTH_FILE))
    run.summary.update(
        frames=summary.frames,
        faces=summary.faces,
        detector=summary.detector,
        device=device_name(),
    )


def build_kpis(run: RunFolder, job: Job) -> None:
    """``demo_kpis.json`` and ``.csv``, computed from the session's log and nothing else."""
    session = job.input("demo_session")
    truth = session.folder / TRUTH_FILE if TRUTH_FILE in session.record.files else None
    kpis: dict[str, Any] = compute_kpis(session.file(PER_FRAME_FILE), truth)
    run.write_json("demo_kpis.json", {"schema_version": 1, **kpis})
    scalars = {key: value for key, value in kpis.items() if not isinstance(value, dict)}
    with run.path("demo_kpis.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kpi", "value"])
        writer.writerows(scalars.items())
    run.summary.update({key: value for key, value in scalars.items() if value is not None})


def gate_kpis(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the session by its KPIs."""
    kpis = artifact.read_json("demo_kpis.json")
    raw, steady = kpis["flips_raw"], kpis["flips_stabilised"]
    return [
        at_least("frames_scored", kpis["faces"], 1),
        Outcome("steadier_than_raw", steady <= raw, steady, raw, "label flips in the session"),
    ]
