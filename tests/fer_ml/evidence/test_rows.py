"""Every number is given by its rows, computed in the browser, or the page says why not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from fer_ml.base.labels import CLASSES
from fer_ml.evidence.rows import KPIS, METRICS, evidence_of
from fer_ml.metrics.classification import RISKS
from fer_ml.metrics.predictions import read_predictions
from fer_ml.storage.store import Store
from tests.fer_ml.evidence.conftest import claim, put, verified

BENCH = ("benchmark", "benchmark.json")
OF_CE = "/entries/student_ce/mixed"
PATHS = (
    *(name for name in METRICS if name not in ("per_class_f1", "coverage_at_risk")),
    "per_class_f1/Happy",
    *(f"coverage_at_risk/{risk}" for risk in RISKS),
)


def place(asset: str, file: str, pointer: str = "", **more: Any) -> dict[str, Any]:
    return {"asset": asset, "file": file} | ({"pointer": pointer} if pointer else {}) | more


def of_metrics() -> list[dict[str, Any]]:
    made = [
        place(*BENCH, f"{OF_CE}/{scaling}/{path}")
        for scaling in ("raw", "temperature_scaled", "vector_scaled")
        for path in PATHS
    ]
    made += [place(*BENCH, f"{OF_CE}/by_source/a/{name}") for name in ("accuracy", "ece", "n")]
    run = ("teacher", "reliabilitymetrics.json")
    made += [place(*run, f"/{s}/nll", partition="RN18") for s in ("raw", "temperature_scaled")]
    return [*made, place(*BENCH, f"{OF_CE}/n"), place(*run, "/n", partition="RN18")]


def counts_and_differences() -> list[dict[str, Any]]:
    two = ("comparison/two", "comparison.json")
    whole = ("classification_manifest", "clean_report.json")
    judged = ("manifest_validation", "manifest_validation_all.json")
    pair = {"set": "mixed", "model_a": "student_ce", "model_b": "student_kd"}
    gap: dict[str, Any] = {"take": "mean", "column": "difference"}
    parts = ("rows_in", "rows_kept", "rows_excluded", "rows_quarantined")
    takes = ("sum", "mean", "min", "max")
    return [
        place(*two, "/arms/kd/macro_f1/mean"),
        place(*two, "/experiments/student_kd/ece"),
        place(*two, "/against_baseline/kd/nll/difference"),
        place(*two, "/steps/0/accuracy/difference"),
        place(*two, "/n"),
        *(
            place("benchmark", "pairs.csv", where=pair | {"metric": metric}, **gap)
            for metric in ("macro_f1", "ece")
        ),
        *(place("manifest/a", "clean_report.json", f"/reports/0/{part}") for part in parts),
        place(*whole, "/reports/0/rows_kept"),
        place(*whole, "/manifest/rows"),
        place(*whole, "/manifest/counts/0/rows"),
        place("hq_train_manifest", "curation.json", "/rows"),
        place(*judged, "/rows_total"),
        place(*judged, "/bad_labels"),
        place(*judged, "/counts/by_source/a"),
        place(whole[0], "classification_manifest.csv", take="count", where={"split": "val"}),
        *(place("hq_train_manifest", "hq_train.csv", take=t, column="width") for t in takes),
    ]


def key_figures() -> list[dict[str, Any]]:
    return [place("demo_kpis", "demo_kpis.json", f"/{key}") for key in KPIS]


def together(home: Store, places: list[dict[str, Any]]) -> dict[str, Any]:
    """All of them in one claim: the range that they span."""
    held = {"id": "x", "kind": "range", "sentence": "From {value}.", "over": places}
    held |= {"low": "0", "high": "0"}
    value = verified(home, held).claims[0].value
    assert isinstance(value, dict)
    return held | {side: f"{value[side]:.9f}" for side in ("low", "high")}


@pytest.mark.parametrize("group", [of_metrics, counts_and_differences, key_figures])
def test_the_browser_computes_what_the_lineage_wrote(
    group: Callable[[], list[dict[str, Any]]],
    home: Store,
    pages: Callable[..., Path],
    browser: Any,
) -> None:
    """Python's own figures are the oracle, of each kind of number that has rows."""
    places = group()
    folder = pages(together(home, places))
    browser.goto((folder / "claims" / "x.html").as_uri())
    browser.click("#again")
    browser.wait_for_selector("#told.good, #told.bad")
    assert browser.inner_text("#told").startswith("✓"), browser.inner_text(".numbers")
    assert "sha256" in browser.inner_text("#told")
    assert browser.locator(".numbers .good").count() == len(places)
    assert browser.faults == []


def sklearn_of(y: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """The figures as scikit-learn has them, and the calibration error as its definition reads."""
    probs = torch.softmax(torch.from_numpy(logits.astype(np.float64)), dim=1).numpy()
    says, top = probs.argmax(axis=1), probs.max(axis=1)
    bins = np.clip(np.ceil(top * 15) - 1, 0, 14)
    gaps = [abs(((says == y) - top)[bins == b].sum()) for b in range(15)]
    classes = list(range(len(CLASSES)))
    by_class = metrics.f1_score(y, says, labels=classes, average=None, zero_division=0)
    return {
        "accuracy": metrics.accuracy_score(y, says),
        "macro_f1": by_class.mean(),
        "per_class_f1/Happy": by_class[CLASSES.index("Happy")],
        "balanced_accuracy": metrics.balanced_accuracy_score(y, says),
        "nll": metrics.log_loss(y, probs, labels=classes),
        "brier": ((probs - np.eye(len(CLASSES))[y]) ** 2).sum(axis=1).mean(),
        "ece": sum(gaps) / len(y),
    }


@pytest.mark.parametrize("filtered", [False, True])
def test_the_browser_agrees_with_scikit_learn_whatever_rows_are_shown(
    home: Store, pages: Callable[..., Path], browser: Any, filtered: bool
) -> None:
    """A filter is for the eye: the number is computed of every row that the claim means."""
    held = home.current("benchmark")
    assert held
    _, y, logits = read_predictions(held.file("predictions/student_ce__mixed.csv"))
    wanted = sklearn_of(y, logits)
    places = [place(*BENCH, f"{OF_CE}/raw/{name}") for name in wanted]
    browser.goto((pages(together(home, places)) / "claims" / "x.html").as_uri())
    browser.wait_for_selector(".card")
    if filtered:
        browser.select_option("[name=source]", "a")
        browser.fill("[name=confidence]", "0.9")
        browser.wait_for_timeout(200)
    browser.click("#again")
    browser.wait_for_selector("#told.good, #told.bad")
    shown = [float(t[2:]) for t in browser.locator(".numbers td.good").all_inner_texts()]
    assert shown == pytest.approx(list(wanted.values()), rel=1e-6)
    assert browser.faults == []


def test_so_many_rows_that_no_call_takes_them_are_computed(
    home: Store, pages: Callable[..., Path], browser: Any
) -> None:
    """And a blank line is no row, as in Python."""
    text = "a,b\n\n" + '1,"x\n"\n' * 200_000
    put(home, "label_review", lambda run: run.write_text("many.csv", text))
    many = place("label_review", "many.csv", take="sum", column="a")
    folder = pages(together(home, [many, place("label_review", "many.csv", take="count")]))
    browser.goto((folder / "claims" / "x.html").as_uri())
    browser.click("#again")
    browser.wait_for_selector("#told.good, #told.bad")
    assert browser.locator(".numbers td.good").all_inner_texts() == ["✓ 200000"] * 2
    assert browser.faults == []


def test_rows_are_read_once_however_often_the_filter_changes(
    home: Store, pages: Callable[..., Path], browser: Any
) -> None:
    """Each change reads on, while the one before is still at it."""
    text = "a,b\n" + "".join(f"{i},{'y' * 200}\n" for i in range(30_000))
    put(home, "label_review", lambda run: run.write_text("many.csv", text))
    count = claim("x", "label_review", "many.csv", take="count") | {"decimals": 0}
    folder = pages(count)
    browser.goto((folder / "claims" / "x.html").as_uri())
    browser.wait_for_selector(".list tbody tr")
    browser.locator("[name=text]").press_sequentially("1999")
    browser.wait_for_selector("text=/^[\\d,]+ rows of 30,000$/")
    wanted = sum("1999" in str(i) for i in range(30_000))
    assert browser.inner_text(".told") == f"{wanted} rows of 30,000"
    assert browser.faults == []


def test_a_slice_that_is_missing_is_told(
    home: Store, pages: Callable[..., Path], browser: Any
) -> None:
    folder = pages(claim("x", *BENCH, f"{OF_CE}/raw/accuracy"))
    for path in (folder / "data").glob("*.0.js"):
        path.unlink()
    browser.goto((folder / "claims" / "x.html").as_uri())
    browser.wait_for_selector(".told.bad >> text=is not here")
    browser.click("#again")
    browser.wait_for_selector("#told.bad")
    assert browser.locator(".numbers .good").count() == 0
    browser.faults.clear()  # Of the files that are not there.


def test_a_changed_row_is_not_the_printed_number(
    home: Store, pages: Callable[..., Path], browser: Any
) -> None:
    """Neither the number nor the bytes."""
    folder = pages(claim("x", *BENCH, f"{OF_CE}/raw/accuracy"))
    for path in (folder / "data").glob("*.js"):
        text = path.read_text()
        if "logit_" in text:
            path.write_text(text.replace(",Angry,", ",Happy,"))
    browser.goto((folder / "claims" / "x.html").as_uri())
    browser.click("#again")
    browser.wait_for_selector("#told.good, #told.bad")
    told = browser.inner_text("#told")
    assert told.startswith("✗") and "predictions/student_ce__mixed.csv" in told


WITHOUT: Mapping[str, dict[str, Any]] = {
    "interval": claim("x", *BENCH, f"{OF_CE}/intervals/raw/macro_f1/low"),
    "stated": claim("x", *BENCH, f"{OF_CE}/temperature"),
    "delay": claim("x", "demo_kpis", "demo_kpis.json", "/lasting_changes", decimals=0),
    "looked at": claim(
        "x", "manifest_validation", "manifest_validation_all.json", "/missing_paths", decimals=0
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_number_without_rows_says_why(home: Store, name: str) -> None:
    found = evidence_of(home, verified(home, WITHOUT[name]).claims)["x"]
    assert found.resolved.status == "grounded"
    assert [figure.formula for figure in found.figures] == [None]
    assert found.figures[0].why
    assert found.rows == ()


def test_a_comparison_has_the_numbers_of_its_two_sides(home: Store) -> None:
    sides = [claim(n, *BENCH, f"/entries/student_{n}/mixed/raw/macro_f1") for n in ("ce", "kd")]
    above = {"id": "x", "kind": "comparison", "sentence": "{value}", "left": "ce", "right": "kd"}
    above |= {"relation": "at_least"}
    found = evidence_of(home, verified(home, *sides, above).claims)
    assert found["x"].figures == (*found["ce"].figures, *found["kd"].figures)
    assert [name for _, name in found["x"].files()] == [
        "benchmark.json",
        "predictions/student_ce__mixed.csv",
        "predictions/student_kd__mixed.csv",
    ]


def test_the_interval_beside_a_number_is_shown(home: Store) -> None:
    held = verified(home, claim("x", *BENCH, f"{OF_CE}/raw/macro_f1"))
    assert evidence_of(home, held.claims)["x"].figures[0].interval == (0.25, 0.5)
