"""The demo as assets: a headless session, and the KPIs computed from its log.

The session is a timed run over a fixed clip, or an imported one. A recorded session is replayed
through the student that is deployed now: same frames, same manual labels, compared like for like.
"""

import csv
import shutil
from pathlib import Path
from typing import Any

from demo_app.detection import Detector, make_detector
from demo_app.kpis import compute_kpis, read_per_frame
from demo_app.logs import EVENTS_FILE, FRAMES_FOLDER, PER_FRAME_FILE, SUMMARY_FILE, THRESHOLDS_FILE
from demo_app.parameters import parameters_for
from demo_app.plots import label_chart, latency_chart
from demo_app.session import device_name, run_session
from fer_ml.bundle import Bundle, load_bundle
from fer_ml.errors import FerError
from fer_ml.gates import Outcome, at_least, at_most
from fer_ml.job import Job
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store

TRUTH_FILE = "truth.csv"
#: What the session showed when it was recorded, by the bundle that it was recorded with.
BEFORE_FILE = "before_per_frame.csv"
#: The first pipeline's gate on a replay: flips of the shown label against those before.
JITTER_LIMIT = 1.10


def build_session(run: RunFolder, job: Job) -> None:
    """Run the selected student over the profile's clip or session and keep the whole log."""
    session = job.paths.get("session")
    bundle = load_bundle(job.input("student_bundle").folder)
    if session is not None and not (session / FRAMES_FOLDER).is_dir():
        _import(session, run)
        return
    detector = make_detector(job.profile.demo.detector, job.paths.get("yunet"))
    _run(session or job.paths["video"], bundle, detector, run)
    if session is not None:
        shutil.copyfile(session / PER_FRAME_FILE, run.path(BEFORE_FILE))
        return
    video = job.paths["video"]
    truth = video.with_name(f"{video.stem}_truth.csv")
    if truth.is_file():
        shutil.copyfile(truth, run.path(TRUTH_FILE))


def _run(source: Path, bundle: Bundle, detector: Detector, run: RunFolder) -> None:
    summary = run_session(source, bundle, detector, run.folder, parameters_for(bundle.card))
    if summary.ended != "end":
        raise FerError(
            f"the session ended with {summary.ended!r} after {summary.frames} frames", where=source
        )
    run.summary.update(
        frames=summary.frames,
        faces=summary.faces,
        detector=summary.detector,
        device=device_name(),
    )


def _import(session: Path, run: RunFolder) -> None:
    """Take over the log of a session without frames; its figures are of whoever made it."""
    for name in (PER_FRAME_FILE, EVENTS_FILE, SUMMARY_FILE, THRESHOLDS_FILE):
        try:
            shutil.copyfile(session / name, run.path(name))
        except OSError as error:
            raise FerError(
                f"the session lacks {name}: {error.strerror}",
                where=session,
                fix="let demo.session name a folder that fer demo wrote",
            ) from error
    frames, faces = read_per_frame(run.path(PER_FRAME_FILE))
    run.summary.update(frames=len(frames), faces=len(faces), imported=str(session))


def build_kpis(run: RunFolder, job: Job) -> None:
    """``demo_kpis.json`` and ``.csv`` with plots, from the session's log and nothing else."""
    session = job.input("demo_session")
    files = session.record.files
    truth = session.folder / TRUTH_FILE if TRUTH_FILE in files else None
    kpis: dict[str, Any] = compute_kpis(session.file(PER_FRAME_FILE), truth)
    if BEFORE_FILE in files:
        kpis["before"] = compute_kpis(session.file(BEFORE_FILE), None)
    run.write_json("demo_kpis.json", {"schema_version": 2, **kpis})
    scalars = {key: value for key, value in kpis.items() if not isinstance(value, dict)}
    with run.path("demo_kpis.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kpi", "value"])
        writer.writerows(scalars.items())
    _, faces = read_per_frame(session.file(PER_FRAME_FILE))
    limit = job.profile.demo.p95_limit_ms
    run.path("latency.png").write_bytes(latency_chart(kpis, limit))
    run.path("labels.png").write_bytes(label_chart(faces))
    run.summary.update({key: value for key, value in scalars.items() if value is not None})


def gate_kpis(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the session by its KPIs."""
    kpis = artifact.read_json("demo_kpis.json")
    raw, steady = kpis["flips_raw"], kpis["flips_stabilised"]
    p95 = kpis["frame_ms_p95"]
    return [
        at_least("frames_scored", kpis["faces"], 1),
        Outcome("steadier_than_raw", steady <= raw, steady, raw, "label flips in the session"),
        Outcome(
            "frame_p95",
            p95 is not None and p95 <= profile.demo.p95_limit_ms,
            "no frame after the warm-up" if p95 is None else p95,
            profile.demo.p95_limit_ms,
            f"ms, over {kpis['frames_timed']} frames",
        ),
        *replay_gate(kpis, kpis.get("before")),
    ]


def replay_gate(now: dict[str, Any], before: dict[str, Any] | None) -> list[Outcome]:
    """The replay half of the dual gate: the same session by the new bundle and by its own.

    A session without manual labels, or a clip, gives nothing to compare: both pass and say so.
    """
    key = "manual_macro_f1_present_stabilised"
    rules = ("replay_improves", "replay_is_as_calm")
    if before is None or now.get(key) is None or before.get(key) is None:
        detail = "no labelled recorded session (demo.session of the profile)"
        return [Outcome(rule, True, "nothing to compare", "-", detail) for rule in rules]
    flips, flips_before = now["flips_per_minute_stabilised"], before["flips_per_minute_stabilised"]
    on = f"macro-F1 over present classes, n={now['manual_scored']}"
    return [
        Outcome("replay_improves", now[key] > before[key], now[key], before[key], on),
        at_most("replay_is_as_calm", flips, JITTER_LIMIT * flips_before, "flips a minute"),
    ]
