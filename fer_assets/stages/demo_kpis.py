"""``demo_kpis``: key figures of the demo session, and the replay half of the dual gate."""

import csv
from dataclasses import dataclass
from typing import Any

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_assets.stages._demo import BEFORE_FILE, TRUTH_FILE
from fer_ml.recipes.profile import Profile, Selection
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_least, at_most, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "frames_scored",
        "at least one face was found and scored",
        "check the video and the detector",
    ),
    Gate(
        "steadier_than_raw",
        "stabilised labels flip no more often than raw ones",
        "look at the stabiliser's settings",
        blocking=False,
    ),
    Gate(
        "frame_p95",
        "after the warm-up, 95 of 100 frames take at most demo.p95_limit_ms of the profile",
        "the next fer materialize measures again, unless the session was imported; if it fails "
        "again, use an idle or faster machine, a smaller student or detector width, or a limit "
        "that this machine can keep",
        blocking=False,
        blocks_with="p95_blocks",
        measured_in="demo_session",
    ),
    Gate(
        "replay_improves",
        "on the recorded session, macro-F1 of shown labels is above that of the session's bundle",
        "keep the bundle that recorded the session",
        blocking=False,
    ),
    Gate(
        "replay_is_as_calm",
        "on the recorded session, the flips of shown labels rise by at most "
        "selection.flips_gain of the profile",
        "look at the stabiliser's settings, or keep the bundle that recorded the session",
        blocking=False,
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "demo_kpis.json": (
        "counts (`frames`, `faces`, `tracks`, `face_found_rate`); speed after the warm-up "
        "(`warm_up_frames`, `frames_timed`, `frames_missing`, `processed_fps`, `*_ms_mean`, "
        "`*_ms_p50`, `*_ms_p95`, `*_ms_p99`); flips of a track's labels (`track_seconds`, "
        "`flips_*`); lasting changes of the raw label (`lasting_changes`, "
        "`lasting_changes_missed`, `reaction_delay_s_*`); `unsure_share`, `too_small_share`, "
        "`unstable_share`; "
        "`manual_*` with manual labels; with a `truth.csv` `truth_*`, `faces_without_truth`, "
        "`detection_recall`, `accuracy_*`, `macro_f1_present_*`, `support`, `expressions`; "
        "`before`: the same of a replayed session's own log"
    ),
    "demo_kpis.csv": "the key figures that are single values",
    "latency.png": "frame times by stage",
    "labels.png": "labels by time",
}


@dataclass(frozen=True)
class KpiRecipe(Recipe):
    """The limit that the chart of frame times shows, in ms."""

    p95_limit_ms: float

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "KpiRecipe":
        """Return the recipe from the profile."""
        return cls(profile.demo.p95_limit_ms)


@dataclass(frozen=True)
class KpiLimits(Limits):
    """The limit of the 95th percentile of frame time (ms), whether it blocks, and of flips.

    ``flips_gain`` is the permitted increase of flips a minute, as a share: 0.1 is 10 %.
    """

    p95_limit_ms: float
    p95_blocks: bool
    flips_gain: float

    @classmethod
    def of(cls, profile: Profile) -> "KpiLimits":
        """Return the limits from the profile."""
        demo = profile.demo
        return cls(demo.p95_limit_ms, demo.p95_blocks, profile.selection.flips_gain)


def build(run: RunFolder, job: Job[KpiRecipe]) -> None:
    """Write ``demo_kpis.json``, ``.csv`` and plots, computed from the session's log only."""
    from demo_app.kpis import compute_kpis, read_per_frame
    from demo_app.logs import PER_FRAME_FILE
    from demo_app.plots import label_chart, latency_chart

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
    run.path("latency.png").write_bytes(latency_chart(kpis, job.recipe.p95_limit_ms))
    run.path("labels.png").write_bytes(label_chart(faces))
    run.summary.update({key: value for key, value in scalars.items() if value is not None})


def judge(artifact: Artifact, store: Store, limits: KpiLimits) -> list[Outcome]:
    """Judge the session by its key figures."""
    kpis = artifact.read_json("demo_kpis.json")
    raw, steady = kpis["flips_raw"], kpis["flips_stabilised"]
    p95 = kpis["frame_ms_p95"]
    return [
        at_least("frames_scored", kpis["faces"], 1),
        at_most("steadier_than_raw", steady, raw, "label flips in the session")
        if kpis["faces"]
        else not_applicable("steadier_than_raw", "no face in the session"),
        Outcome(
            "frame_p95",
            p95 is not None and p95 <= limits.p95_limit_ms,
            "too few frames for a p95" if p95 is None else p95,
            limits.p95_limit_ms,
            f"ms, over {kpis['frames_timed']} frames after the warm-up",
        ),
        *replay_gate(kpis, kpis.get("before"), limits.flips_gain),
    ]


def replay_gate(
    now: dict[str, Any],
    before: dict[str, Any] | None,
    flips_gain: float = Selection().flips_gain,
) -> list[Outcome]:
    """Judge the same session by the new bundle and by the bundle that recorded it.

    ``flips_gain`` is the permitted increase of flips a minute, as a share. A clip, or a session
    without manual labels, cannot be compared; then neither gate is applicable.
    """
    key = "manual_macro_f1_present_stabilised"
    rules = ("replay_improves", "replay_is_as_calm")
    if before is None or now.get(key) is None or before.get(key) is None:
        why = "no labelled recorded session (demo.session of the profile)"
        return [not_applicable(rule, why) for rule in rules]
    flips, flips_before = now["flips_per_minute_stabilised"], before["flips_per_minute_stabilised"]
    on = f"macro-F1 over present classes, n={now['manual_scored']}"
    return [
        Outcome("replay_improves", now[key] > before[key], now[key], before[key], on),
        at_most("replay_is_as_calm", flips, (1 + flips_gain) * flips_before, "flips a minute"),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``demo_kpis``, the same for every profile."""
    return [
        Stage(
            asset="demo_kpis",
            group="deployment",
            kinds=("json",),
            describe="Frame times by stage, flips, reaction delay and accuracy of the session, "
            "computed from its log only, with plots.",
            needs=needs("demo_session"),
            recipe=KpiRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            limits=KpiLimits.of,
            code_version="3",
        )
    ]
