"""``candidate_sessions``: every student on the clip or session of ``demo_session``.

Students are compared here before one of them is deployed.
"""

from typing import TYPE_CHECKING, Any

from fer_assets.stage import Given, Limits, Stage, needs
from fer_assets.stages._demo import (
    SESSION_FILES,
    DemoRecipe,
    copy_truth,
    detector_of,
    files,
    play,
    source_of,
)
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_least, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.bundles.bundle import Bundle

CANDIDATES_FILE = "candidate_sessions.json"

GATES = (
    Gate(
        "like_for_like",
        "every student saw the same faces in the same frames of one session",
        "materialize candidate_sessions again",
    ),
    Gate(
        "has_truth",
        "the session has true labels, so that it can show which student is better",
        "let demo.session name a recorded session with manual labels",
        blocking=False,
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "candidate_sessions.json": (
        "`session` (clip, recorded or imported), `candidates` by student: `student_sha256`, "
        "`model_sha256`, `frames`, `faces`, `scored`, `expressions`, `seconds`, `flips`, "
        "`macro_f1_raw`, `macro_f1_stabilised`, `flips_per_minute_raw`, "
        "`flips_per_minute_stabilised` (null if not measurable in the session)"
    ),
    # Their times are no measurements: the detector looked once for all students.
    **{f"<student>/{file}": text for file, text in SESSION_FILES.items()},
    "truth.csv": (
        "Only of a clip with a `<stem>_truth.csv`: `frame_index`, `face_id`, `label` and its box"
    ),
}


def build(run: RunFolder, job: Job[DemoRecipe]) -> None:
    """Run every student on the clip or session of ``demo_session``; write a log and figures each.

    A session without frames cannot be replayed; the file then lists no candidates.
    """
    from demo_app.detection import LookOnce
    from demo_app.kpis import compute_kpis
    from demo_app.logs import PER_FRAME_FILE
    from fer_ml.bundles.bundle import load_bundle

    source = source_of(job)
    kind = "imported" if source is None else "recorded" if job.recipe.imported else "clip"
    candidates = {}
    if source is not None:
        truth = None if kind == "recorded" else copy_truth(source, run)
        detector = LookOnce(detector_of(job))
        for name in CANDIDATES:
            bundle = load_bundle(job.input("candidate_bundles").folder / name)
            play(source, bundle, detector, run.path(name))
            kpis = compute_kpis(run.path(f"{name}/{PER_FRAME_FILE}"), truth)
            candidates[name] = candidate_figures(bundle, kpis)
    run.write_json(
        CANDIDATES_FILE, {"schema_version": 1, "session": kind, "candidates": candidates}
    )
    for name, figures in candidates.items():
        for key in ("macro_f1_stabilised", "flips_per_minute_stabilised"):
            run.summary[f"{name}_{key}"] = figures[key]


def candidate_figures(bundle: "Bundle", kpis: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one student's session for the dual gate; None if not measurable.

    ``scored`` is the number of faces with a known expression, from manual labels or the clip's
    truth. ``expressions`` counts how often one of them begins to show another expression.
    """
    manual = "manual_scored" in kpis
    f1 = f"{'manual_' if manual else ''}macro_f1_present"
    return {
        "student_sha256": bundle.card.lineage["made_from"]["sha256"],
        "model_sha256": bundle.card.model_sha256,
        "frames": kpis["frames"],
        "faces": kpis["faces"],
        "scored": kpis["manual_scored"] if manual else kpis.get("truth_found", 0),
        "expressions": kpis.get("expressions", 0),
        "seconds": kpis["track_seconds"],
        "flips": kpis["flips_stabilised"],
        "macro_f1_raw": kpis.get(f"{f1}_raw"),
        "macro_f1_stabilised": kpis.get(f"{f1}_stabilised"),
        "flips_per_minute_raw": kpis["flips_per_minute_raw"],
        "flips_per_minute_stabilised": kpis["flips_per_minute_stabilised"],
    }


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge whether the students' sessions are comparable and have true labels."""
    document = artifact.read_json(CANDIDATES_FILE)
    figures = document["candidates"]
    seen = {(entry["frames"], entry["faces"], entry["scored"]) for entry in figures.values()}
    scored = min((entry["scored"] for entry in figures.values()), default=0)
    summary = "; ".join(
        f"{name}: {entry['faces']} faces in {entry['frames']} frames, {entry['scored']} scored"
        for name, entry in figures.items()
    )
    return [
        Outcome(
            "like_for_like",
            tuple(figures) == CANDIDATES and len(seen) == 1,
            summary or "no candidates",
            f"the same for each of {', '.join(CANDIDATES)}",
            f"session: {document['session']}",
        )
        if figures or document["session"] != "imported"
        else not_applicable("like_for_like", "an imported session has no frames to replay"),
        at_least(
            "has_truth", scored, 1, f"faces of a known expression; session: {document['session']}"
        ),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``candidate_sessions``, the same for every profile."""
    return [
        Stage(
            asset="candidate_sessions",
            group="evaluation",
            kinds=("opencv", "csv"),
            describe="Every student on the session of `demo_session`: smoothed macro-F1 and "
            "flips a minute in `candidate_sessions.json`, and a log for each student.",
            needs=needs("candidate_bundles"),
            recipe=DemoRecipe.of,
            files=files,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="2",
        )
    ]
