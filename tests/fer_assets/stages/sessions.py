"""Sessions of the demo: played, recorded, and judged by their key figures."""

import shutil
from pathlib import Path

from demo_app.detection import HaarDetector
from demo_app.faces import FrameResult
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control
from demo_app.session import run_session
from fer_assets.stages import demo_kpis, demo_session
from fer_assets.stages._demo import DemoRecipe
from fer_assets.stages.demo_kpis import KpiLimits, KpiRecipe
from fer_ml.bundles.bundle import Bundle
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from tests.fer_assets.stages.bundles import made


class Calm:
    """Labels every frame from the first on."""

    def draw(self, frame: FrameResult) -> None:
        pass

    def react(self, frame: FrameResult, control: Control) -> None:
        control.manual_label = "Happy"


def record(film: Path, bundle: Bundle, folder: Path) -> Path:
    """A recorded session with manual labels."""
    parameters = parameters_for(bundle.card)
    run_session(film, bundle, HaarDetector(), folder, parameters, view=Calm(), record=True)
    return folder


def judged(
    bundle: Bundle, root: Path, paths: dict[str, Path], p95_limit_ms: float = 100.0
) -> tuple[Artifact, dict[str, bool | None]]:
    """Make ``demo_session`` and ``demo_kpis`` in a store of their own; the gates' verdicts."""
    store = Store(root, "test")

    def copy(run: RunFolder) -> None:
        for file in bundle.folder.iterdir():
            shutil.copy(file, run.path(file.name))

    inputs = {"student_bundle": made(store, "student_bundle", copy)}
    play = Job("demo_session", None, store, DemoRecipe("haar", "session" in paths), inputs, paths)
    session = made(store, "demo_session", lambda run: demo_session.build(run, play))
    inputs = {"demo_session": session}
    score = Job("demo_kpis", None, store, KpiRecipe(p95_limit_ms), inputs, paths)
    kpis = made(store, "demo_kpis", lambda run: demo_kpis.build(run, score))
    outcomes = demo_kpis.judge(kpis, store, KpiLimits(p95_limit_ms, False, 0.1))
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in demo_kpis.GATES]
    return session, {outcome.rule: outcome.passed for outcome in outcomes}
