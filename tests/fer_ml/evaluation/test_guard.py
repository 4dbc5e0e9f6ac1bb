"""Numbers share a table only when everything that they are of is the same."""

from typing import Any

import pytest

from fer_ml.evaluation.guard import comparable

ENTRY: dict[str, Any] = {
    "model_sha256": "m1",
    "manifest": "hq_train_manifest",
    "manifest_sha256": "a" * 64,
    "split": "val",
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
