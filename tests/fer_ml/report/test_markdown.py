"""Foreign text stays text, in Markdown and in what is made of it."""

import re
from html import unescape
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.report.markdown import MAX_BYTES, code, escape, parser, read_text, table
from tests.refusals import refused

HOSTILE = "".join(sorted("`*_[]()<>&|~!#+-=\\$^:/.1a \n\t\u202e\u2028"))


def shown(markdown: str) -> str:
    """What a reader sees of the only block of a document."""
    found = re.fullmatch(r"<p>(.*)</p>\n", parser().render(markdown), re.DOTALL)
    assert found, markdown
    assert not re.search(r"<(?!/?code>)", found[1]), found[1]
    return unescape(re.sub(r"</?code>", "", found[1]))


@settings(max_examples=300)
@given(st.text(alphabet=HOSTILE, min_size=1, max_size=30))
def test_escaped_text_shows_as_itself_and_is_nothing_else(text: str) -> None:
    visible = re.sub(r"[\u202e]+", "\ufffd", text)
    wanted = re.sub(r"\s+", " ", visible).strip()
    if not wanted:
        return
    assert re.sub(r"\s+", " ", shown(escape(text))) == wanted


@settings(max_examples=300)
@given(st.text(alphabet=HOSTILE, min_size=1, max_size=20))
def test_a_table_of_foreign_cells_keeps_its_shape(text: str) -> None:
    rows = [[escape(text), code(text)], ["x", "y"]]
    html = parser().render(table(["a", "b"], rows, (1,)))
    assert html.count("<tr>") == 3
    assert html.count("<td") == 4
    assert not re.search(r"<(?!/?(code|table|thead|tbody|tr|th|td)\b)", html)


def test_names_stay_readable() -> None:
    assert escape("student_dkd 0.751, 40.4 ms") == "student_dkd 0.751, 40.4 ms"
    assert escape("_x_ 1. item") == "\\_x\\_ 1. item"
    assert escape("1. item") == "1\\. item"
    assert code("a`b") == "``a`b``"


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "dos").write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    assert read_text(tmp_path / "dos") == "a\nb\nc"
    for name, kind in (
        ("latin", "not-utf8"),
        ("large", "file-too-large"),
        ("none", "unreadable-file"),
    ):
        with refused(kind, where=tmp_path / name):
            read_text(tmp_path / name)
