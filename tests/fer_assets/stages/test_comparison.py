"""A comparison's figures against its predictions, and its gate against what was trained."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_assets.stages.comparison import build_comparison, differing, gate_comparison
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.predictions import read_predictions
from fer_ml.recipes.profiles import KD, Comparison
from fer_ml.storage.store import Artifact

ARMS = {"ce": ("ce", "ce_2", "ce_3"), "kd": ("kd", "kd_2", "kd_3"), "dkd": ("d", "d_2", "d_3")}


@pytest.fixture(scope="module")
def compared(lineage: Any) -> Artifact:
    """Nine random networks; the records say that they are of equal trainings."""
    profile = lineage.profile
    kd = replace(profile.experiments["ce"], task=KD())
    experiments = dict(profile.experiments)
    for number, name in enumerate(name for arm in ARMS.values() for name in arm):
        base = experiments["ce"] if name.startswith("ce") else kd
        experiments[name] = replace(base, seed=number % 3)
        lineage.train("student_experiment", 20 + number, name, t=1.0 + number / 10)
        artifact = lineage.held[f"student_experiment[{name}]"]
        recipe = {"training": json.loads(json.dumps(asdict(experiments[name])))}
        record = artifact.record.model_copy(update={"recipe": recipe})
        (artifact.folder / "record.json").write_text(record.model_dump_json())
    comparison = Comparison(arms=ARMS, baseline="ce", rows="deduplicated")
    lineage.profile = profile.model_copy(
        update={"experiments": experiments, "comparisons": {"it": comparison}}
    )
    inputs = [f"student_experiment[{name}]" for arm in ARMS.values() for name in arm]
    job = lineage.job("comparison/it", [*inputs, "test_all_sources_manifest"])
    return lineage.made(build_comparison, job)


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
        assert gap["low"] <= gap["difference"] <= gap["high"] and 0 < gap["p_value"] <= 1
    assert [(step["before"], step["arm"]) for step in held["steps"]] == [
        ("ce", "kd"),
        ("kd", "dkd"),
    ]
    assert held["steps"][1]["accuracy"]["difference"] == pytest.approx(mean["dkd"] - mean["kd"])
    assert held["arms"]["ce"]["differs"] == {} and set(held["arms"]["kd"]["differs"]) == {"task"}


def test_the_table_has_a_row_for_each_arm_and_metric(compared: Artifact) -> None:
    table = pl.read_csv(compared.file("comparison.csv"))
    assert table.height == 3 * 4
    held = compared.read_json("comparison.json")
    row = table.filter((pl.col("arm") == "dkd") & (pl.col("metric") == "nll")).row(0, named=True)
    assert row["to_previous_difference"] == held["steps"][1]["nll"]["difference"]
    assert row["to_baseline_p_value"] == held["against_baseline"]["dkd"]["nll"]["p_value"]
    assert table.filter(pl.col("arm") == "ce")["to_baseline_low"].null_count() == 4
    assert compared.file("comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_the_gate_looks_at_what_was_trained(compared: Artifact, lineage: Any) -> None:
    def failed() -> set[str]:
        outcomes = gate_comparison(compared, lineage.store, lineage.profile)
        return {outcome.rule for outcome in outcomes if not outcome.passed}

    assert failed() == set()
    path = lineage.held["student_experiment[d_2]"].folder / "record.json"
    text = path.read_text()
    path.write_text(text.replace('"strength":0.3', '"strength":0.9'))
    assert path.read_text() != text
    assert failed() == {"arms_equal_as_declared"}
    path.write_text(text.replace(lineage.held["hq_train_manifest"].sha256, "0" * 64))
    assert path.read_text() != text
    assert failed() == {"arms_equal_as_declared"}
    path.write_text(text)
    path = compared.file("predictions/kd.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert failed() == {"every_row_scored"}


def test_what_differs_is_told_but_for_the_seed(lineage: Any) -> None:
    a = lineage.profile.experiments["ce"]
    assert differing(a, replace(a, seed=9)) == {}
    assert differing(a, replace(a, lr=0.5, seed=9)) == {"lr": 0.5}
