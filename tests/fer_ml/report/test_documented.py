"""What docs/claims.md says of the report: its template, its table of helpers, its commands."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fer_ml.report.checklist import CHECKLIST
from fer_ml.report.literals import find_uncovered
from fer_ml.report.references import References
from fer_ml.report.template import Template, cited_assets

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_commands_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from fer_assets.cli import app

    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```\n(fer report check .*?)```", GUIDE, re.DOTALL)
    for command in block.strip().split("\n"):
        done = CliRunner().invoke(app, command.split()[1:])
        assert done.exit_code == 0, done.output


def test_the_template_states_no_number_and_names_its_assets() -> None:
    (source,) = re.findall(r"```jinja\n(.*?)```", GUIDE, re.DOTALL)
    assert find_uncovered(source, {}) == []
    assert cited_assets(Template(Path("t"), source)) == {
        "teacher[RN18]",
        "benchmark",
        "student_ce",
        "report_claims",
    }


def test_every_helper_and_item_is_told_and_no_other() -> None:
    told = set(re.findall(r"^\| `(\w+)\(", GUIDE, re.MULTILINE))
    helpers = {name for name in vars(References) if not name.startswith("_")}
    assert told == helpers - {"helpers"}
    _, items = GUIDE.split("| item | a report states |\n| --- | --- |\n")
    named = re.findall(r"^\| `(\w+)` \|", items, re.MULTILINE)
    assert named == [item.name for item in CHECKLIST]
