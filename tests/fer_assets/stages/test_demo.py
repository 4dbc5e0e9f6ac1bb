"""The replay half of the dual gate, every student's session, and the charts."""

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo_app.detection import HaarDetector
from demo_app.faces import FrameResult
from demo_app.kpis import LoggedFace, LoggedFrame, compute_kpis, stage_timing, timing
from demo_app.logs import STAGE_COLUMNS
from demo_app.parameters import Parameters, parameters_for
from demo_app.pipeline import Control
from demo_app.plots import label_chart, latency_chart
from demo_app.session import run_session
from fer_assets.stages.demo import (
    BEFORE_FILE,
    CANDIDATES_FILE,
    build_candidate_sessions,
    build_kpis,
    build_session,
    gate_candidate_sessions,
    gate_kpis,
    replay_gate,
)
from fer_assets.stages.job import Job
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import MODEL_FILE, Bundle, write_card
from fer_ml.recipes.profiles import CANDIDATES, Demo, Profile, sample
from fer_ml.sample.video import draw_video
from fer_ml.storage.gates import gates_of
from fer_ml.storage.store import Artifact, RunFolder, Store

#: What a log says of the time it took, and of whose it is.
TIMES = (*STAGE_COLUMNS, "frame_ms")
NAMES = {"model": "", "bundle_sha256": ""}


def kpis(macro_f1: float | None, flips: float) -> dict[str, Any]:
    return {
        "manual_macro_f1_present_stabilised": macro_f1,
        "manual_scored": 100,
        "flips_per_minute_stabilised": flips,
    }


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        (kpis(0.6, 10), kpis(0.5, 10), [True, True]),
        (kpis(0.5, 10), kpis(0.5, 10), [False, True]),
        (kpis(0.6, 11), kpis(0.5, 10), [True, True]),
        (kpis(0.6, 11.1), kpis(0.5, 10), [True, False]),
    ],
)
def test_a_replay_must_improve_and_stay_calm(
    now: dict[str, Any], before: dict[str, Any], passed: list[bool]
) -> None:
    assert [outcome.passed for outcome in replay_gate(now, before)] == passed


def test_the_profile_says_how_much_more_may_flip() -> None:
    now, before = kpis(0.6, 13), kpis(0.5, 10)
    assert [outcome.passed for outcome in replay_gate(now, before, 0.3)] == [True, True]


def test_without_labels_there_is_nothing_to_compare_and_that_is_said() -> None:
    for before in (None, kpis(None, 3)):
        for outcome in replay_gate(kpis(0.6, 10), before):
            assert outcome.passed and outcome.value == "nothing to compare"


def test_the_charts_are_pictures_also_without_a_face() -> None:
    frames = [LoggedFrame(i, i / 10, {"detect_ms": 4.0}, 9.0, None, None) for i in range(20)]
    figures = {**timing([frame.frame_ms for frame in frames]), **stage_timing(frames)}
    face = LoggedFace(0, 0.0, 0, (0, 0, 9, 9), "Happy", "Sad", "label")
    for data in (latency_chart(figures, 33.0), label_chart([face]), label_chart([])):
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG" and min(image.size) > 100


class Calm:
    """Labels every frame from the first on."""

    def draw(self, frame: FrameResult) -> None:
        pass

    def react(self, frame: FrameResult, control: Control) -> None:
        control.manual_label = "Happy"


def make(store: Store, asset: str, fill: Any) -> Artifact:
    with store.begin(asset, None, inputs=[], recipe={}, code_version="1", run_id=None) as run:
        fill(run)
    made = store.current(asset)
    assert made is not None
    return made


def judged(
    bundle: Bundle, profile: Profile, root: Path, paths: dict[str, Path]
) -> tuple[Artifact, dict[str, bool]]:
    """Make ``demo_session`` and ``demo_kpis`` in a store of their own; the gates' verdicts."""
    store = Store(root, "test")

    def job(asset: str, needs: Artifact) -> Job:
        inputs = {needs.record.asset: needs}
        return Job(asset, None, profile, store, {}, inputs, paths)

    def copy(run: RunFolder) -> None:
        for file in bundle.folder.iterdir():
            shutil.copy(file, run.path(file.name))

    held = make(store, "student_bundle", copy)
    session = make(store, "demo_session", lambda run: build_session(run, job("demo_session", held)))
    kpis = make(store, "demo_kpis", lambda run: build_kpis(run, job("demo_kpis", session)))
    outcomes = gate_kpis(kpis, store, profile)
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in gates_of("demo_kpis")]
    return session, {outcome.rule: outcome.passed for outcome in outcomes}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    draw_video(folder, 1, seconds=2)
    return folder / "demo.avi"


def test_a_clip_is_run_and_judged(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    slow = sample().model_copy(update={"demo": Demo(p95_limit_ms=10_000)})
    _, verdicts = judged(bundle, slow, tmp_path / "slow", {"video": film})
    assert all(verdicts.values())
    fast = sample().model_copy(update={"demo": Demo(p95_limit_ms=1e-6)})
    session, verdicts = judged(bundle, fast, tmp_path / "fast", {"video": film})
    assert [rule for rule, passed in verdicts.items() if not passed] == ["frame_p95"]
    assert "truth.csv" in session.record.files


def test_a_recorded_session_is_replayed_and_compared(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    recorded = tmp_path / "recorded"
    run_session(
        film,
        bundle,
        HaarDetector(),
        recorded,
        parameters_for(bundle.card),
        view=Calm(),
        record=True,
    )
    session, verdicts = judged(bundle, sample(), tmp_path / "home", {"session": recorded})
    assert BEFORE_FILE in session.record.files
    # The same bundle says the same: as calm, and no better.
    assert verdicts["replay_is_as_calm"] and not verdicts["replay_improves"]


def test_a_session_without_frames_is_imported_as_it_is(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    logged = tmp_path / "logged"
    run_session(film, bundle, HaarDetector(), logged, Parameters(unsure_below=0.2))
    session, _ = judged(bundle, sample(), tmp_path / "home", {"session": logged})
    assert session.file("per_frame.csv").read_bytes() == (logged / "per_frame.csv").read_bytes()
    (logged / "events.csv").unlink()
    with pytest.raises(FerError, match=r"lacks events\.csv"):
        judged(bundle, sample(), tmp_path / "other", {"session": logged})


def students(bundle: Bundle, store: Store, temperatures: tuple[float, ...]) -> Artifact:
    """``candidate_bundles`` of one network: how sure each student is decides what it shows."""

    def fill(run: RunFolder) -> None:
        for name, temperature in zip(CANDIDATES, temperatures, strict=True):
            shutil.copy(bundle.folder / MODEL_FILE, run.path(f"{name}/{MODEL_FILE}"))
            lineage = {"made_from": {"asset": name, "partition": None, "sha256": f"{name}-bytes"}}
            changes = {"name": name, "temperature": temperature, "lineage": lineage}
            write_card(run.path(name), bundle.card.model_copy(update=changes))

    return make(store, "candidate_bundles", fill)


def candidates(
    bundle: Bundle, root: Path, paths: dict[str, Path], temperatures: tuple[float, ...] = (1, 1, 1)
) -> tuple[Artifact, dict[str, bool]]:
    """Make ``candidate_sessions`` in a store of its own; the gates' verdicts."""
    store = Store(root, "test")
    inputs = {"candidate_bundles": students(bundle, store, temperatures)}
    job = Job("candidate_sessions", None, sample(), store, {}, inputs, paths)
    made = make(store, "candidate_sessions", lambda run: build_candidate_sessions(run, job))
    outcomes = gate_candidate_sessions(made, store, sample())
    rules = [outcome.rule for outcome in outcomes]
    assert rules == [gate.rule for gate in gates_of("candidate_sessions")]
    return made, {outcome.rule: outcome.passed for outcome in outcomes}


def test_every_student_is_run_over_the_clip(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    """As the demo runs one of them: looking once for all changes nothing but the times."""
    clip = Path(shutil.copy(film, tmp_path / "clip.avi"))
    lines = film.with_name("demo_truth.csv").read_text().splitlines()
    labels = "|".join(CLASSES)
    truth = [lines[0], *(re.sub(rf"\b({labels})\b", "Sad", line) for line in lines[1:])]
    (tmp_path / "clip_truth.csv").write_text("\n".join(truth) + "\n")
    slow = sample().model_copy(update={"demo": Demo(p95_limit_ms=10_000)})
    write_card(bundle.folder, bundle.card.model_copy(update={"temperature": 0.3}))
    session, _ = judged(bundle, slow, tmp_path / "one", {"video": clip})
    # The second student is never sure enough to show a label: unsure is a miss.
    made, verdicts = candidates(bundle, tmp_path / "all", {"video": clip}, (0.3, 1000, 0.3))
    assert verdicts == {"like_for_like": True, "has_truth": True}
    assert made.file("truth.csv").read_bytes() == session.file("truth.csv").read_bytes()
    held = made.read_json(CANDIDATES_FILE)
    first, never, again = (held["candidates"][name] for name in CANDIDATES)
    assert (held["session"], first["student_sha256"]) == ("clip", "student_ce-bytes")
    assert {**first, "student_sha256": ""} == {**again, "student_sha256": ""}
    assert first["macro_f1_raw"] == never["macro_f1_raw"]
    assert first["macro_f1_stabilised"] > never["macro_f1_stabilised"] == 0
    kpis = compute_kpis(session.file("per_frame.csv"), session.file("truth.csv"))
    for figure, kpi in (
        ("frames", "frames"),
        ("faces", "faces"),
        ("scored", "truth_found"),
        ("macro_f1_raw", "macro_f1_present_raw"),
        ("macro_f1_stabilised", "macro_f1_present_stabilised"),
        ("flips_per_minute_raw", "flips_per_minute_raw"),
        ("flips_per_minute_stabilised", "flips_per_minute_stabilised"),
    ):
        assert first[figure] == kpis[kpi]
    rows = [
        [
            {**row, **dict.fromkeys(TIMES, "")}
            for row in csv.DictReader(path.read_text().splitlines())
        ]
        for path in (session.file("per_frame.csv"), made.file("student_dkd/per_frame.csv"))
    ]
    assert [len(r) for r in rows] == [len(rows[0])] * 2
    for ours, theirs in zip(*rows, strict=True):
        assert ours | NAMES == theirs | NAMES


def test_a_clip_without_truth_tells_flips_alone(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copy(film, tmp_path / "bare.avi"))
    made, verdicts = candidates(bundle, tmp_path / "home", {"video": bare})
    assert verdicts == {"like_for_like": True, "has_truth": False}
    for held in made.read_json(CANDIDATES_FILE)["candidates"].values():
        assert held["scored"] == 0 and held["macro_f1_stabilised"] is None
        assert held["flips_per_minute_stabilised"] is not None


def test_a_clip_without_faces_tells_nothing(
    bundle: Bundle, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    dark = write_video([np.zeros((120, 160, 3), np.uint8)] * 6)
    made, verdicts = candidates(bundle, tmp_path / "home", {"video": dark})
    assert verdicts == {"like_for_like": True, "has_truth": False}
    for held in made.read_json(CANDIDATES_FILE)["candidates"].values():
        assert (held["frames"], held["faces"]) == (6, 0)
        assert held["flips_per_minute_stabilised"] is None


def test_a_recorded_session_tells_by_its_manual_labels(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    recorded = tmp_path / "recorded"
    run_session(
        film,
        bundle,
        HaarDetector(),
        recorded,
        parameters_for(bundle.card),
        view=Calm(),
        record=True,
    )
    paths = {"video": film, "session": recorded}
    made, verdicts = candidates(bundle, tmp_path / "home", paths)
    assert verdicts == {"like_for_like": True, "has_truth": True}
    held = made.read_json(CANDIDATES_FILE)
    assert held["session"] == "recorded"
    assert "truth.csv" not in made.record.files, "the clip's truth is not the session's"
    assert held["candidates"]["student_kd"]["macro_f1_stabilised"] is not None
    shutil.rmtree(recorded / "frames")
    made, verdicts = candidates(bundle, tmp_path / "other", paths)
    assert verdicts == {"like_for_like": True, "has_truth": False}
    assert made.read_json(CANDIDATES_FILE)["candidates"] == {}
    assert made.read_json(CANDIDATES_FILE)["session"] == "imported"


@pytest.mark.parametrize(
    ("kind", "faces", "passed"),
    [
        ("clip", {"student_ce": 9, "student_kd": 9, "student_dkd": 9}, True),
        ("clip", {"student_ce": 9, "student_kd": 8, "student_dkd": 9}, False),
        ("clip", {"student_ce": 9, "student_kd": 9}, False),
        ("clip", {}, False),
        ("imported", {}, True),
    ],
)
def test_sessions_of_other_faces_are_not_compared(
    kind: str, faces: dict[str, int], passed: bool, tmp_path: Path
) -> None:
    figures = {name: {"frames": 20, "faces": n, "scored": n} for name, n in faces.items()}
    value = {"session": kind, "candidates": figures}
    store = Store(tmp_path, "test")
    made = make(store, "candidate_sessions", lambda run: run.write_json(CANDIDATES_FILE, value))
    assert gate_candidate_sessions(made, store, sample())[0].passed is passed
