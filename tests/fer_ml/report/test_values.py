"""Values for papers: a TeX engine prints them, and nothing in them acts."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fer_ml.base.errors import FerError
from fer_ml.claims.model import read_claims
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import Verified, verify
from fer_ml.report.values import escape_latex, latex, table, variables, write_values
from fer_ml.storage.store import Store
from tests.refusals import refused

HOSTILE = r"""\input{/etc/passwd}$x_1^2$ 100% & #1 ~{}|<b>`?`!`"' -- \write18{touch x}"""
CLAIMS = f"""
version: 2
title: T
claims:
  - id: a_number-1
    kind: sum
    sentence: "It is {{value}}."
    expected: 1,234.5
    parts: ["1,000", "234.5"]
  - id: below
    kind: sum
    sentence: "=HYPERLINK(x) is {{value}}."
    expected: -0.25
    parts: ["-0.25"]
  - id: hostile
    kind: configuration
    sentence: "With {{value}}."
    asset: student_kd
    settings:
      '/{HOSTILE.replace("'", "''")}': x
"""


@pytest.fixture
def verified(tmp_path: Path) -> Verified:
    store = Store(tmp_path / "home", "mine")
    with store.begin("student_kd", recipe={HOSTILE.replace("/", "~"): "x"}) as run:
        run.write_json("a.json", {})
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    return verify(read_claims(tmp_path / "claims.yaml"), Tracer(store))


@pytest.fixture
def hostile(verified: Verified) -> Verified:
    """The same with a value of which every character is hostile."""
    from dataclasses import replace

    (number, below, odd) = verified.claims
    return replace(verified, claims=(number, below, replace(odd, status="grounded", text=HOSTILE)))


def typeset(folder: Path, macros: str, *lines: str) -> tuple[str, bytes]:
    """What pdflatex logs and makes of a paper with these lines."""
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex")
    (folder / "claims.tex").write_text(macros)
    paper = [r"\documentclass{article}", r"\pdfcompresslevel=0 \pdfobjcompresslevel=0"]
    (folder / "paper.tex").write_text("\n".join([*paper, *lines, r"\end{document}"]))
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "paper.tex"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = (folder / "paper.log").read_text(errors="replace")
    # What \\showbox shows ends with "! OK.".
    assert re.findall(r"^! (?!OK\.)", log, re.MULTILINE) == [], log[-3000:]
    return log, (folder / "paper.pdf").read_bytes()


def test_latex_prints_the_value_as_it_is(tmp_path: Path, hostile: Verified) -> None:
    show = [rf"\setbox0\hbox{{\ferclaim{{{claim.claim.id}}}}}\showbox0" for claim in hostile.claims]
    limits = r"\showboxbreadth=9999 \showboxdepth=9 \tracingonline=0"
    log, _ = typeset(
        tmp_path, latex(hostile), r"\input{claims}", r"\begin{document}", limits, *show, "x"
    )
    boxes = log.split("> \\box0=")[1:]
    printed = ["".join(re.findall(r"^\.+\\OT1/cmr\S+ (\S+)", box, re.MULTILINE)) for box in boxes]
    assert printed[0] == "1,234.5"
    assert printed[1] == "0.25" and "\\OMS/cmsy" in boxes[1]  # The minus of mathematics.
    letters = re.sub(r"[^A-Za-z0-9]", "", printed[2])
    assert letters.startswith("input") and "etcpasswd" in letters
    assert "write18touchx" in letters
    assert sorted(p.name for p in tmp_path.iterdir() if p.name == "x") == []


def test_latex_links_the_value_to_its_page(tmp_path: Path, hostile: Verified) -> None:
    body = [rf"\ferclaim{{{claim.claim.id}}}" for claim in hostile.claims]
    start = [r"\usepackage{hyperref}", r"\input{claims}", r"\begin{document}"]
    _, pdf = typeset(tmp_path, latex(hostile), *start, r"\section{\ferclaim{below}}", *body)
    for claim in hostile.claims:
        assert f"/URI(evidence/claims/{claim.claim.id}.html)".encode() in pdf


def test_latex_names_a_claim_that_is_not_there(tmp_path: Path, hostile: Verified) -> None:
    start = (r"\input{claims}", r"\begin{document}", r"\ferclaim{nobody}")
    with pytest.raises(AssertionError, match="There is no claim 'nobody'"):
        typeset(tmp_path, latex(hostile), *start)


def test_nothing_that_acts_is_left_in_latex() -> None:
    escaped = escape_latex(HOSTILE + "\n\x07\u202e")
    commands = set(re.findall(r"\\[A-Za-z]+|\\.", escaped))
    assert commands <= {
        *(r"\textbackslash", r"\{", r"\}", r"\$", r"\&", r"\#", r"\%", r"\_"),
        *(r"\textasciicircum", r"\textasciitilde", r"\textless", r"\textgreater"),
        *(r"\textbar", r"\textasciigrave", r"\textquotesingle"),
    }
    assert "\n" not in escaped and "\x07" not in escaped and "\u202e" not in escaped


def test_variables_are_read_as_they_are_printed(hostile: Verified) -> None:
    held = yaml.safe_load(variables(hostile))["ferclaim"]
    assert held["a_number-1"] == "1,234.5" and held["below"] == "-0.25"
    assert "<b>" not in held["hostile"].replace(r"\<b\>", "")


def test_csv_has_no_formula_for_a_spreadsheet(hostile: Verified) -> None:
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(table(hostile)))}
    assert rows["below"]["value"] == "-0.25"
    assert rows["below"]["sentence"] == "'=HYPERLINK(x) is -0.25."
    assert rows["hostile"]["value"] == HOSTILE


def test_only_what_holds_is_written(tmp_path: Path, verified: Verified, hostile: Verified) -> None:
    assert verified.claims[2].status != "grounded"
    with refused("claims-not-grounded"):
        write_values(verified, tmp_path / "claims.tex")
    with pytest.raises(FerError) as caught:
        write_values(hostile, tmp_path / "claims.doc")
    assert caught.value.allowed == ".tex, .yml, .csv"
    for suffix in (".tex", ".yml", ".csv"):
        write_values(hostile, tmp_path / f"claims{suffix}")
        assert "1,234.5" in (tmp_path / f"claims{suffix}").read_text()
