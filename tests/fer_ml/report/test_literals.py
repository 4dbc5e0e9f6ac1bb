"""Numbers of a template's prose: found with their place, unless something covers them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.report.literals import find_uncovered, without_numbers
from tests.refusals import refused

VALUES = {
    "rows": 2085,
    "acc": 0.733681,
    "name": "x",
    "none": None,
    "range": {"lowest": 0.7808, "highest": 0.791},
    "yes": True,
}
NAMES = ("FER2013", "ResNet-18", "img224")


def found(source: str) -> list[str]:
    return [item.text for item in find_uncovered(source, VALUES, NAMES)]


def test_line_and_column_are_those_of_the_template() -> None:
    source = "# Title\n\n{# 99 #}It runs at {{ claim('rows') }} and 25 frames.\n"
    (item,) = find_uncovered(source, VALUES)
    assert (item.line, item.column, item.kind, item.text) == (3, 44, "number", "25")
    assert source.split("\n")[2][43:45] == "25"


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("There are 2,085 rows, 0.5 of them 48x48, at 25FPS.", ["2,085", "0.5", "48x48", "25FPS"]),
        ("On 2026-11-24, with 1e-5 and .5 and -3.", ["2026-11-24", "1e-5", ".5", "-3"]),
        ("**7** classes; T=2, alpha=0.5", ["7", "2", "0.5"]),
        ("| a | 0.75 |\n| --- | --- |\n| b | 3 |", ["0.75", "3"]),
        (
            "In $T = 2$ and $\\alpha=0.5$: $L = (1-\\alpha)\\frac{1}{n}\\sum_{i=1}^n x^2$",
            ["2", "0.5"],
        ),
        ("{% if drawn %}\n12 faces\n{% endif %}\n{% set x %}13{% endset %}", ["12", "13"]),
        ("{% raw %}{{ 14 }}{% endraw %} and {{- drawn }} 15", ["14", "15"]),
        ("[see 16](https://e.org/17 '18') [18, 19]", ["16", "18"]),
        ("In `0.82`, ``1``, and\n\n```\n0.83\n```\n\n    indented 3", ["0.82", "1", "0.83", "3"]),
        (
            "\uff19\uff19, \u0669\u0669, \u00bd, \u4e5d",
            ["\uff19\uff19", "\u0669\u0669", "\u00bd", "\u4e5d"],
        ),
        ("&#57;&#57; &#x39; &frac12; &half;", ["&half;", "57", "57", "x39", "frac12"]),
        (
            "9**9**.*9*% accuracy-99 accuracy99.9 RN19",
            ["9", "9", "9", "accuracy-99", "accuracy99.9", "RN19"],
        ),
        ("## 99.9 reached\n\n99. of a hundred\n\n1. one\n3. two", ["99.9", "99", "3"]),
        ("In $99.9$ and $\\mathbf{99}$ and $x^2$; Table 99.9%", ["99.9", "99", "99.9%"]),
        ("![99.9](x.png)", ["99.9", "![99.9]"]),
        ("![99](x.png)", ["![99]"]),
        ("It is {{ claim('acc').value }}, or 1", ["1"]),
        ("It is right in nine out of ten.", ["ight in nine out of"]),
    ],
)
def test_numbers_of_prose(source: str, numbers: list[str] | None) -> None:
    assert found(source) == numbers


@pytest.mark.parametrize(
    "source",
    [
        "## 1 A\n\n### 1.1 B\n\n### 1.2 C\n\n## 2. D\n\n1. first\n2) second\n\n> 3. third",
        "RN18, FER2013, ResNet-18, macro-F1, teacher_RN18, img224, 3D, the 1st of them",
        "Table 3, Figures 4 and 5, Sections 1\u20139, Fig. 2, Eq. (7), appendix 2",
        "<https://e.org/7> and https://e.org/8 and [text](page9.md)",
        "as shown [3], [4, 5] and [6-8]",
        "{{ value('a', 'b.json', '/c/0', decimals=3) }}{# 12 #}{% if 3 > 2 %} a text{% endif %}",
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


@settings(max_examples=100)
@given(
    before=st.text(alphabet="ab .,*-\n|>#", max_size=20),
    number=st.integers(10, 10**6),
    after=st.text(alphabet="ab .,*\n|", max_size=10),
)
def test_a_number_between_words_is_never_missed(before: str, number: int, after: str) -> None:
    # A blank line around it, so that nothing before it can make it code or a list.
    source = f"{before}\n\nx {{{{ claim('rows') }}}} {number} {after}"
    assert str(number) in found(source) or number == VALUES["rows"]


def test_a_number_in_parts_is_not_covered_by_its_parts() -> None:
    values = {"nine": 9, "tenths": 0.9}
    mark = "{{ claim('nine').mark }}{{ claim('tenths').mark }}"
    for text in ("9**9**", "9/9", "9`9`", "9\\9"):
        assert len(find_uncovered(f"{text} {mark}", values)) == 2, text
    assert find_uncovered(f"9 and 0.9, {mark}", values) == []


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }}%",
        "{{ x }} %",
        "{{ x }} per cent",
        "{{ x }}  %",
        "{{ x }}&nbsp;%",
        "**{{ x }}**%",
        "{{ x }}\u200b\uff05",
        "{{ x }}<!-- -->%",
        "{{ x }}{# a comment #}%",
        "{{ x }}{% if y %}%{% endif %}",
        "-{% if y %}{{ x }}{% endif %}",
        "\u2013{{ x }}",
        "&minus;{{ x }}",
        "minus {{ x }}",
        "{{ x }} thousand",
        "{{ x }}$^2$",
        "{{ x }}{{ y }}",
        "{{ x }}.{{ y }}",
        "{{ x -}}  {{ y }}",
        "ninety-nine percent",
        "$9 9 . 9$",
        "$9\\,9$",
        "$9$$9$",
        "$9$ and $.7$",
        "{{ x }}9",
        "{{ x }}.5",
        "9{{ x }}",
        "0.{{ x }}",
        "-{{ x }}",
        "{{ x }}k",
    ],
)
def test_what_an_expression_prints_stands_by_itself(text: str) -> None:
    assert found(f"It is {text} here.")


def test_what_stands_beside_an_expression() -> None:
    source = (
        "T = {{ x }}, ({{ x }} to {{ x }}); {% if a %}text{% endif %}- {{ x }}. {{ a }}-{{ b }}"
        " {% if a %}{{ x }}{% else %}{{ y }}{% endif %}, {{ x }}{{ claim('x').mark }}"
    )
    assert found(source) == []


def test_a_text_of_its_own_has_no_number() -> None:
    assert without_numbers("teacher_RN18 of *", "it") == "teacher_RN18 of \\*"
    for text in ("fer2013", "in 2013", "99.9%"):
        with refused("unreferenced-number"):
            without_numbers(text, "it")
    assert without_numbers("FER2013", "it", NAMES) == "FER2013"
