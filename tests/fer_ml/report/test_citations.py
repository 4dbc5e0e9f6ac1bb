"""Citations against references: what counts as one, and what only looks like it."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.report.citations import check_citations

REFERENCES = "\n\n# References\n\n" + "\n".join(f"[{n}] Author {n}." for n in range(1, 10))
INTERIM = Path(
    os.environ.get("FER_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data"
).parent.joinpath("docs", "interim_report.md")


def used(text: str) -> list[int]:
    return sorted(check_citations(text + REFERENCES).used)


@pytest.mark.real_data
@pytest.mark.skipif(not INTERIM.is_file(), reason=f"no {INTERIM}")
def test_the_interim_report_is_found_to_be_as_it_says() -> None:
    found = check_citations(INTERIM.read_text(encoding="utf-8"))
    assert len(found.listed) == 34
    assert len(found.used) == 31
    assert found.uncited == (17, 27, 29)
    assert found.missing == found.twice == ()
    assert found.sound


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("One [3] and two [4,5] and three [1; 2].", [1, 2, 3, 4, 5]),
        ("Ranges [2-4], [6\u20138] and [1]-[3].", [1, 2, 3, 4, 6, 7, 8]),
        ("**Bold [2]**, *[3]*, \\\nnext [4]", [2, 3, 4]),
        ("> quoted [2]\n\n- item [3]\n  1. deeper [4]", [2, 3, 4]),
        ("FER2013 [4] in 2013 [8,9] cost $5 and [3] $6.", [3, 4, 8, 9]),
        ("# A heading is no place\n\nbut here [2]", [2]),
        ("| model | ref |\n| --- | --- |\n| a [1] | [8,9] |", [1, 8, 9]),
        ("<div>\nraw [5]\n</div>", [5]),
    ],
)
def test_citations(text: str, numbers: list[int]) -> None:
    assert used(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "p in $[0,1]^7$, [0,1]^7, [0, 1], [1,7]^2, [0.5, 5.0] and x \u2208 [1, 5]",
        "clamped to [1, 5], in the range [2, 9], interval [3,4], k = [1, 2]",
        "$$x_1 \\in [1, 2]\n[3]$$",
        "`[3]` and ``[`4`] [5]``",
        "```\n[3]\n```\n\n    [4] indented",
        "[3](https://example.org) [text [4]](x) ![5](y.png) <https://e.org/[6]>",
        "\\[3\\] and \\[4, 5]",
        "[03] [1000] [-1] [1.5] [a1] [^1] [ ] []",
        "<!-- [3] -->",
        "| n | 95% |\n| --- | --- |\n| a | [71, 75] |",
        "| metric | CI |\n| --- | --- |\n| a | [1, 2] |",
        "| metric | value |\n| --- | --- |\n| a | 73 [71, 75] |",
    ],
)
def test_what_only_looks_like_a_citation(text: str) -> None:
    assert used(text) == []


def test_used_missing_uncited_and_twice_with_lines() -> None:
    text = "a [1]\nb [7]\n\nc [7] [3]\n\n## 4. References\n\n[1] A\n[2] B\n\n[3] C\n\n[3] D\n"
    found = check_citations(text)
    assert found.listed == {1: 8, 2: 9, 3: 11}
    assert found.used == {1: 1, 7: 2, 3: 4}
    assert (found.missing, found.uncited, found.twice) == ((7,), (2,), (3,))
    assert not found.sound
    assert found.to_json()["first_line"] == {"7": 2}


def test_numbered_lists_and_definitions_are_references_too() -> None:
    listed = check_citations("x [2]\n\n# Bibliography\n\n1. A\n2. B, see [5]\n   - a note\n")
    assert (sorted(listed.listed), listed.missing) == ([1, 2], ())
    defined = check_citations("x [2]\n\n# References\n\n[2]: https://example.org\n")
    assert (sorted(defined.listed), defined.uncited) == ([2], ())


def test_the_section_of_references_ends_at_the_next_heading_of_its_level() -> None:
    text = (
        "# References\n\n## Books\n\n[1] A, cites [9]\n\n"
        "# Appendix\n\nsee [1] and\n\n[2] no entry\n"
    )
    found = check_citations(text)
    assert (sorted(found.listed), sorted(found.used)) == ([1], [1, 2])


def test_without_references_every_citation_is_missing() -> None:
    assert check_citations("a [4]").missing == (4,)


numbers = st.lists(st.integers(1, 99), min_size=1, max_size=6)


@settings(max_examples=60)
@given(cited=numbers, listed=st.sets(st.integers(1, 99), max_size=8))
def test_any_lists_of_citations_are_read_as_written(cited: list[int], listed: set[int]) -> None:
    groups = "; then ".join(f"as shown [{', '.join(map(str, cited[i : i + 3]))}]" for i in (0, 3))
    entries = "\n\n".join(f"[{n}] Somebody, 20{n}." for n in sorted(listed))
    found = check_citations(f"{groups}\n\n# References\n\n{entries}\n")
    assert set(found.used) == set(cited)
    assert set(found.listed) == listed
    assert set(found.missing) == set(cited) - listed
    assert set(found.uncited) == listed - set(cited)


@settings(max_examples=100)
@given(st.text(alphabet="[]0123,-;$`|\n #*<>!()^\\a\u2013", max_size=80))
def test_any_text_is_read_without_a_fault_and_lines_are_in_it(text: str) -> None:
    found = check_citations(text + "\n\n# References\n\n[1] A\n" + text)
    lines = 2 * text.count("\n") + 8
    assert all(1 <= line <= lines for line in (found.listed | found.used).values())
    assert not set(found.missing) & set(found.listed)
