"""``prediction_review``: rows that were held out, and that the ensemble contradicts."""

import polars as pl

from fer_assets.stage import Given
from fer_assets.stages.prediction_review import HELD_OUT, stages
from fer_ml.recipes.builtin import sample
from tests.fer_assets.stages.manifests import made
from tests.fer_ml.evaluation.conftest import Lineage


def test_its_files(lineage: Lineage) -> None:
    (stage,) = stages(Given(sample()))
    artifact = made(stage, sample(), lineage.store, {})
    rows = pl.read_csv(artifact.file("review.csv"))
    held_out = lineage.frame.filter(
        pl.col("split").is_in(list(HELD_OUT)), pl.col("split") != "test"
    )["sample_id"]
    assert 0 < artifact.record.summary["rows"] == rows.height < len(held_out)
    assert artifact.record.summary["held_out_rows"] == len(held_out)
    assert rows["sample_id"].is_in(held_out.implode()).all()
    assert (rows["label"] != rows["predicted"]).all()
    assert rows["self_confidence"].is_sorted()
