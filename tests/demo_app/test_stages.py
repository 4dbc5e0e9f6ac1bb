"""The replay half of the dual gate, and the charts."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo_app.detection import HaarDetector
from demo_app.faces import FrameResult
from demo_app.kpis import LoggedFace, LoggedFrame, stage_timing, timing
from demo_app.parameters import Parameters, parameters_for
from demo_app.pipeline import Control
from demo_app.plots import label_chart, latency_chart
from demo_app.session import run_session
from demo_app.stages import BEFORE_FILE, build_kpis, build_session, gate_kpis, replay_gate
from fer_ml.bundle import Bundle
from fer_ml.errors import FerError
from fer_ml.gates import gates_of
from fer_ml.job import Job
from fer_ml.profiles import Demo, Profile, sample
from fer_ml.sample.video import draw_video
from fer_ml.store import Artifact, RunFolder, Store


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
    assert not verdicts["frame_p95"]
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
