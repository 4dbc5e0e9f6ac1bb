"""Numbers in a template's own prose, which nothing binds to an artifact.

A report's numbers are references. One that stands in the text itself is found here, unless a claim
that its paragraph refers to has that value. Left alone are code, links, citations, the numbering of
headings, lists, tables and figures, names such as ``RN18`` or ``ResNet-18``, and in formulas all
but what follows an equals sign.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from jinja2 import Environment

from fer_ml.report.citations import spans_of_citations
from fer_ml.report.markdown import parser

#: Stands for each character of an expression, statement or comment.
_HOLE = "\ue000"
_NUMBER = re.compile(
    r"(?<![\w.])(?:\d{4}-\d{2}-\d{2}|(?:\d[\d,]*)?\.?\d+(?:\.\d+)*(?:[eE][-+]?\d+)?)(?!\d)"
)
_PRINTED = re.compile(r"\d[\d,]*(\.\d+)?")
_NAME = re.compile(r"[^\W\d_]-$")
_ORDINAL = re.compile(r"(st|nd|rd|th|D)\b")
#: What is no prose of its own, or is numbering: replaced by blanks of the same length.
_NOT_PROSE = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)",
        r"(?<=\])\([^)\n]*\)|(?<=\])\[[^\]]*\]",
        r"<[a-z]+:[^>\s]*>|\b[a-z]+://[^\s)>]+",
        r"^ {0,3}#+\s+\d+(\.\d+)*[.)]?(?=\s)",
        r"^\s*(>\s*)*\d+[.)](?=\s)",
        r"\b([Tt]ables?|[Ff]ig(ure|s|\.)?s?|[Ss]ections?|[Cc]hapters?|[Aa]ppendix|[Ee]q(uation|\.)?s?"
        r"|[Ss]teps?)\s*\(?\d+(\.\d+)*(\s*([-\u2013,]|and|to)\s*\d+(\.\d+)*)*\)?",
    )
)
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)", re.DOTALL)
_ASSIGNED = re.compile(r"(?:=|\\approx|\u2248)\s*-?(\d[\d,]*(?:\.\d+)?)")
_CLAIMED = re.compile(r"\bclaim\(\s*(['\"])(.+?)\1")
_BLOCK = re.compile(r"^\s*$|^\s*(?:[-*+]|\d+[.)])\s|^\s*\|")
_IMAGE = re.compile(r"!\[[^\]]*\]")


@dataclass(frozen=True)
class Uncovered:
    """A number or figure of the prose itself. ``line`` and ``column`` count from 1."""

    line: int
    column: int
    kind: Literal["number", "figure"]
    text: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"line": self.line, "column": self.column, "kind": self.kind, "text": self.text}


def numbers_in(text: str) -> list[str]:
    """The numbers of a text; digits in names such as ``RN18`` or ``ResNet-18`` are none."""
    return [text[start:end] for start, end in _number_spans(text)]


def find_uncovered(source: str, values: Mapping[str, Any]) -> list[Uncovered]:
    """Numbers and figures of a template's prose that no claim covers.

    ``values`` are the claims' values by id. A claim covers a number when the same paragraph, list
    item or table row refers to it and its value rounds to the number as printed; with a per cent
    sign, a hundred times its value.
    """
    code, prose = _split(source)
    found = []
    for start, end in _blocks(source):
        claimed = [
            value
            for call in _CLAIMED.finditer(code[start:end])
            for value in _numbers_of(values.get(call[2]))
        ]
        for first, last in _number_spans(prose[start:end]):
            text = prose[start + first : start + last]
            percent = prose[start + last : end].lstrip().startswith("%")
            if not any(_covers(value, text, percent) for value in claimed):
                found.append(_at(source, start + first, "number", text))
        for image in _IMAGE.finditer(prose[start:end]):
            found.append(_at(source, start + image.start(), "figure", image.group()))
    return found


def _at(source: str, offset: int, kind: Literal["number", "figure"], text: str) -> Uncovered:
    line = source.count("\n", 0, offset) + 1
    return Uncovered(line, offset - (source.rfind("\n", 0, offset) + 1) + 1, kind, text)


def _numbers_of(value: Any) -> Iterator[float]:
    """The numbers of a claim: one, or those of a table, a range or a comparison."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _covers(value: float, text: str, percent: bool) -> bool:
    """Whether the value rounds to the number as printed; a half may go either way."""
    if not _PRINTED.fullmatch(text):
        return False
    wanted = Decimal(text.replace(",", ""))
    half = Decimal(5).scaleb(-1 - len(text.partition(".")[2]))
    return abs(Decimal(str(value)) * (100 if percent else 1) - wanted) <= half


def _number_spans(text: str) -> Iterator[tuple[int, int]]:
    for found in _NUMBER.finditer(text):
        named = _NAME.search(text[: found.start()]) and found.group().isdigit()
        if not named and not _ORDINAL.match(text[found.end() :]):
            yield found.span()


def _blocks(source: str) -> Iterator[tuple[int, int]]:
    start = offset = 0
    for line in source.splitlines(keepends=True):
        if _BLOCK.match(line) and offset > start:
            yield start, offset
            start = offset
        offset += len(line)
    if offset > start:
        yield start, offset


def _split(source: str) -> tuple[str, str]:
    """The template's code and its prose, each with the other blanked out, in the same places."""
    code, prose, offset = [], [], 0
    for _, kind, value in Environment(keep_trailing_newline=True).lex(source):
        # The lexer drops only the white space that '-' in a tag eats.
        start = source.index(value, offset)
        gap, offset = source[offset:start], start + len(value)
        code.append(_blank(gap) + (_blank(value) if kind == "data" else value))
        prose.append(gap + (value if kind == "data" else _blank(value, _HOLE)))
    text = _without_code_blocks("".join(prose) + source[offset:])
    for pattern in _NOT_PROSE:
        text = pattern.sub(lambda found: _blank(found.group()), text)
    text = _FORMULA.sub(lambda found: _assigned(found.group()), text)
    lines = [_without_citations(line) for line in text.split("\n")]
    return "".join(code), "\n".join(lines)


def _blank(text: str, fill: str = " ") -> str:
    return "".join("\n" if letter == "\n" else fill for letter in text)


def _without_code_blocks(text: str) -> str:
    lines = text.split("\n")
    for token in parser().parse(text):
        if token.type in ("fence", "code_block") and token.map:
            for number in range(*token.map):
                lines[number] = _blank(lines[number])
    return "\n".join(lines)


def _without_citations(line: str) -> str:
    for start, end in spans_of_citations(line):
        line = line[:start] + " " * (end - start) + line[end:]
    return line


def _assigned(formula: str) -> str:
    """A formula of which only the numbers after an equals sign are left."""
    flat = formula
    while (inner := re.sub(r"\{[^{}]*\}", lambda found: " " * len(found.group()), flat)) != flat:
        flat = inner
    kept = [" " if letter != "\n" else letter for letter in formula]
    for found in _ASSIGNED.finditer(flat):
        start, end = found.span(1)
        kept[start:end] = flat[start:end]
    return "".join(kept)
