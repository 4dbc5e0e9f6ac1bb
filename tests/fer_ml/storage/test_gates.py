"""What a gate shows of the two sides that it compares."""

import pytest

from fer_ml.storage.gates import Gate, at_least, at_most, none_found, not_applicable, same, word_of
from tests.refusals import refused

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


def test_a_limit_itself_passes() -> None:
    assert [at_most("rule", value, 2).passed for value in (1, 2, 3)] == [True, True, False]
    assert [at_least("rule", value, 2).passed for value in (1, 2, 3)] == [False, True, True]
    assert at_most("rule", 9, 2, examples="abcdefg").examples == tuple("abcde")


def test_what_must_find_nothing_counts_and_shows_what_it_found() -> None:
    clean, found = none_found("rule", []), none_found("rule", list("abcd"))
    assert (clean.passed, clean.value, clean.limit, clean.detail) == (True, 0, 0, "")
    assert (found.passed, found.value, found.limit, found.detail) == (False, 4, 0, "a; b; c")


def test_a_verdict_has_one_of_three_words() -> None:
    assert [word_of(passed) for passed in (True, False, None)] == [
        "passed",
        "failed",
        "not applicable",
    ]
    outcome = not_applicable("rule", "why")
    assert (outcome.passed, outcome.value, outcome.detail) == (None, "not applicable", "why")


@pytest.mark.parametrize("rule", ["", "a b", "A", "a/b", "a.json"])
def test_a_gate_is_named_as_a_file_can_be(rule: str) -> None:
    with refused("invalid-gate-name"):
        Gate(rule, "asks", "fix")
    assert Gate("a_1", "asks", "fix").blocking
