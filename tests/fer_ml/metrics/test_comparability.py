"""Numbers share a table only when everything that they are of is the same."""

from typing import Any

import pytest

from fer_ml.metrics.comparability import (
    Table,
    comparable,
    require_one_table,
    split_tables,
    tables_of,
)
from tests.refusals import refused

ENTRY: dict[str, Any] = {
    "model_sha256": "m1",
    "manifest": "hq_train_manifest",
    "manifest_sha256": "a" * 64,
    "split": "val",
    "rows": "official",
    "n": 100,
    "preprocess_sha256": "p" * 64,
    "views": "centre",
    "selection_split": True,
    "temperature": 1.5,
}


def test_two_models_on_the_same_rows_are_comparable() -> None:
    assert comparable(ENTRY, {**ENTRY, "model_sha256": "m2", "temperature": 3.0}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("manifest_sha256", "b" * 64),
        ("split", "test"),
        ("rows", "deduplicated"),
        ("n", 99),
        ("preprocess_sha256", "q" * 64),
        ("views", "flip"),
        ("selection_split", False),
    ],
)
def test_each_difference_is_named_with_both_sides(key: str, value: object) -> None:
    other = {**ENTRY, key: value}
    assert comparable(ENTRY, other) == [f"{key}: {ENTRY[key]} and {value}"]
    assert comparable(other, ENTRY) == [f"{key}: {value} and {ENTRY[key]}"]


def test_all_differences_are_listed() -> None:
    assert len(comparable(ENTRY, {**ENTRY, "split": "test", "n": 1})) == 2


def test_entries_are_split_into_the_tables_that_may_be_and_say_why() -> None:
    other = {**ENTRY, "preprocess_sha256": "q" * 64}
    entries = {"a": ENTRY, "b": other, "c": {**ENTRY, "temperature": 2.0}, "d": dict(other)}
    assert split_tables(entries) == [
        Table(("a", "c"), ()),
        Table(("b", "d"), (f"preprocess_sha256: {'p' * 64} and {'q' * 64}",)),
    ]
    assert split_tables({"a": ENTRY}) == [Table(("a",), ())]


def test_one_table_over_incomparable_entries_is_refused_with_the_reasons() -> None:
    require_one_table({"a": ENTRY, "b": dict(ENTRY)})
    entries = {"a": ENTRY, "b": {**ENTRY, "rows": "deduplicated", "n": 90}}
    with refused("not-comparable", where="compared with a") as caught:
        require_one_table(entries)
    assert "b: rows: official and deduplicated, n: 100 and 90" in caught.value.what


def test_a_benchmark_is_told_in_comparable_tables_that_say_what_they_are_of() -> None:
    chosen, test = ENTRY, {**ENTRY, "split": "test", "n": 1200, "selection_split": False}
    other = {**test, "views": "flip"}
    held = {
        "entries": {"a": {"v": chosen, "t": test, "t.d": test}, "b": {"v": chosen, "t": other}},
        "tables": {"v": [], "t": [], "t.d": []},
        "same_rows": {"t.d": "t"},
    }
    assert [(caption, list(cells)) for caption, cells in tables_of(held)] == [
        ("v: val, n = 100; models were selected on these rows", ["a", "b"]),
        ("t: test, n = 1,200", ["a"]),
        ("t: test, n = 1,200; apart because of views: centre and flip", ["b"]),
    ]
