"""The tutorial quotes what the command really prints."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fer_assets.commands.claims import claims_summary, claims_table
from fer_ml.claims.model import read_claims
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.storage.store import Store

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "interim-report.md").read_text(encoding="utf-8")


def test_the_quoted_output_is_the_commands(tmp_path: Path) -> None:
    held = read_claims(ROOT / "claims" / "interim_report.yaml")
    found = verify(held, Tracer(Store(tmp_path / "none", "none")))
    stream = io.StringIO()
    console = Console(width=140, file=stream)
    console.print(claims_table(found))
    for line in claims_summary(found):
        console.print(line, soft_wrap=True)
    printed = [line.rstrip() for line in stream.getvalue().rstrip().split("\n")]
    command = "$ fer claims verify --claims claims/interim_report.yaml\n"
    quoted = PAGE.split(f"```\n{command}")[1].split("\n```")[0].split("\n")
    lines = iter(printed)
    assert not [line for line in quoted if line != "..." and line not in lines]
    # Nothing is left out but where the page says so, and the summary is there.
    whole = "\n".join(quoted).split("\n...\n")
    assert all(part in "\n".join(printed) for part in whole)
    assert quoted[-1] == printed[-1]


@pytest.mark.parametrize("name", ["sources-add-up", "ce-on-test"])
def test_the_quoted_claims_are_the_files(name: str) -> None:
    text = (ROOT / "claims" / "interim_report.yaml").read_text(encoding="utf-8")
    start = text.index(f"  - id: {name}\n")
    claim = text[start : text.index("  - id: ", start + 1)]
    assert claim in PAGE
