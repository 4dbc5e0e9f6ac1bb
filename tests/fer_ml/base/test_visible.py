"""Whatever a text from elsewhere holds, a person reads it and no terminal obeys it."""

import json
import logging
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.errors import FerError
from fer_ml.base.logs import JsonLine, TextLine
from fer_ml.base.visible import visible, visible_lines
from fer_ml.figures.page import render_page

#: Of each kind one: C0, DEL, C1 (as CSI in one byte), bidi override and isolate, no width, byte
#: order mark, line separator, half a surrogate pair, a tag.
STEERING = "\x1b\r\b\x7f\x9b\u202e\u2066\u200b\ufeff\u2028\ud800\U000e0041"
ANYTHING = st.text(st.characters(codec=None), max_size=40) | st.text(STEERING + "a b\n", max_size=9)


def obeyed(text: str) -> set[str]:
    """The characters of ``text`` that do something else than to be read, but for its lines."""
    bad = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in bad} - {"\n"}


@given(ANYTHING)
@pytest.mark.threat(
    "a name or label steers a terminal",
    "Control characters, direction marks and characters without width are shown as escapes such"
    " as `\\x1b`.",
)
def test_nothing_is_left_that_is_obeyed(text: str) -> None:
    assert obeyed(visible(text)) == set() and "\n" not in visible(text)
    assert obeyed(visible_lines(text)) == set()
    assert visible_lines(text).count("\n") == text.count("\n")
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("text", ["Größe [v2] :smile: {a} *b* ~ 笑顔 𝔸", "", r"C:\faces"])
def test_what_is_read_as_itself_stays(text: str) -> None:
    assert visible(text) == text


def test_escapes_are_those_of_python() -> None:
    shown = visible("\x1b[2K\r\u202e\u200b\n")
    assert shown == r"\x1b[2K\r\u202e\u200b\n"


@given(ANYTHING, ANYTHING)
def test_an_error_cannot_be_painted_over(what: str, where: str) -> None:
    error = FerError(what, code="any-fault", where=where, allowed=where, fix=what)
    assert obeyed(str(error)) == set()
    assert "\n" not in str(error.where) and "\n" not in str(error.allowed)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


@given(ANYTHING)
def test_a_log_line_is_one_and_loses_nothing(text: str) -> None:
    record = logging.LogRecord("fer_ml", logging.WARNING, "", 0, "source %s", (text,), None)
    assert obeyed(TextLine().format(record)) == set()
    line = JsonLine().format(record)
    assert obeyed(line) == set() and "\n" not in line
    assert json.loads(line)["message"] == f"source {text}"


@given(ANYTHING.filter(lambda text: max(text, default=" ") < "\ud800"))
def test_a_page_shows_it(text: str) -> None:
    folder = Path(__file__).parent
    assert obeyed(render_page(folder / "one_value.html.j2", value=text)) == set()
