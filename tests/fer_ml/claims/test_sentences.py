"""A sentence says what its claim holds, and no number besides."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.claims.model import ClaimsFile, read_claims
from fer_ml.claims.sentences import numbers_of, unbound
from tests.refusals import refused

ROOT = Path(__file__).parents[3]
NUMBER = {"kind": "number", "asset": "a", "file": "a.json", "pointer": "/a"}
NAMES = ("FER2013", "ResNet-18")


def why(sentence: str, **fields: Any) -> str | None:
    claim = {"id": "x", "sentence": sentence, **(fields or NUMBER)}
    held = ClaimsFile.model_validate(
        {"version": "2", "title": "T", "names": NAMES, "claims": [claim]}
    )
    return unbound(held.claims[0], held.names)


@pytest.mark.parametrize(
    "sentence",
    [
        "It has {value} rows.",
        "RN18's macro-F1 on FER2013 is {value}.",
        "The ResNet-18 of FER+ has {value}; one of its kind.",
    ],
)
def test_words_names_and_the_place_are_all(sentence: str) -> None:
    assert why(sentence) is None


@pytest.mark.parametrize(
    "text",
    [
        "99,999",
        "99.9%",
        "99.9 %",
        "-1",
        "1e6",
        "2/3",
        "48x48",
        "T=2",
        "10^3",
        "n2000",
        "FER2014",
        "\uff19\uff19",  # full width
        "\u0669\u0669",  # Arabic
        "\u00bd",  # a half
        "10\u207b\u00b3",
        "\u2168",  # a Roman nine
        "\u4e5d\u4e5d",  # Chinese
        "\U0001d7d7",  # a mathematical nine
        "9\u200b9",
        "&#57;&#57;",
        "ninety-nine",
        "Twice",
        "threefold",
        "half",
        "two thirds",
        "a dozen",
        "two hundred",
        "twenty\u2011one",  # a hyphen that does not break
        "\uff4eine",  # a full-width letter
        "ni\u00adne",  # a hyphen that shows at line ends
        "n\u0456ne",  # with a Cyrillic letter
        "tw\u03bf th\u043eusand",
        "a trillion",
        "three tenths",
        "ninetynine",
        "fivehundred",
        "two fifths",
        "a lakh",
        "\U0001f4af",
        "{value}9",
        "9{value}",
        "{value}  %",
        "{value}\u00a0%",
        "{value} \uff05",
        "{value}\u200b%",
        "{value}**%**",
        "{value} \u2031",
        "{value} per mille",
        "{value} basis points",
        "{value} k",
        "{value} dozen",
        "{value} pp",
        "{value}\u2011fold",
        "\u221a{value}",
        "minus {value}",
        "\u2013{value}",
    ],
)
def test_a_number_by_hand_is_found_in_every_form(text: str) -> None:
    assert why(f"Of {text} rows {{value}} are lost.") is not None


@given(st.integers(0, 10**9), st.sampled_from(["{}", "{:,}", "{}.5", "({})", "{}%", "'{}'", "x{}"]))
def test_no_integer_passes_unseen(number: int, form: str) -> None:
    assert list(numbers_of(form.format(number), ()))


def test_every_kind_needs_its_place() -> None:
    kd = {"asset": "student_kd"}
    for fields in (
        NUMBER,
        {"kind": "figure", **kd, "file": "a.png"},
        {"kind": "configuration", **kd, "settings": {"/epochs": "1"}},
        {"kind": "formula", **kd, "formula": "ce", "says": "CE"},
        {"kind": "range", "over": ["1", "2"], "low": "1", "high": "2"},
    ):
        assert "no place" in (why("It is so.", **fields) or "")
        assert why("It is {value}.", **fields) is None


def test_a_number_that_the_claim_is_held_to_may_stand() -> None:
    evaluation = {"manifest": "m", "split": "test", "n": 383}
    assert why("Of 383 faces {value} are right.", **NUMBER, evaluation=evaluation) is None
    assert why("Of 384 faces {value} are right.", **NUMBER, evaluation=evaluation)
    shares = {"kind": "proportion", "expected": "0.5", "n": "2"}
    assert why("It is {value} of two.", **shares) is None
    assert why("It is {value} of 4.", **shares, evaluation=evaluation)
    unheld = {"kind": "proportion", "expected": "0.5", "n": "2", "evaluation": evaluation}
    assert why("It is {value} of 383.", **unheld), "nobody held it against an artifact"
    settings = {"kind": "configuration", "asset": "a", "settings": {"/epochs": "20"}}
    assert why("20 epochs: {value}", **settings) is None
    says = {"kind": "formula", "asset": "a", "formula": "ce", "says": "CE", "symbols": {"b": "9"}}
    assert why("{value}, b = 9", **says), "the formula does not use b"


WORDS = """
zero 0 two 2 three 3 four 4 five 5 six 6 seven 7 eight 8 nine 9 ten 10 eleven 11 twelve 12
thirteen 13 fourteen 14 fifteen 15 sixteen 16 seventeen 17 eighteen 18 nineteen 19 twenty 20
thirty 30 forty 40 fifty 50 sixty 60 seventy 70 eighty 80 ninety 90 half 0.5 quarter 0.25
tenth 0.1 hundredth 0.01 thousandth 0.001 double 2 triple 3 quadruple 4 dozen 12 hundred 100
thousand 1000 million 1000000 billion 1000000000 trillion 1000000000000 percent 1% permille 0.001
"""


@pytest.mark.parametrize(
    ("word", "number"), list(zip(WORDS.split()[::2], WORDS.split()[1::2], strict=True))
)
def test_a_number_in_words_is_the_one_in_digits(word: str, number: str) -> None:
    stated = {"kind": "range", "over": [number, number], "low": number, "high": number}
    assert why(f"It is {{value}}, a {word} of it.", **stated) is None
    other = {**stated, "over": ["0.7", "0.7"], "low": "0.7", "high": "0.7"}
    assert why(f"It is {{value}}, a {word} of it.", **other) is not None


def test_labels_of_a_table_are_part_of_what_is_printed() -> None:
    table = {"kind": "table", "asset": "a", "file": "a.json", "columns": {"acc": "/a"}}
    assert why("{value}", **table, rows={"RN18": "/r"}) is None
    assert why("{value}", **table, rows={"RN18 0.99": "/r"})
    assert why("{value}", **{**table, "columns": {"acc 99%": "/a"}}, rows={"CE": "/r"})


@pytest.mark.parametrize("name", ["99", "99,9x", "0.9x", "x99999", "x 9", "48x48", "two"])
def test_a_name_is_no_number(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = (ROOT / "claims" / "sample.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("claims:\n", f"names: ['{name}']\nclaims:\n", 1), encoding="utf-8")
    with refused("invalid-claims-file"):
        read_claims(path)


@pytest.mark.parametrize("path", sorted((ROOT / "claims").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_projects_own_sentences_are_bound(path: Path) -> None:
    held = read_claims(path)
    assert {c.id: why for c in held.claims if (why := unbound(c, held.names))} == {}
