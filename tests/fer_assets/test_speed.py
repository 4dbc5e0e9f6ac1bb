"""What depends on the machine's speed: it warns unless a profile asks, and is measured again."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from demo_app.shipped import SHIPPED
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.planning import Made, StageFailed
from fer_assets.repository import definitions_for
from fer_assets.running import materialize
from fer_assets.stages import gates_of
from fer_ml.base.settings import settings
from fer_ml.claims.trace import Tracer
from fer_ml.recipes.profile import Demo
from fer_ml.sample.video import draw_video
from fer_ml.storage.record import Receipt
from tests.gates import blocking_rules
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
SESSION, KPIS = Target("demo_session"), Target("demo_kpis")
RULE = "frame_p95"
PROFILE = """
[profiles.own]
base = "ferplus"
sources = [{ name = "mine", adapter = "class_folders" }]
hq_train = { sources = ["mine"] }
eval_only = { sources = ["mine"] }
test_all_sources = { sources = ["mine"] }
demo = { video = "film/demo.avi", p95_limit_ms = 1e-6 }
"""
Make = Callable[[Pipeline], list[Made]]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    draw_video(folder, 1, seconds=1)
    return folder


@pytest.fixture
def pipeline(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A profile that asks more of a frame than any machine can do; it has the shipped student."""
    (tmp_path / "dagster_home").mkdir()
    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "fer.toml").write_text(PROFILE)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", tmp_path / "dagster_home")
    shutil.copytree(film, tmp_path / "film")
    monkeypatch.setenv("FER_PROJECT", str(tmp_path))
    monkeypatch.setenv("FER_HOME", str(tmp_path / "outputs"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    settings.cache_clear()
    pipeline = Pipeline.open("own")
    recipe = pipeline.recipe(Target("student_bundle"))
    with pipeline.store.begin("student_bundle", recipe=recipe) as run:
        for file in SHIPPED.iterdir():
            shutil.copy(file, run.path(file.name))
    held = pipeline.store.verified("student_bundle")
    for rule in blocking_rules("student_bundle"):
        passed = Receipt(
            asset="student_bundle",
            partition=None,
            artifact_sha256=held.sha256,
            rule=rule,
            blocking=True,
            passed=True,
            value=0,
            limit=0,
            detail="",
            examples=(),
            checked_at=held.record.created_at,
            run_id=None,
            judged_by={},
        )
        pipeline.store.write_receipt(held, passed)
    yield pipeline
    settings.cache_clear()


@pytest.fixture
def make() -> Make:
    """Make the session and its figures, where they are not what they should be."""

    def run(pipeline: Pipeline) -> list[Made]:
        with dg.DagsterInstance.get() as instance:
            return materialize(pipeline, instance, select=pipeline.named("demo_session,demo_kpis"))

    return run


def wanting(pipeline: Pipeline, **demo: object) -> Pipeline:
    changed = Demo.from_plain({**pipeline.profile.demo.model_dump(mode="json"), **demo})
    return replace(pipeline, profile=pipeline.profile.model_copy(update={"demo": changed}))


def receipt(pipeline: Pipeline) -> Receipt:
    return pipeline.store.verified("demo_kpis").receipts()[RULE]


def problem(pipeline: Pipeline) -> str | None:
    return Tracer(pipeline.store).trace(pipeline.store.verified("demo_kpis")).problem


def test_a_limit_that_is_missed_warns_and_is_measured_again(pipeline: Pipeline, make: Make) -> None:
    assert [made.target for made in make(pipeline)] == [SESSION, KPIS]
    assert (receipt(pipeline).passed, receipt(pipeline).blocking) == (False, False)
    assert problem(pipeline) is None, "whoever reads the figures may"
    first = pipeline.store.require("demo_kpis")
    again = make(pipeline)
    assert [made.target for made in again] == [SESSION, KPIS]
    assert RULE in again[0].reason
    second = pipeline.store.verified("demo_kpis")
    assert second.record.inputs != first.record.inputs
    # An honest limit: the last measurement is held against it.
    honest = wanting(pipeline, p95_limit_ms=100_000)
    assert [made.target for made in make(honest)] == [KPIS]
    assert receipt(honest).passed
    assert make(honest) == []


def test_a_profile_may_ask_it_to_block(pipeline: Pipeline, make: Make) -> None:
    make(pipeline)
    strict = wanting(pipeline, p95_blocks=True)
    with pytest.raises(StageFailed) as caught:
        make(strict)
    assert list(caught.value.failures.faults) == [KPIS]
    assert receipt(strict).blocking
    assert f"failed gate '{RULE}'" in str(problem(strict))
    with refused("gate-failed"):
        strict.store.require("demo_kpis")
    before = strict.store.require("demo_session").sha256
    with pytest.raises(StageFailed):
        make(strict)
    assert strict.store.require("demo_session").sha256 != before, "measured again, not judged again"
    # Without the word it warns again, and is judged as such.
    assert KPIS in [made.target for made in make(pipeline)]
    assert problem(pipeline) is None


def test_dagster_blocks_as_the_profile_says(pipeline: Pipeline) -> None:
    for blocks in (False, True):
        chosen = wanting(pipeline, p95_blocks=blocks)
        graph = definitions_for(chosen).resolve_asset_graph()
        (key,) = (key for key in graph.asset_check_keys if key.name == RULE)
        assert graph.get(key).blocking is blocks


def test_an_imported_session_stays_as_it_was_measured(
    pipeline: Pipeline, make: Make, tmp_path: Path
) -> None:
    make(pipeline)
    shutil.copytree(pipeline.store.verified("demo_session").folder, tmp_path / "session")
    imported = wanting(pipeline, session="session")
    assert [made.target for made in make(imported)] == [SESSION, KPIS]
    assert not receipt(imported).passed
    assert make(imported) == []


def test_no_other_limit_of_speed_blocks() -> None:
    gates = {gate.rule: gate for gate in gates_of("small_bundles")}
    for rule in ("fp16_is_as_fast", "int8_is_as_fast"):
        assert not gates[rule].blocking
        assert not gates[rule].measured_in, "a finding, which decides what is offered"
