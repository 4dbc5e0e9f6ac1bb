"""The benchmark as tables that may be compared within."""

import pytest

from fer_ml.report.results import interval_of, results_of
from tests.refusals import refused

BASE = {
    "manifest_sha256": "a",
    "split": "test",
    "rows": "official",
    "n": 4,
    "preprocess_sha256": "p",
    "views": "centre",
    "selection_split": False,
}


@pytest.mark.parametrize("key", sorted(BASE))
def test_models_that_differ_in_what_they_are_measured_on_stand_apart(key: str) -> None:
    other = {**BASE, key: "other"}
    benchmark = {"entries": {"a": {"s": BASE}, "b": {"s": other}, "c": {"s": BASE}, "d": {}}}
    first, second = results_of(benchmark, "s")
    assert (list(first.entries), first.apart) == (["a", "c"], ())
    assert list(second.entries) == ["b"]
    assert second.apart == (f"{key}: {BASE[key]} and other",)


def test_an_unknown_set_names_the_known_ones() -> None:
    with refused("unknown-test-set") as caught:
        results_of({"entries": {"a": {"s": BASE, "t": BASE}}}, "x")
    assert caught.value.allowed == "s, t"


def test_intervals_are_shown_where_there_are_some() -> None:
    assert interval_of({"raw": {"macro_f1": 0.5}}, "raw", "macro_f1") is None
    held = {"intervals": {"raw": {"macro_f1": {"low": 0.4, "high": 0.6}}}}
    assert interval_of(held, "raw", "macro_f1") == (0.4, 0.6)
