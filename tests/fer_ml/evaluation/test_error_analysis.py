"""What models get wrong, counted by hand."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score

from fer_ml.evaluation.benchmark import measure_models
from fer_ml.evaluation.error_analysis import agreement, analyse_errors, worst_source
from fer_ml.metrics.classification import log_softmax
from fer_ml.metrics.predictions import read_predictions
from fer_ml.storage.artifact import Artifact


def test_agreement_against_sklearn_and_the_definition() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (log_softmax(rng.normal(size=(200, 7)) * 2) for _ in range(2))
    found = agreement(ours, theirs)
    a, b = ours.argmax(axis=1), theirs.argmax(axis=1)
    assert found["same"] == pytest.approx((a == b).mean())
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b))
    each = [
        sum(np.exp(q) * (q - p) for p, q in zip(one, two, strict=True))
        for one, two in zip(ours, theirs, strict=True)
    ]
    assert found["kl"] == pytest.approx(np.mean(each))
    assert agreement(ours, ours) == {"same": 1.0, "kappa": 1.0, "kl": 0.0}
    one_class = np.log(np.tile([0.4, *[0.1] * 6], (5, 1)))
    assert agreement(one_class, one_class)["kappa"] is None


def test_the_worst_source_by_hand() -> None:
    """b has more of class 1, which is hard everywhere, and is worse at class 0 too."""
    rows = [
        # source, label, rows, of these right
        ("a", 0, 60, 54),
        ("a", 1, 20, 10),
        ("b", 0, 10, 6),
        ("b", 1, 30, 12),
        ("c", 0, 5, 0),
    ]
    source, y, predicted = [], [], []
    for name, label, count, right in rows:
        source += [name] * count
        y += [label] * count
        predicted += [label] * right + [5] * (count - right)
    count = len(y)
    frame = pl.DataFrame(
        {
            "source": source,
            "width": [48] * count,
            "height": [60] * count,
            "bbox_left": [10 if name == "b" else None for name in source],
            "bbox_right": [40 if name == "b" else None for name in source],
            "bbox_top": [0 if name == "b" else None for name in source],
            "bbox_bottom": [44 if name == "b" else None for name in source],
            "brightness": [100.0 if name == "b" else 130.0 for name in source],
        }
    )
    found = worst_source(frame, np.array(y), np.array(predicted))
    assert found is not None
    assert (found["source"], found["n"]) == ("b", 40), "c has too few rows"
    assert found["accuracy"] == pytest.approx(18 / 40)
    assert found["accuracy_elsewhere"] == pytest.approx(64 / 85)
    # Elsewhere: recall of class 0 is 54/65, of class 1 10/20.
    expected = 10 / 40 * 54 / 65 + 30 / 40 * 10 / 20
    assert found["by_class_mix"] == pytest.approx(64 / 85 - expected)
    assert found["unexplained"] == pytest.approx(expected - 18 / 40)
    assert (found["brightness"], found["brightness_elsewhere"]) == (100, 130)
    assert (found["median_side_px"], found["median_side_px_elsewhere"]) == (30, 48)
    only = frame["source"] == "a"
    kept = only.to_numpy()
    assert worst_source(frame.filter(only), np.array(y)[kept], np.array(predicted)[kept]) is None


@pytest.fixture(scope="module")
def analysed(lineage: Any) -> Artifact:
    benchmark = lineage.made(measure_models, lineage.job("benchmark"), "temperature")
    lineage.held["benchmark"] = benchmark
    job = lineage.job("error_analysis", ["benchmark", "test_all_sources_manifest"])
    return lineage.made(analyse_errors, job)


def test_cases_and_confusions_are_those_of_the_predictions(
    analysed: Artifact, lineage: Any
) -> None:
    held = analysed.read_json("error_analysis.json")
    assert list(held["models"]) == ["student_dkd", "student_kd", "student_ce", "ensemble"]
    assert held["models"]["ensemble"]["agreement"]["kl"] == 0
    benchmark = lineage.held["benchmark"]
    cases = pl.read_csv(analysed.file("cases.csv"))
    confusions = pl.read_csv(analysed.file("confusions.csv"))
    for name, found in held["models"].items():
        path = benchmark.file(f"predictions/{name}__test_all_sources.csv")
        table, y, logits = read_predictions(path)
        cell = benchmark.read_json("benchmark.json")["entries"][name]["test_all_sources"]
        probs = np.exp(log_softmax(logits, cell["temperature"]))
        wrong = probs.argmax(axis=1) != y
        assert found["mistakes"] == wrong.sum()
        assert confusions.filter(pl.col("model") == name)["count"].sum() == wrong.sum()
        own = cases.filter(pl.col("model") == name)
        surest = own.filter(pl.col("kind") == "confident_mistakes")
        assert surest["confidence"].to_list() == pytest.approx(
            sorted(probs.max(axis=1)[wrong], reverse=True)[:24]
        )
        order = np.sort(probs, axis=1)
        ambiguous = own.filter(pl.col("kind") == "ambiguous")
        assert ambiguous["margin"].to_list() == pytest.approx(
            sorted(order[:, -1] - order[:, -2])[:24]
        )
        place = table["sample_id"].to_list().index(ambiguous["sample_id"][0])
        assert ambiguous["predicted"][0] == table["y_pred"][place]


def test_faces_stay_in_the_artifact_and_the_page_needs_nothing_else(analysed: Artifact) -> None:
    page = analysed.file("error_analysis.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") > 100
    sheets = [name for name in analysed.record.files if name.endswith(".png")]
    assert len(sheets) == 8 and all(name.startswith("faces/") for name in sheets)


def test_labels_in_doubt_go_back_in_the_data_layers_form(analysed: Artifact) -> None:
    held = analysed.read_json("error_analysis.json")["label_noise"]
    review = pl.read_csv(analysed.file("review.csv"))
    assert review.height == held["contradicted"]
    assert review["likely_error"].sum() == held["likely_errors"]
    assert (review["label"] != review["predicted"]).all()
