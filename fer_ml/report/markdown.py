"""Markdown: one parser for checks and renderers, and escaping of foreign text."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file

MAX_BYTES = 4_000_000

#: What would change how Markdown reads a text, wherever it stands.
_ACTIVE = re.compile(r"([\\`*\[\]<>&|~!$#]|(?<![^\W_])_|_(?![^\W_]))")
#: What would start a list, a heading line or a rule, at the start of a line.
_STARTS = re.compile(r"^([-+=])(?=\s|[-+=]*$)|^(\d{1,9})(?=[.)](\s|$))")
#: Control characters, and those that turn the direction of what follows.
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]+")


class Markdown(Markup):
    """Text that is already Markdown: output of references, and escaped foreign text.

    As a ``Markup`` it keeps its type when jinja2 joins texts, in macros and blocks too.
    """


def parser(*, html: bool = False) -> MarkdownIt:
    """Return a parser for CommonMark with tables. Without ``html``, tags are ordinary text."""
    return MarkdownIt("commonmark", {"html": html}).enable("table")


def read_text(path: Path) -> str:
    """Read a UTF-8 text of at most ``MAX_BYTES``, line ends as line feeds; else ``FerError``."""
    try:
        data = read_file(path, MAX_BYTES)
    except OSError as error:
        raise FerError(
            f"the report cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="correct the path, or make the file readable",
        ) from error
    try:
        return re.sub(r"\r\n?", "\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FerError(
            f"the report is not UTF-8: {error}", code="not-utf8", where=path, fix="save it as UTF-8"
        ) from error


def escape(text: object) -> Markdown:
    """Return foreign text as Markdown that shows exactly this text, on one line.

    Its mark-up, links, table cells and headings lose their effect; hidden characters become
    visible.
    """
    line = _HIDDEN.sub("\ufffd", re.sub(r"\s+", " ", str(text)))
    line = _ACTIVE.sub(r"\\\1", line.strip()).replace("://", "\\://")
    return Markdown(_STARTS.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\", line))


def code(text: object) -> Markdown:
    """Return foreign text as a code span."""
    line = _HIDDEN.sub("\ufffd", str(text)) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int]) -> Markdown:
    """Return a table of Markdown cells; the columns ``numeric`` are right-aligned."""
    rule = ["---:" if index in numeric else "---" for index in range(len(header))]
    lines = [" | ".join(map(_in_cell, cells)) for cells in (header, rule, *rows)]
    return Markdown("\n".join(f"| {line} |" for line in lines))


def _in_cell(cell: str) -> str:
    """Escape bars: in a code span too, a bar would end the cell."""
    return re.sub(r"(?<!\\)[|]", r"\|", cell)


def plain(inline: Token) -> str:
    """Return the visible text of an inline token, without code, links and images."""
    shown, depth = [], 0
    for child in inline.children or ():
        depth += child.nesting if child.type.startswith("link_") else 0
        if child.type in ("softbreak", "hardbreak"):
            shown.append("\n")
        elif child.type == "text" and not depth:
            shown.append(child.content)
        elif child.type in ("code_inline", "image", "link_close", "text_special"):
            shown.append("\0")
    return "".join(shown)
