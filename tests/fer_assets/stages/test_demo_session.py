"""A clip is run, a recorded session replayed, and one without frames imported."""

from pathlib import Path

import pytest

from demo_app.detection import HaarDetector
from demo_app.parameters import Parameters
from demo_app.session import run_session
from fer_assets.stages._demo import BEFORE_FILE, DemoRecipe
from fer_ml.bundles.bundle import Bundle
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Demo
from tests.fer_assets.stages.sessions import judged, record
from tests.refusals import refused


def test_a_clip_is_run_and_judged(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    _, verdicts = judged(bundle, tmp_path / "slow", {"video": film}, 10_000)
    assert False not in verdicts.values()
    assert verdicts["replay_improves"] is None
    session, verdicts = judged(bundle, tmp_path / "fast", {"video": film}, 1e-6)
    assert [rule for rule, passed in verdicts.items() if passed is False] == ["frame_p95"]
    assert "truth.csv" in session.record.files


def test_a_recorded_session_is_replayed_and_compared(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    recorded = record(film, bundle, tmp_path / "recorded")
    session, verdicts = judged(bundle, tmp_path / "home", {"session": recorded})
    assert BEFORE_FILE in session.record.files
    # The same bundle says the same: as calm, and no better.
    assert verdicts["replay_is_as_calm"] and verdicts["replay_improves"] is False


def test_a_session_without_frames_is_imported_as_it_is(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    logged = tmp_path / "logged"
    run_session(film, bundle, HaarDetector(), logged, Parameters(unsure_below=0.2))
    session, _ = judged(bundle, tmp_path / "home", {"session": logged})
    assert session.file("per_frame.csv").read_bytes() == (logged / "per_frame.csv").read_bytes()
    (logged / "events.csv").unlink()
    with refused("session-incomplete"):
        judged(bundle, tmp_path / "other", {"session": logged})


@pytest.mark.parametrize(
    ("demo", "recorded"),
    [
        (Demo(), {"detector": "yunet", "imported": False}),
        (Demo(session="s", detector="haar"), {"detector": "haar", "imported": True}),
        (Demo(p95_limit_ms=1), {"detector": "yunet", "imported": False}),
    ],
)
def test_the_recipe(demo: Demo, recorded: dict[str, object]) -> None:
    profile = sample().model_copy(update={"demo": demo})
    assert DemoRecipe.of(profile, None).recorded() == recorded
