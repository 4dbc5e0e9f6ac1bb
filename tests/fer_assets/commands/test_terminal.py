"""What the console shows of texts from elsewhere: all of it, and none of it is obeyed."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.markdown import Markdown

from fer_assets.commands.common import console, styled, table
from fer_ml.base.visible import visible
from fer_ml.images.pixels import encode_png
from tests.conftest import noise
from tests.fer_assets.commands.conftest import Fer

ROOT = Path(__file__).parents[3]
PIECES = st.sampled_from(
    ["[v2]", "[/]", "[red]", "[link=x]", ":smile:", "\x1b[2K", "\x9b2K", "\r", "\n", "\u202e"]
) | st.sampled_from(["a", " ", "\\", "\\[", "{", "*", "~", "é", "\u200b"])
FOREIGN = st.lists(PIECES, min_size=1, max_size=6).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=FOREIGN)
def test_a_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("", text)
    rows.add_row(text, styled((text, "red")))
    for part in (text, styled("x", (text, "red")), rows):
        console.print(part, soft_wrap=isinstance(part, str), no_wrap=True)
        shown = capsys.readouterr().out
        assert not set(shown) & set("\x1b\x9b\r\u202e\u200b")
        assert visible(text).strip() in shown


def test_no_text_of_the_project_is_markup() -> None:
    """The console reads none: what is written as such would be printed as it stands."""
    literals = 0
    for path in (ROOT / "fer_assets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals += 1
                found = re.search(r"\[/\]|\[(red|green|yellow|bold|dim|cyan)\]", node.value)
                assert not found, f"{path.name}:{node.lineno}"
    assert literals > 1000


@pytest.mark.parametrize("markdown", [False, True])
def test_a_narrow_table_goes_on_in_the_next_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, markdown: bool
) -> None:
    long = ["the_name_of_a_set_of_faces" * 2, "candidate_sessions: its recipe changed", "x" * 70]
    rows = table(*long)
    rows.add_row(*long)
    line = f"| {' | '.join(long)} |"
    page = Markdown(f"{line}\n| --- | --- | --- |\n{line}")
    monkeypatch.setattr(console._console, "_width", 80)
    console.print(page if markdown else rows)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.count("x") == 2 * 70


@pytest.mark.parametrize("name", ["my [v2].csv", "-x.csv", "a :smile: b.csv", "~.csv", "{a}*?.csv"])
def test_a_file_is_named_as_it_is_called(fer: Fer, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("image_path,label,split,source\na.png,Happy,train,x\n")
    done = fer("validate", "--", name)
    assert done.returncode == 2
    assert f"{name}: 1 rows" in done.stdout.splitlines()[0]


@pytest.mark.threat("a name or label steers a terminal")
def test_labels_and_names_steer_no_terminal(fer: Fer, tmp_path: Path) -> None:
    red = "\x1b[2K\x1b[1GFit for use.\x1b[8m"
    (tmp_path / "x.png").write_bytes(encode_png(noise(1)))
    (tmp_path / "m.csv").write_text(f"image_path,label,split,source\nx.png,{red},train,s\n")
    done = fer("validate", "m.csv")
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert r"label '\x1b[2K\x1b[1GFit for use.\x1b[8m'" in done.stdout
    shutil.copy(tmp_path / "m.csv", tmp_path / "gone\x1b[2K.csv")
    done = fer("validate", "gone\x1b[2K.csv", "--root", "\x9b2Knowhere")
    assert done.returncode == 1
    assert not {"\x1b", "\x9b"} & set(done.stdout + done.stderr)


def test_a_cell_of_millions_is_a_finding_that_is_printed_at_once(fer: Fer, tmp_path: Path) -> None:
    long, deep = "a" * 3_000_000, "a/" * 5000
    rows = "".join(f"{path}x.png,Happy,train,s\n" for path in (long, deep))
    (tmp_path / "m.csv").write_text(f"image_path,label,split,source\n{rows}")
    done = fer("validate", "m.csv")
    assert done.returncode == 2, done.stderr
    assert len(done.stdout) < 100_000
