"""Every cell of the matrix against its own predictions file, and what each number says it is of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.distillation.logits import read_logits
from fer_ml.evaluation import benchmark as benchmark_module
from fer_ml.evaluation.benchmark import measure_models
from fer_ml.evaluation.models import benchmark_models
from fer_ml.evaluation.sets import evaluation_set, set_names, size_group
from fer_ml.metrics.classification import (
    calibration_error_by_chance,
    classification_metrics,
    softmax,
)
from fer_ml.metrics.predictions import read_predictions
from fer_ml.metrics.resampling import mcnemar
from fer_ml.metrics.vector_scaling import fit_vector_scaling
from fer_ml.packed.packing import load_faces
from fer_ml.runs.logits import labels_of
from fer_ml.storage.artifact import Artifact
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import predict
from tests.fer_ml.evaluation.conftest import SPEC

MODELS = ["teacher_RN18", "ensemble", "student_ce", "student_kd", "student_dkd"]


@pytest.fixture(scope="module")
def benchmark(lineage: Any) -> Artifact:
    inputs = ["teacher_logits[RN18]", "ensemble", "student_ce", "student_kd", "student_dkd"]
    manifests = [f"{name}_manifest" for name in ("hq_train", "eval_only", "test_all_sources")]
    return lineage.made(
        measure_models, lineage.job("benchmark", [*inputs, *manifests]), "temperature"
    )


def test_each_cell_is_of_its_predictions_file(benchmark: Artifact) -> None:
    entries = benchmark.read_json("benchmark.json")["entries"]
    assert list(entries) == MODELS
    for model, cells in entries.items():
        assert len(cells) == 6
        for name, cell in cells.items():
            table, y, logits = read_predictions(benchmark.file(f"predictions/{model}__{name}.csv"))
            assert table.height == cell["n"]
            wanted = classification_metrics(y, logits)
            for key, value in wanted.items():
                assert cell["raw"][key] == pytest.approx(value, rel=1e-6), key
            scaled = classification_metrics(y, logits, cell["temperature"])
            assert cell["temperature_scaled"]["nll"] == pytest.approx(scaled["nll"])
            of_a = (table["source"] == "a").to_numpy()
            if of_a.any():
                wanted = classification_metrics(y[of_a], logits[of_a])
                assert cell["by_source"]["a"]["macro_f1"] == pytest.approx(wanted["macro_f1"])
            bounds = cell["intervals"]["raw"]["macro_f1"]
            assert bounds["low"] <= cell["raw"]["macro_f1"] <= bounds["high"]


def test_deduplicated_rows_are_those_without_a_twin(benchmark: Artifact, lineage: Any) -> None:
    held = benchmark.read_json("benchmark.json")
    cells = held["entries"]["student_kd"]
    first = [name.endswith(".deduplicated") for name in cells]
    assert first == [True, False] * 3, "what has no twin comes first"
    assert {name: (cell["rows"], cell["n"]) for name, cell in cells.items()} == {
        "hq_train_val": ("official", 28),
        "hq_train_val.deduplicated": ("deduplicated", 28),
        "eval_only": ("official", 16),
        "eval_only.deduplicated": ("deduplicated", 16),
        "test_all_sources": ("official", 56),
        "test_all_sources.deduplicated": ("deduplicated", 48),
    }
    assert held["same_rows"] == {
        "hq_train_val.deduplicated": "hq_train_val",
        "eval_only.deduplicated": "eval_only",
    }
    table, _, _ = read_predictions(
        benchmark.file("predictions/student_kd__test_all_sources.deduplicated.csv")
    )
    twins = lineage.frame.filter(pl.col("twin_in").is_not_null())["sample_id"]
    assert not set(table["sample_id"]) & set(twins)


def test_numbers_on_rows_that_chose_the_model_are_marked_everywhere(benchmark: Artifact) -> None:
    held = benchmark.read_json("benchmark.json")
    for model in MODELS:
        cells = held["entries"][model]
        assert cells["hq_train_val"]["selection_split"], f"{model} was selected on val"
        assert not cells["test_all_sources"]["selection_split"]
    assert held["entries"]["ensemble"]["hq_train_val"]["chosen_here"] == [
        "checkpoint of teacher_RN18"
    ]
    assert held["entries"]["student_ce"]["hq_train_val"]["chosen_here"] == [
        "checkpoint",
        "deployed student",
    ]
    for name in ("benchmark.csv", "pairs.csv", "slices.csv"):
        table = pl.read_csv(benchmark.file(name))
        marked = table.filter(pl.col("selection_split"))["set"].unique().sort().to_list()
        assert marked == ["hq_train_val", "hq_train_val.deduplicated"], name


def test_the_ledger_says_which_rows_chose_what(benchmark: Artifact, lineage: Any) -> None:
    ledger = benchmark.read_json("ledger.json")["models"]
    manifest = lineage.held["hq_train_manifest"].sha256
    student = ledger["student_ce"]["chosen"]
    assert {what: choice["split"] for what, choice in student.items()} == {
        "checkpoint": "val",
        "temperature": "calib",
        "deployed student": "val",
        "abstention thresholds": "calib",
    }
    assert ledger["ensemble"]["chosen"]["weights"] == {
        "split": "calib",
        "manifest": "hq_train_manifest",
        "manifest_sha256": manifest,
        "recorded_in": "ensemble",
    }
    assert ledger["teacher_RN18"]["chosen"]["checkpoint"]["recorded_in"] == "teacher[RN18]"
    best = lineage.held["student_ce"].record.files["best.pt"].sha256
    assert ledger["student_ce"]["checkpoint_sha256"] == best


def test_pairs_are_of_the_same_rows(benchmark: Artifact) -> None:
    table = pl.read_csv(benchmark.file("pairs.csv")).filter(
        (pl.col("set") == "test_all_sources")
        & (pl.col("model_a") == "ensemble")
        & (pl.col("model_b") == "student_dkd")
    )
    assert table["metric"].to_list() == ["accuracy", "macro_f1", "nll", "ece"]
    right = []
    for model in ("ensemble", "student_dkd"):
        path = benchmark.file(f"predictions/{model}__test_all_sources.csv")
        _, y, logits = read_predictions(path)
        right.append(logits.argmax(axis=1) == y)
    accuracy = table.row(0, named=True)
    assert accuracy["difference"] == pytest.approx(right[0].mean() - right[1].mean())
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    test = mcnemar(*right)
    found = (accuracy["mcnemar_only_a"], accuracy["mcnemar_only_b"], accuracy["mcnemar_p"])
    assert found == (test.only_a, test.only_b, test.p_value)


def test_a_model_that_sees_other_pixels_is_in_a_table_of_its_own(lineage: Any) -> None:
    held = lineage.held["ensemble"].read_json("ensemble.json")
    path: Path = lineage.held["ensemble"].file("ensemble.json")
    text = path.read_text()
    path.write_text(text.replace(held["preprocess_sha256"], "other"))
    found = lineage.made(measure_models, lineage.job("benchmark"), "temperature")
    path.write_text(text)
    tables = found.read_json("benchmark.json")["tables"]["test_all_sources"]
    assert [table["names"] for table in tables] == [
        [name for name in MODELS if name != "ensemble"],
        ["ensemble"],
    ]
    assert tables[1]["why_apart"][0].startswith("preprocess_sha256: ")
    pairs = pl.read_csv(found.file("pairs.csv"))
    assert "ensemble" not in {*pairs["model_a"], *pairs["model_b"]}


def test_brightness_is_cut_in_thirds_of_the_set(benchmark: Artifact) -> None:
    cells = benchmark.read_json("benchmark.json")["entries"]["ensemble"]
    rows = cells["test_all_sources"]["by"]["brightness"]["rows"]
    assert [row["value"] for row in rows] == ["1 darkest, to 60", "2 middle, to 120", "3 brightest"]
    assert sum(row["n"] for row in rows) == 56


def test_groups_of_people_are_compared_where_the_rows_know_them(
    benchmark: Artifact, lineage: Any
) -> None:
    cells = benchmark.read_json("benchmark.json")["entries"]["ensemble"]
    assert set(cells["hq_train_val"]["by"]) == {"source", "brightness", "size"}
    table = cells["test_all_sources"]["by"]["sex"]
    test = lineage.frame.filter(pl.col("split") == "test")
    logits = read_logits(lineage.held["ensemble"].folder).of(test["sample_id"].to_list())
    right = test.select("sex").with_columns(
        right=pl.Series(logits.argmax(axis=1)) == pl.Series(labels_of(test))
    )
    for row in table["rows"]:
        value = None if row["value"] == "(none)" else row["value"]
        own = right.filter(pl.col("sex").eq_missing(value))
        assert row["n"] == own.height
        assert row["metrics"]["accuracy"] == pytest.approx(own["right"].mean())
    assert [row["value"] for row in table["rows"]] == ["(none)", "female", "male"]


def test_an_adopted_run_is_measured_and_nobody_knows_what_chose_it(lineage: Any) -> None:
    lineage.train("adopted_model", 30, "friend")
    adopted = lineage.held.pop("adopted_model[friend]")
    job = replace(lineage.job("benchmark"), inputs={**lineage.held, adopted.key: adopted})
    models = {model.name: model for model in benchmark_models(job)}
    assert list(models) == [*MODELS, "adopted_friend"]
    friend = models["adopted_friend"]
    assert friend.chosen["checkpoint"].split == "unknown"
    assert friend.chosen["temperature"].split == "calib"
    assert friend.selected_on("hq_train_manifest", "val") == []
    test = lineage.frame.filter(pl.col("split") == "test")
    network = load_checkpoint(adopted.file(CHECKPOINT_FILE)).network()
    root = lineage.store.root
    faces = load_faces(test, root, SPEC, root / "cache")
    np.testing.assert_array_equal(friend.predict(test), predict(network, faces))


def test_each_manifest_of_test_rows_is_a_set(lineage: Any) -> None:
    job = lineage.job("benchmark")
    dark = {"dark_manifest": lineage.held["eval_only_manifest"]}
    job = replace(job, inputs={**job.inputs, **dark})
    assert set_names(job) == ["hq_train_val", "eval_only", "test_all_sources", "dark"]
    for name, manifest, split in (
        ("hq_train_val", "hq_train_manifest", "val"),
        ("test_all_sources", "test_all_sources_manifest", "test"),
    ):
        part = evaluation_set(job, name)
        assert (part.manifest, part.split, part.rows) == (manifest, split, "official")
        assert part.frame["split"].unique().to_list() == [split]
    with pytest.raises(FerError) as caught:
        evaluation_set(job, "bright")
    assert "bright_manifest" in caught.value.what


def test_vector_scaling_is_fitted_on_calib_and_applied_frozen(
    lineage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of random weights determine no vector scaling, so others answer in their place."""
    models = [
        replace(model, predict=lineage.noisy(seed))
        for seed, model in enumerate(benchmark_models(lineage.job("benchmark")))
    ]
    monkeypatch.setattr(benchmark_module, "benchmark_models", lambda job: models)
    found = lineage.made(measure_models, lineage.job("benchmark"), "vector")
    calib = lineage.frame.filter(pl.col("split") == "calib")
    y = np.array([CLASSES.index(label) for label in calib["label"]])
    (ensemble,) = [model for model in models if model.name == "ensemble"]
    wanted = fit_vector_scaling(ensemble.predict(calib), y)
    held = found.read_json("calibration/ensemble.json")
    assert list(held["weights"].values()) == pytest.approx(wanted.weights)
    assert list(held["bias"].values()) == pytest.approx(wanted.bias)
    assert held["nll"]["vector_scaled"] <= held["nll"]["temperature_scaled"]
    best = lineage.held["student_ce"].record.files["best.pt"].sha256
    assert found.read_json("calibration/student_ce.json")["checkpoint_sha256"] == best
    cell = found.read_json("benchmark.json")["entries"]["ensemble"]["test_all_sources"]
    _, y, logits = read_predictions(found.file("predictions/ensemble__test_all_sources.csv"))
    scaled = classification_metrics(y, wanted.apply(logits))
    assert cell["vector_scaled"]["ece"] == pytest.approx(scaled["ece"])
    assert cell["vector_scaled"]["nll"] == pytest.approx(scaled["nll"])
    by_chance = calibration_error_by_chance(softmax(logits, cell["temperature"]))
    assert cell["ece_by_chance"] == pytest.approx(by_chance)
    assert "ece_vector_low" in pl.read_csv(found.file("benchmark.csv")).columns


def test_faces_are_grouped_by_the_shorter_side_of_box_or_image() -> None:
    sides = [(23, None), (24, None), (47, None), (48, None), (300, 95), (300, 192)]
    rows = [{"width": image, "height": image + 5, "box": box} for image, box in sides]
    frame = pl.DataFrame(rows).select(
        "width",
        "height",
        pl.when(pl.col("box").is_not_null()).then(10).alias("bbox_left"),
        (pl.col("box") + 10).alias("bbox_right"),
        pl.when(pl.col("box").is_not_null()).then(0).alias("bbox_top"),
        (pl.col("box") + 3).alias("bbox_bottom"),
    )
    assert frame.select(size_group())["size"].to_list() == [
        "1 below 24 px",
        "2 24 to 47 px",
        "2 24 to 47 px",
        "3 48 to 95 px",
        "3 48 to 95 px",
        "5 192 px and more",
    ]
