"""What a gate shows of the two sides that it compares."""

import pytest

from fer_ml.storage.gates import same

A, B = "a1" * 32, "b2" * 32


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (3, "3"),
        (A, "a1a1a1a1a1a1"),
        ((A, B), "a1a1a1a1a1a1, b2b2b2b2b2b2"),
        (["Angry", "Sad"], "Angry, Sad"),
        ({"train": A}, "{'train': 'a1a1a1a1a1a1'}"),
        ("a1" * 31, "a1" * 31),
    ],
)
def test_both_sides_are_shown_shortly(found: object, shown: str) -> None:
    outcome = same("rule", found, found)
    assert (outcome.passed, outcome.value, outcome.limit) == (True, shown, shown)


def test_hashes_that_start_alike_still_differ() -> None:
    outcome = same("rule", A, A[:-1] + "2")
    assert outcome.passed is False
    assert outcome.value == outcome.limit
