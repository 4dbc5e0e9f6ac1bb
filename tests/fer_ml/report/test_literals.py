"""Numbers of a template's prose: found with their place, unless something covers them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.report.literals import find_uncovered, numbers_in

VALUES = {
    "rows": 2085,
    "acc": 0.733681,
    "name": "x",
    "none": None,
    "range": {"lowest": 0.7808, "highest": 0.791},
    "yes": True,
}


def found(source: str) -> list[str]:
    return [item.text for item in find_uncovered(source, VALUES)]


def test_line_and_column_are_those_of_the_template() -> None:
    source = "# Title\n\n{# 99 #}It runs at {{ claim('rows') }} and 25 frames.\n"
    (item,) = find_uncovered(source, VALUES)
    assert (item.line, item.column, item.kind, item.text) == (3, 44, "number", "25")
    assert source.split("\n")[2][43:45] == "25"


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("There are 2,085 rows, 0.5 of them 48x48, at 25FPS.", ["2,085", "0.5", "48", "25"]),
        ("On 2026-11-24, with 1e-5 and .5 and -3.", ["2026-11-24", "1e-5", ".5", "3"]),
        ("**7** classes; T=2, alpha=0.5", ["7", "2", "0.5"]),
        ("| a | 0.75 |\n| --- | --- |\n| b | 3 |", ["0.75", "3"]),
        (
            "In $T = 2$ and $\\alpha=0.5$: $L = (1-\\alpha)\\frac{1}{n}\\sum_{i=1}^n x^2$",
            ["2", "0.5"],
        ),
        ("{% if drawn %}\n12 faces\n{% endif %}\n{% set x %}13{% endset %}", ["12", "13"]),
        ("{% raw %}{{ 14 }}{% endraw %} and {{- drawn -}} 15", ["14", "15"]),
        ("[see 16](https://e.org/17) [18, 19]", ["16"]),
    ],
)
def test_numbers_of_prose(source: str, numbers: list[str]) -> None:
    assert found(source) == numbers


@pytest.mark.parametrize(
    "source",
    [
        "## 4.1 Results\n\n1. first\n2) second\n\n> 3. third",
        "RN18, FER2013, ResNet-18, macro-F1, img224, 3D, the 1st of them",
        "Table 3, Figures 4 and 5, Sections 1\u20139, Fig. 2, Eq. (7), appendix 2",
        "`0.82` and ``1 ` 2``\n\n```\n0.82\n```\n\n    indented 3",
        "<https://e.org/7> and https://e.org/8 and [text](page9.md '10')",
        "as shown [3], [4, 5] and [6-8]",
        "{{ value('a', 'b.json', '/c/0', decimals=3) }}{# 12 #}{% if 3 > 2 %}x{% endif %}",
    ],
)
def test_what_is_no_number_of_the_prose(source: str) -> None:
    assert found(source) == []


def test_a_claim_covers_its_value_in_its_own_paragraph() -> None:
    assert found("Of 2,085 rows\nnone is lost {{ claim('rows').mark }}.") == []
    assert found("It is right on 0.73, that is 73.4% {{ claim('acc').mark }}.") == []
    assert found("Of 2,086 rows {{ claim('rows').mark }}.") == ["2,086"]
    assert found("Of 2,085 rows.\n\nElsewhere {{ claim('rows') }}") == ["2,085"]
    assert found("- Of 2,085 rows.\n- Elsewhere {{ claim('rows') }}") == ["2,085"]
    assert found("From 0.78 to 0.791, not 0.77 {{ claim('range').mark }}.") == ["0.77"]
    assert found("{# claim('rows') #}") == []
    assert found("1 {{ claim('yes') }}") == ["1"]
    assert found("5 {{ claim('name') }} {{ claim('none') }} {{ claim('other') }}") == ["5"]


def test_a_value_that_changed_uncovers_its_number() -> None:
    source = "Of 2,085 rows {{ claim('rows').mark }}."
    assert [item.text for item in find_uncovered(source, {"rows": 2084})] == ["2,085"]


def test_a_picture_that_is_no_reference_is_found() -> None:
    (item,) = find_uncovered("\n![made up](figure.png)\n", {})
    assert (item.line, item.column, item.kind) == (2, 1, "figure")
    assert find_uncovered("{{ figure('a', 'b.png', 'c') }} `![x](y)`", {}) == []


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    before=st.text(alphabet="ab .,*-\n|>#", max_size=20),
    number=st.integers(10, 10**6),
    after=st.text(alphabet="ab .,*\n|", max_size=10),
)
def test_a_number_between_words_is_never_missed(before: str, number: int, after: str) -> None:
    # A blank line around it, so that nothing before it can make it code or a list.
    source = f"{before}\n\nx {{{{ claim('rows') }}}} {number} {after}"
    assert str(number) in found(source) or number == VALUES["rows"]


def test_numbers_of_a_printed_text() -> None:
    assert numbers_in("teacher_RN18 of fer2013 in 2013: 0.5") == ["2013", "0.5"]
