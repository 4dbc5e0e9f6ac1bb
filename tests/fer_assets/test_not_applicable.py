"""A gate with nothing to judge is neither green nor red, wherever its verdict is counted."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from fer_assets.assets import stage_asset, stage_checks
from fer_assets.digest import digest_of
from fer_assets.keys import asset_key
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.show import checks_text
from fer_assets.stage import Stage
from fer_assets.staleness import unjudged
from fer_ml.claims.trace import Tracer
from fer_ml.exchange.crate import _gates
from fer_ml.report.references import References
from fer_ml.storage.gates import Gate, Outcome, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from tests.fer_assets.conftest import OpenProject
from tests.refusals import refused

TARGET = Target("label_review")
GATES = (Gate("silent", "it has something to say", "-"), Gate("loud", "it is good", "mend it"))


def build(run: RunFolder, job: Job[Any]) -> None:
    run.write_json("said.json", {})


@pytest.fixture
def pipeline(project: OpenProject, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A stage with two blocking gates in the place of a real one that needs nothing."""
    found = project("sample")
    outcomes = lambda *_: [not_applicable("silent", "nothing to compare"), loud]  # noqa: E731
    loud = Outcome("loud", True, 1, 1)
    stage = Stage(TARGET.asset, "report", (), "", build, gates=GATES, judge=outcomes)
    monkeypatch.setitem(found.stages, TARGET.asset, stage)
    return found


def test_it_lets_its_artifact_pass_and_is_counted_with_neither(pipeline: Pipeline) -> None:
    pipeline.make(TARGET)
    with refused("gate-not-judged"):
        pipeline.store.require(TARGET.asset)
    pipeline.judge(TARGET)
    artifact = pipeline.store.require(TARGET.asset)
    receipt = artifact.receipts()["silent"]
    assert (receipt.passed, receipt.detail) == (None, "nothing to compare")
    assert not unjudged(pipeline, TARGET)
    assert str(checks_text(artifact)) == "1/1, 1 n/a"
    node = Tracer(pipeline.store).trace(artifact)
    assert (node.problem, node.to_json()["receipts"]) == (None, {"silent": None, "loud": True})
    assert _gates(node) == {"gate/silent": "not applicable", "gate/loud": "passed"}
    entries = digest_of(pipeline).entries
    assert not [entry for entry in entries if entry.kind == "gate" and "silent" in entry.name]
    held = References.__new__(References)
    held.input, held.given = (lambda *_: artifact), []
    assert held.gate(TARGET.asset, "silent") == "not applicable: nothing to compare"


def test_a_failed_one_still_stops_what_rests_on_it(pipeline: Pipeline) -> None:
    stage = pipeline.stages[TARGET.asset]
    red = [not_applicable("silent", "nothing"), Outcome("loud", False, 0, 1)]
    pipeline.stages[TARGET.asset] = replace(stage, judge=lambda *_: red)
    pipeline.make(TARGET)
    pipeline.judge(TARGET)
    with refused("gate-failed"):
        pipeline.store.require(TARGET.asset)


def test_dagster_shows_it_as_skipped_and_goes_on(pipeline: Pipeline) -> None:
    stage = pipeline.stages[TARGET.asset]

    @dg.asset(deps=[asset_key(pipeline.profile.name, TARGET.asset)])
    def after() -> None: ...

    definitions = dg.Definitions(
        assets=[stage_asset(pipeline, stage), after], asset_checks=[stage_checks(pipeline, stage)]
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
        assert result.success and result.asset_materializations_for_node("after")
        told = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
        assert told == {"loud": True}
