"""Check the citations of a Markdown report against its list of references.

A citation is a number in square brackets, ``[3]``, a list ``[3, 7]`` or a range ``[3-5]`` or
``[3]-[5]``, outside of the references. An entry is a line or a numbered list item of the section
titled references. Intervals, code, formulas and links count as neither.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fer_ml.report.markdown import parser, plain

_HEADING = re.compile(
    r"([\dA-Z]+(\.\d+)*[.):]?\s+)?"
    r"(references?( list)?|bibliography|works cited|literature( cited)?)\s*:?",
    re.IGNORECASE,
)
_DASH = "[-\u2013\u2014]"
_NUMBER = r"[1-9]\d{0,2}"
_CITATION = re.compile(
    rf"\[\s*({_NUMBER})\s*\]\s*{_DASH}\s*\[\s*({_NUMBER})\s*\]"
    rf"|\[\s*({_NUMBER}(?:\s*(?:[,;]|{_DASH})\s*{_NUMBER})*)\s*\](?!\s*\^)"
)
_ENTRY = re.compile(rf"\s*\[({_NUMBER})\]")
#: Pandoc's rule for dollars, so that sums of money are no formula.
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?=\S)[^$]*?(?<=\S)\$(?!\d)", re.DOTALL)
_HTML = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)
_BEFORE_INTERVAL = re.compile(
    r"(\u2208|=|\b(range|interval|bounds?|clamp\w*))\s*(of|to)?\s*$", re.I
)
_INTERVAL_COLUMN = re.compile(r"\b(intervals?|ranges?|bounds?|limits?|CIs?|min|max)\b|%", re.I)


@dataclass(frozen=True)
class Citations:
    """Reference numbers with the lines (from 1) where each is listed and first cited."""

    listed: dict[int, int]
    used: dict[int, int]
    twice: tuple[int, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers that are cited but not listed."""
        return tuple(sorted(self.used.keys() - self.listed.keys()))

    @property
    def uncited(self) -> tuple[int, ...]:
        """Numbers that are listed but never cited."""
        return tuple(sorted(self.listed.keys() - self.used.keys()))

    @property
    def sound(self) -> bool:
        """Whether every citation leads to exactly one entry."""
        return not self.missing and not self.twice

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, with the lines of missing entries."""
        return {
            "listed": sorted(self.listed),
            "used": sorted(self.used),
            "missing": list(self.missing),
            "uncited": list(self.uncited),
            "twice": list(self.twice),
            "first_line": {str(number): self.used[number] for number in self.missing},
        }


def check_citations(text: str) -> Citations:
    """Compare the citations of a Markdown document with its references."""
    listed: dict[int, int] = {}
    used: dict[int, int] = {}
    twice: set[int] = set()
    for part in _parts(text):
        if part.references:
            for number, line in _entries(part):
                twice |= {number} & listed.keys()
                listed.setdefault(number, line)
        else:
            for number, line in _cited(part):
                used.setdefault(number, line)
    return Citations(listed, used, tuple(sorted(twice)))


@dataclass(frozen=True)
class _Part:
    """A stretch of visible text. ``item`` is its number in a list, ``column`` its table header."""

    text: str
    line: int
    references: bool
    item: str
    column: str | None


@dataclass
class _Cells:
    """The position in a table: the cells of its header, and the index of this cell, if in one."""

    header: list[str] = field(default_factory=list)
    number: int | None = None

    def enter(self, kind: str) -> None:
        """Update the position by a token of the parser."""
        match kind:
            case "table_open":
                self.header = []
            case "tr_open":
                self.number = -1
            case "td_open" | "th_open":
                self.number = (self.number or 0) + 1
            case "table_close":
                self.number = None

    def column(self, content: str) -> str | None:
        """Return the header of this cell's column; ``content`` is the cell's own text."""
        if self.number is None:
            return None
        if len(self.header) <= self.number:
            self.header.append(content)
        return self.header[self.number]


def _parts(text: str) -> Iterator[_Part]:
    markdown = parser(html=True).disable(["reference", "text_join"])
    section: int | None = None
    heading = item = ""
    line, cells = 1, _Cells()
    for token in markdown.parse(text):
        line = token.map[0] + 1 if token.map else line
        cells.enter(token.type)
        match token.type:
            case "heading_open":
                heading = token.tag
            case "list_item_open":
                item = token.info
            case "html_block":
                yield _Part(_HTML.sub("", token.content), line, section is not None, "", None)
            case "inline" if heading:
                level, heading = int(heading[1:]), ""
                if section is None or level <= section:
                    section = level if _HEADING.fullmatch(token.content.strip()) else None
            case "inline":
                column = cells.column(token.content)
                yield _Part(plain(token), line, section is not None, item, column)
                item = ""


def _entries(part: _Part) -> Iterator[tuple[int, int]]:
    lines = part.text.split("\n")
    entries = [(int(m.group(1)), i) for i, line in enumerate(lines) if (m := _ENTRY.match(line))]
    if not entries and part.item:
        entries = [(int(part.item), 0)]
    yield from ((number, part.line + offset) for number, offset in entries)


def _cited(part: _Part) -> Iterator[tuple[int, int]]:
    # What is blanked keeps its lines, so that the lines of what follows stay right.
    text = _FORMULA.sub(lambda formula: "\0" + "\n" * formula.group().count("\n"), part.text)
    for match in _CITATION.finditer(text):
        line = part.line + text.count("\n", 0, match.start())
        first, last, group = match.groups()
        if first:
            yield from ((number, line) for number in range(int(first), int(last) + 1))
        elif not _is_interval(group, text[: match.start()], part.column):
            yield from ((number, line) for number in _numbers(group))


def _numbers(group: str) -> Iterator[int]:
    for piece in re.split("[,;]", group):
        ends = [int(end) for end in re.split(_DASH, piece)]
        yield from range(ends[0], ends[-1] + 1)


def _is_interval(group: str, before: str, column: str | None) -> bool:
    """Return whether two numbers in brackets are the ends of an interval."""
    pair = re.fullmatch(rf"({_NUMBER})\s*,\s*({_NUMBER})", group)
    if pair is None or int(pair.group(1)) >= int(pair.group(2)):
        return False
    if _BEFORE_INTERVAL.search(before):
        return True
    if column is None:
        return False
    return bool(_INTERVAL_COLUMN.search(column) or re.search(r"\d\s*%?\s*$", before))


def spans_of_citations(line: str) -> list[tuple[int, int]]:
    """Return the spans of a line that read as citations."""
    return [match.span() for match in _CITATION.finditer(line)]
