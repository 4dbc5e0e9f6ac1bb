"""The stage that docs/architecture.md shows is found, made and judged, as it stands there."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fer_assets.stages
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_ml.storage.gates import at_most
from tests.fer_assets.conftest import OpenProject
from tests.refusals import refused

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
TARGET = Target("class_counts")


@pytest.fixture
def pipeline(project: OpenProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    code = PAGE.read_text("utf-8").split("<!-- stage -->\n```python\n")[1].split("```\n")[0]
    (tmp_path / "class_counts.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(fer_assets.stages, "__path__", [*fer_assets.stages.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "fer_assets.stages.class_counts", raising=False)
    return project("sample")


def test_it_is_made_of_gated_inputs_judged_and_held_to_its_limits(pipeline: Pipeline) -> None:
    with refused("asset-not-made"):
        pipeline.make(TARGET)
    sources = [f"manifest/{source.name}" for source in pipeline.profile.sources]
    for asset in (*sources, "classification_manifest", "hq_train_manifest"):
        pipeline.make(Target(asset))
        pipeline.judge(Target(asset))
    counts = pipeline.make(TARGET).read_json("class_counts.json")
    (outcome,) = pipeline.judge(TARGET)
    assert outcome.passed
    rows = pipeline.store.require("hq_train_manifest").record.summary["rows"]
    assert sum(counts.values()) == rows
    assert pipeline.store.require("class_counts").receipts()[outcome.rule].judged_by == {"folds": 0}


def test_an_outcome_that_is_no_number_is_a_red_gate(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = pipeline.stage("class_counts")
    (gate,) = stage.gates
    nan = replace(stage, judge=lambda *_: [at_most(gate.rule, float("nan"), 1.0)])
    monkeypatch.setitem(pipeline.stages, "class_counts", nan)
    with pipeline.store.begin("class_counts") as run:
        run.write_json("class_counts.json", {})
    pipeline.judge(TARGET)
    receipt = pipeline.store.verified("class_counts").receipts()[gate.rule]
    assert (receipt.passed, receipt.value) == (False, "nan")


def test_a_partition_that_the_profile_does_not_have_is_refused(pipeline: Pipeline) -> None:
    teachers = {"RN18": pipeline.profile.teachers["RN18"]}
    profile = pipeline.profile.model_copy(update={"teachers": teachers})
    for asset in ("teacher", "teacher_logits", "teacher_bundle"):
        with refused("not-in-profile"):
            replace(pipeline, profile=profile).job(Target(asset, "B3"))
