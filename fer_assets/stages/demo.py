"""The demo as assets: a headless session, its KPIs, and one session for each student.

The session is a timed run over a fixed clip, or an imported one. A recorded session is replayed
through the student that is deployed now: same frames, same manual labels, compared like for like.
Before one of them is deployed, every student is run over that same clip or session.
"""

import csv
import shutil
from pathlib import Path
from typing import Any

from demo_app.detection import Detector, LookOnce, make_detector
from demo_app.kpis import compute_kpis, read_per_frame
from demo_app.logs import EVENTS_FILE, FRAMES_FOLDER, PER_FRAME_FILE, SUMMARY_FILE, THRESHOLDS_FILE
from demo_app.parameters import parameters_for
from demo_app.plots import label_chart, latency_chart
from demo_app.session import SessionSummary, device_name, run_session
from fer_assets.stages.job import Job
from fer_ml.base.errors import FerError
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.recipes.profiles import CANDIDATES, Profile, Selection
from fer_ml.storage.gates import Outcome, at_least, at_most
from fer_ml.storage.store import Artifact, RunFolder, Store

TRUTH_FILE = "truth.csv"
#: What the session showed when it was recorded, by the bundle that it was recorded with.
BEFORE_FILE = "before_per_frame.csv"
CANDIDATES_FILE = "candidate_sessions.json"


def build_session(run: RunFolder, job: Job) -> None:
    """Run the selected student over the profile's clip or session and keep the whole log."""
    session = job.paths.get("session")
    source = _source(job)
    if source is None:
        assert session is not None
        _import(session, run)
        return
    bundle = load_bundle(job.input("student_bundle").folder)
    summary = _play(source, bundle, _detector(job), run.folder)
    run.summary.update(
        frames=summary.frames,
        faces=summary.faces,
        detector=summary.detector,
        device=device_name(),
    )
    if session is not None:
        shutil.copyfile(session / PER_FRAME_FILE, run.path(BEFORE_FILE))
    else:
        _copy_truth(source, run)


def build_candidate_sessions(run: RunFolder, job: Job) -> None:
    """Run every student over the clip or session of ``demo_session``: a log each, and figures.

    A session without frames cannot be replayed: then there are no candidates in the file.
    """
    source = _source(job)
    kind = "imported" if source is None else "recorded" if "session" in job.paths else "clip"
    found = {}
    if source is not None:
        truth = None if kind == "recorded" else _copy_truth(source, run)
        detector = LookOnce(_detector(job))
        for name in CANDIDATES:
            bundle = load_bundle(job.input("candidate_bundles").folder / name)
            _play(source, bundle, detector, run.path(name))
            kpis = compute_kpis(run.path(f"{name}/{PER_FRAME_FILE}"), truth)
            found[name] = candidate_figures(bundle, kpis)
    run.write_json(CANDIDATES_FILE, {"schema_version": 1, "session": kind, "candidates": found})
    for name, held in found.items():
        for key in ("macro_f1_stabilised", "flips_per_minute_stabilised"):
            run.summary[f"{name}_{key}"] = held[key]


def candidate_figures(bundle: Bundle, kpis: dict[str, Any]) -> dict[str, Any]:
    """What the dual gate reads of one student's session; None where the session cannot tell.

    ``scored`` are the faces of a known expression: by manual labels, or by the clip's truth.
    """
    manual = "manual_scored" in kpis
    f1 = f"{'manual_' if manual else ''}macro_f1_present"
    return {
        "student_sha256": bundle.card.lineage["made_from"]["sha256"],
        "model_sha256": bundle.card.model_sha256,
        "frames": kpis["frames"],
        "faces": kpis["faces"],
        "scored": kpis["manual_scored"] if manual else kpis.get("truth_found", 0),
        "macro_f1_raw": kpis.get(f"{f1}_raw"),
        "macro_f1_stabilised": kpis.get(f"{f1}_stabilised"),
        "flips_per_minute_raw": kpis["flips_per_minute_raw"],
        "flips_per_minute_stabilised": kpis["flips_per_minute_stabilised"],
    }


def gate_candidate_sessions(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge whether the students' sessions can be compared, and whether they can tell."""
    held = artifact.read_json(CANDIDATES_FILE)
    figures = held["candidates"]
    wanted = () if held["session"] == "imported" else CANDIDATES
    seen = {(entry["frames"], entry["faces"], entry["scored"]) for entry in figures.values()}
    scored = min((entry["scored"] for entry in figures.values()), default=0)
    return [
        Outcome(
            "like_for_like",
            tuple(figures) == wanted and len(seen) <= 1,
            "; ".join(
                f"{name}: {entry['faces']} faces in {entry['frames']} frames, "
                f"{entry['scored']} scored"
                for name, entry in figures.items()
            )
            or "no frames to replay",
            f"the same for each of {', '.join(wanted) or 'none'}",
            f"session: {held['session']}",
        ),
        at_least(
            "has_truth", scored, 1, f"faces of a known expression; session: {held['session']}"
        ),
    ]


def _source(job: Job) -> Path | None:
    """What is played: the recorded session, or the clip; None for a session without frames."""
    session = job.paths.get("session")
    if session is None:
        return job.paths["video"]
    return session if (session / FRAMES_FOLDER).is_dir() else None


def _detector(job: Job) -> Detector:
    return make_detector(job.profile.demo.detector, job.paths.get("yunet"))


def _play(source: Path, bundle: Bundle, detector: Detector, out: Path) -> SessionSummary:
    summary = run_session(source, bundle, detector, out, parameters_for(bundle.card))
    if summary.ended != "end":
        raise FerError(
            f"the session ended with {summary.ended!r} after {summary.frames} frames", where=source
        )
    return summary


def _copy_truth(video: Path, run: RunFolder) -> Path | None:
    """Take over the truth that lies beside a clip, where there is one."""
    truth = video.with_name(f"{video.stem}_truth.csv")
    return Path(shutil.copyfile(truth, run.path(TRUTH_FILE))) if truth.is_file() else None


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
        *replay_gate(kpis, kpis.get("before"), profile.selection.flips_gain),
    ]


def replay_gate(
    now: dict[str, Any],
    before: dict[str, Any] | None,
    flips_gain: float = Selection().flips_gain,
) -> list[Outcome]:
    """The replay half of the dual gate: the same session by the new bundle and by its own.

    ``flips_gain`` is by how much flips a minute may rise, as a share. A session without manual
    labels, or a clip, gives nothing to compare: both pass and say so.
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
        at_most("replay_is_as_calm", flips, (1 + flips_gain) * flips_before, "flips a minute"),
    ]
