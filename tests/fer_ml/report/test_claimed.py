"""A foreign report's numbers against claims, in every format that is read."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pypandoc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.errors import FerError
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.resolved import Resolved
from fer_ml.report.claimed import Covered, check_claims
from fer_ml.report.foreign import read_report

CLAIM = {"kind": "number", "asset": "benchmark", "file": "b.json", "pointer": "/a"}
HELD = ClaimsFile.model_validate(
    {
        "version": "2",
        "title": "T",
        "claims": [
            {"id": "dkd-f1", "sentence": "DKD has a macro-F1 of {value}.", **CLAIM, "decimals": 3},
            {"id": "rows", "sentence": "It has {value} rows in all.", **CLAIM, "decimals": 0},
            {"id": "share", "sentence": "A part of {value} is right.", **CLAIM, "expected": "9.1%"},
        ],
    }
)
VALUES = {"dkd-f1": 0.70312, "rows": 2085, "share": 0.0911}
CLAIMS: Sequence[Resolved] = [
    Resolved(claim, "grounded", "", VALUES[claim.id]) for claim in HELD.claims
]


def checked(text: str) -> Covered:
    return check_claims(text, CLAIMS, ())


def told(found: Covered) -> tuple[list[str], list[tuple[str, str, str | None]], list[str]]:
    wrong = [(said.claim, said.said, said.shown) for said in found.wrong]
    return list(found.referred), wrong, [bare.text for bare in found.uncovered]


LINK = "https://x.org/evidence/claims/dkd-f1.html"


@pytest.mark.parametrize(
    ("text", "referred", "wrong", "uncovered"),
    [
        ("DKD has a macro-F1 of 0.703.", ["dkd-f1"], [], []),
        ("DKD has a\nmacro-F1 of **0.703**.", ["dkd-f1"], [], []),
        ("DKD has a macro-F1 of 0.81.", ["dkd-f1"], [("dkd-f1", "0.81", "0.703")], []),
        ("It has 2085 rows in all.", ["rows"], [], []),
        ("It has 2,085 rows in all.", ["rows"], [], []),
        ("It has 2,086 rows in all.", ["rows"], [("rows", "2,086", "2,085")], []),
        ("A part of 9.1% is right.", ["share"], [], []),
        ("A part of 9.1 % is right.", ["share"], [], []),
        ("A part of 9.2% is right.", ["share"], [("share", "9.2%", "9.1%")], []),
        (f"We reach [0.703]({LINK}).", ["dkd-f1"], [], []),
        (f"We reach [0.70]({LINK}), rounded 0.7.", ["dkd-f1"], [], []),
        (f"We reach [0.8]({LINK}).", ["dkd-f1"], [("dkd-f1", "0.8", "0.703")], []),
        (f"See [DKD has a macro-F1 of 0.703.]({LINK}) for 0.7, 8.", ["dkd-f1"], [], ["8"]),
        (
            f"[DKD has a macro-F1 of 0.9.]({LINK}) It is 0.703.",
            ["dkd-f1"],
            [("dkd-f1", "0.9", "0.703")],
            [],
        ),
        (f"[RN18: -0.7]({LINK}), [70.3%]({LINK})", ["dkd-f1"], [("dkd-f1", "-0.7", "0.703")], []),
        ("We reach 0.703.", [], [], ["0.703"]),
        ("We reach [](ferclaim:dkd-f1), 0.703.\n\nAnd 0.703.", ["dkd-f1"], [], ["0.703"]),
        ("We reach [](ferclaim:other).", [], [("other", "", None)], []),
        ("A {{ 0.5 }} and {% if %} {# 7", [], [], ["0.5", "7"]),
        ("A link to [page 7](https://x.org/claims/other.html).", [], [], ["7"]),
    ],
)
def test_what_a_text_says_of_claims(
    text: str, referred: list[str], wrong: list[tuple[str, str, str | None]], uncovered: list[str]
) -> None:
    assert told(checked(text)) == (referred, wrong, uncovered)


def test_lines_and_words_around() -> None:
    found = checked("A text.\n\nDKD has a macro-F1 of 0.9. Then some words and 17 more of them.\n")
    assert [said.line for said in found.wrong] == [3]
    (bare,) = found.uncovered
    assert (bare.line, bare.text) == (3, "17")
    assert "some words and 17 more" in bare.near


@given(st.text(alphabet="[](){}<>%#$\\`|*_ \n.,-0123456789abclaims/ferclaim:dkd-f1", max_size=200))
def test_any_text_is_read(text: str) -> None:
    json.dumps(checked(text).to_json())


SAYS = "DKD has a macro-F1 of {}. We use 31 things."


@pytest.mark.parametrize(("value", "wrong"), [("0.703", 0), ("0.9", 1)])
@pytest.mark.parametrize("suffix", [".md", ".tex", ".docx", ".ipynb", ".qmd"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str, value: str, wrong: int) -> None:
    path, text = tmp_path / f"paper{suffix}", SAYS.format(value)
    if suffix == ".docx":
        pypandoc.convert_text(text, "docx", "markdown", outputfile=str(path))
    elif suffix == ".ipynb":
        cells = [
            {"cell_type": "markdown", "source": [text, "\n"]},
            {"cell_type": "code", "source": "x = 77", "outputs": [{"text": "78"}]},
        ]
        path.write_text(json.dumps({"cells": cells, "nbformat": 4}))
    elif suffix == ".tex":
        path.write_text(
            rf"\documentclass{{a}}\begin{{document}}{text} % 99\end{{document}}"
            + "\n\\end{document}"
        )
    else:
        path.write_text(text)
    found = checked(read_report(path))
    assert found.referred == ("dkd-f1",) and len(found.wrong) == wrong
    assert [bare.text for bare in found.uncovered] == ["31"]


def test_macros_and_variables_refer_to_claims(tmp_path: Path) -> None:
    (tmp_path / "a.tex").write_text(
        "\\begin{document}Our \\ferclaim{dkd-f1} is 0.703,\n"
        "\\textbf{\\ferclaim{nobody}}.\\end{document}"
    )
    found = checked(read_report(tmp_path / "a.tex"))
    assert told(found) == (["dkd-f1"], [("nobody", "", None)], [])
    (tmp_path / "a.qmd").write_text("Our {{< var ferclaim.dkd-f1 >}} is 0.703.")
    assert told(checked(read_report(tmp_path / "a.qmd"))) == (["dkd-f1"], [], [])


def test_a_linked_number_of_a_docx(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    text = f"We reach [0.9]({LINK}) and [0.703]({LINK})."
    pypandoc.convert_text(text, "docx", "markdown", outputfile=str(path))
    assert told(checked(read_report(path)))[1] == [("dkd-f1", "0.9", "0.703")]


def test_a_tex_file_reads_no_other(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("The secret is 4711.")
    for inner in ("secret", str(tmp_path / "secret.tex")):
        (tmp_path / "a.tex").write_text(f"\\begin{{document}}A \\input{{{inner}}}\\end{{document}}")
        assert "4711" not in read_report(tmp_path / "a.tex")


def _empty_zip() -> bytes:
    made = io.BytesIO()
    zipfile.ZipFile(made, "w").close()
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.docx", b"no zip"),
        ("a.docx", _empty_zip()),
        ("a.docx", b""),
        ("a.ipynb", b"{"),
        ("a.ipynb", b"[]"),
        ("a.ipynb", b'{"cells": [{"cell_type": "markdown"}]}'),
        ("a.ipynb", b'{"cells": 3}'),
        ("a.tex", b"\xff\xfe"),
        ("a.md", b"\xff\xfe"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FerError) as caught:
        read_report(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize("suffix", [".md", ".tex", ".docx", ".ipynb"])
def test_a_file_that_is_not_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FerError):
        read_report(tmp_path / f"nothing{suffix}")
