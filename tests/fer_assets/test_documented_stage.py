"""The stage that docs/architecture.md shows is found, made and judged, as it stands there."""

import sys
from pathlib import Path

import pytest

import fer_assets.stages
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_ml.base.errors import FerError
from tests.fer_assets.conftest import OpenProject

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
    with pytest.raises(FerError, match="hq_train_manifest"):
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
