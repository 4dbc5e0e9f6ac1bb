"""A comparison's figures against its predictions, and its gate against what was trained."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.evaluation.comparison import ONE_RUN, compare_arms, differing
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.predictions import read_predictions
from fer_ml.metrics.resampling import holm
from fer_ml.recipes.profile import Comparison
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.looks import LOOKS_FILE, SETS_FILE, note_look
from tests.fer_ml.evaluation.conftest import ARMS, RECIPE

TEST_SET = "test_all_sources_manifest"


@pytest.fixture(scope="module")
def compared(lineage: Any) -> Artifact:
    """Nine random networks; the records say that they are of equal trainings."""
    trainings = lineage.train_arms()
    inputs = [f"student_experiment[{name}]" for name in trainings]
    job = lineage.job("comparison/it", [*inputs, "test_all_sources_manifest"])
    comparison = Comparison(arms=ARMS, baseline="ce", rows="deduplicated")
    return lineage.made(compare_arms, job, comparison, trainings)


def measured(compared: Artifact, name: str) -> dict[str, float]:
    held = compared.read_json("comparison.json")["experiments"][name]
    _, y, logits = read_predictions(compared.file(f"predictions/{name}.csv"))
    return classification_metrics(y, logits, held["temperature"])


def test_means_and_spreads_are_those_of_the_runs(compared: Artifact) -> None:
    held = compared.read_json("comparison.json")
    assert held["n"] == 48 and held["rows"] == "deduplicated"
    assert held["caption"] == "test_all_sources.deduplicated: test, n = 48"
    for arm, names in ARMS.items():
        runs = [measured(compared, name) for name in names]
        for metric in ("macro_f1", "accuracy", "nll", "ece"):
            values = np.array([run[metric] for run in runs])
            found = held["arms"][arm][metric]
            assert found["mean"] == pytest.approx(values.mean(), rel=1e-6)
            assert found["spread"] == pytest.approx(values.std(ddof=1), rel=1e-5)
            assert found["low"] < found["high"]


def test_differences_are_to_the_baseline_and_to_the_arm_before(compared: Artifact) -> None:
    held = compared.read_json("comparison.json")
    mean = {arm: found["accuracy"]["mean"] for arm, found in held["arms"].items()}
    assert set(held["against_baseline"]) == {"kd", "dkd"}
    for arm, gaps in held["against_baseline"].items():
        gap = gaps["accuracy"]
        assert gap["difference"] == pytest.approx(mean[arm] - mean["ce"])
        assert gap["low"] <= gap["difference"] <= gap["high"]
        assert 0 < gap["p_value"] <= gap["p_holm"] <= 1
    assert [(step["before"], step["arm"]) for step in held["steps"]] == [
        ("ce", "kd"),
        ("kd", "dkd"),
    ]
    assert held["steps"][1]["accuracy"]["difference"] == pytest.approx(mean["dkd"] - mean["kd"])
    assert held["arms"]["ce"]["differs"] == {} and set(held["arms"]["kd"]["differs"]) == {"task"}


def test_p_values_are_corrected_for_the_pairs_that_are_shown(compared: Artifact) -> None:
    """kd - ce is shown twice and is one test: three of them for each metric."""
    held = compared.read_json("comparison.json")
    against, steps = held["against_baseline"], held["steps"]
    assert held["tests"] == 3 and held["runs"] == 3
    for metric in ("macro_f1", "accuracy", "nll", "ece"):
        gaps = [against["kd"][metric], against["dkd"][metric], steps[1][metric]]
        assert [gap["p_holm"] for gap in gaps] == holm([gap["p_value"] for gap in gaps])
        assert steps[0][metric] == gaps[0]
        for gap in gaps:
            sign = "higher" if gap["difference"] > 0 else "lower"
            assert gap["verdict"] == (sign if gap["p_holm"] < 0.05 else "undecided")


def test_one_run_a_side_has_no_interval_and_no_verdict(lineage: Any) -> None:
    """A difference of two networks says nothing of the methods."""
    trainings = lineage.train_arms()
    job = lineage.job(
        "comparison/one", ["student_experiment[ce]", "student_experiment[kd]", TEST_SET]
    )
    comparison = Comparison(arms={"ce": ("ce",), "kd": ("kd",)}, baseline="ce", seeds=1)
    found = lineage.made(compare_arms, job, comparison, trainings)
    held = found.read_json("comparison.json")
    unknown = {"low": None, "high": None, "p_value": None, "p_holm": None}
    for gap in (held["against_baseline"]["kd"]["nll"], held["steps"][0]["nll"]):
        assert unknown.items() <= gap.items() and gap["verdict"] == ONE_RUN
        assert isinstance(gap["difference"], float)
    arm = held["arms"]["kd"]["macro_f1"]
    assert (arm["spread"], arm["low"], arm["high"]) == (None, None, None)
    assert held["runs"] == 1
    table = pl.read_csv(found.file("comparison.csv")).filter(pl.col("arm") == "kd")
    assert set(table["to_baseline_verdict"]) == {ONE_RUN}


def test_a_decision_after_a_look_is_marked(compared: Artifact, lineage: Any) -> None:
    home = lineage.store.root.parent
    about = {"profile": "p", "asset": "benchmark", "run_id": None, "plan": None}
    note_look(home, compared.read_json(SETS_FILE), decisions={"student_ce": "0"}, **about)
    try:
        job = lineage.job(
            "comparison/late", ["student_experiment[ce]", "student_experiment[kd]", TEST_SET]
        )
        comparison = Comparison(arms={"ce": ("ce",), "kd": ("kd",)}, baseline="ce", seeds=1)
        made = lineage.made(
            compare_arms,
            replace(job, decisions={"student_ce": "1"}),
            comparison,
            lineage.train_arms(),
        )
    finally:
        (home / LOOKS_FILE).unlink()
    held = made.read_json("comparison.json")
    assert held["looked_before"]["decided"] == ["student_ce"]
    assert held["caption"].endswith("student_ce decided after")


def test_the_table_has_a_row_for_each_arm_and_metric(compared: Artifact) -> None:
    table = pl.read_csv(compared.file("comparison.csv"))
    assert table.height == 3 * 4
    held = compared.read_json("comparison.json")
    row = table.filter((pl.col("arm") == "dkd") & (pl.col("metric") == "nll")).row(0, named=True)
    assert row["to_previous_difference"] == held["steps"][1]["nll"]["difference"]
    assert row["to_baseline_p_value"] == held["against_baseline"]["dkd"]["nll"]["p_value"]
    assert table.filter(pl.col("arm") == "ce")["to_baseline_low"].null_count() == 4
    assert compared.file("comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_what_differs_is_told_but_for_the_seed() -> None:
    assert differing(RECIPE, replace(RECIPE, seed=9)) == {}
    assert differing(RECIPE, replace(RECIPE, lr=0.5, seed=9)) == {"lr": 0.5}
