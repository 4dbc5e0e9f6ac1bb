"""Find numbers in a template's own prose that nothing binds to an artifact.

A report's numbers should be references. A number written into the text is reported here, in any
script, as an entity, in code or in parts, unless a claim in the same paragraph has that value.
Exempt are targets of links, citations, the numbering of headings, lists, tables and figures, known
or declared names, and in formulas single digits that follow no equals sign.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from jinja2 import Environment

from fer_ml.base.errors import FerError
from fer_ml.claims.printed import PRINTED, printed
from fer_ml.claims.sentences import CHANGED, NAMES, NUMBER, SHARE, as_seen, spans_of_digits
from fer_ml.report.citations import spans_of_citations
from fer_ml.report.markdown import Markdown, escape, parser

#: Characters of code, and of what parts two ways of a condition. An expression is a ``NUMBER``.
_HOLE, _PARTED = "\ue000", "\ue002"
_ORDINAL = re.compile(r"\d{1,2}(st|nd|rd|th|D)")
_LIST, _HEADING = (
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^\s*(?:>\s*)*(\d+)[.)](?=\s)",
        r"^ {0,3}#+\s+(\d+(?:\.\d+)*)[.)]?(?=\s)",
    )
)
#: What is no prose of its own: replaced by blanks of the same length.
_NOT_PROSE = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"(?<=\])\([^)\s]*(?=[\s)])|(?<=\])\[[^\]]*\]",
        r"<[a-z]+:[^>\s]*>|\b[a-z]+://[^\s)>]+",
        r"\b([Tt]ables?|[Ff]ig(ure|s|\.)?s?|[Ss]ections?|[Cc]hapters?|[Aa]ppendix|[Ee]q(uation|\.)?s?"
        r"|[Ss]teps?)\s*\(?\d{1,2}(\.\d{1,2})*(\s*([-\u2013,]|and|to)\s*\d{1,2}(\.\d{1,2})*)*\)?"
        r"(?!\.?\d|\s*%)",
    )
)
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)", re.DOTALL)
_ASSIGNED = re.compile(r"(?:=|\\approx|\u2248)\s*-?(\d[\d,]*(?:\.\d+)?)")
_GAP = r"(?:\s|\\[,;:!> ]){0,4}"
_LONG = re.compile(rf"(\d(?:(?:[.,]|{_GAP}\.?{_GAP})\d)+)")
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")
_CLAIMED = re.compile(r"\bclaim\(\s*(['\"])(.+?)\1")
_BLOCK = re.compile(r"^\s*$|^\s*(?:[-*+]|\d+[.)])\s|^\s*\|")
_IMAGE = re.compile(r"!\[[^\]]*\]")


@dataclass(frozen=True)
class Uncovered:
    """A number or figure written into the prose. ``line`` and ``column`` count from 1."""

    line: int
    column: int
    kind: Literal["number", "figure"]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {"line": self.line, "column": self.column, "kind": self.kind, "text": self.text}


def without_numbers(text: str, what: str, names: Collection[str] = ()) -> Markdown:
    """Escape a text of the template or the claims file; ``FerError`` if it contains a number."""
    if any(_number_spans(text, NAMES.union(names))) or SHARE.search(as_seen(text)[0]):
        raise FerError(
            f"{what} prints {text[:60]!r}, a number without a reference",
            code="unreferenced-number",
            fix="use claim, value, table, figure or gate, or stated(text, why=...); a name with a "
            "digit stands in names of the claims file",
        )
    return escape(text)


def find_uncovered(
    source: str, values: Mapping[str, Any], names: Collection[str] = ()
) -> list[Uncovered]:
    """Find numbers and figures of a template's prose that no claim covers.

    ``values`` holds the claims' values by id. A claim covers a number if the same paragraph, list
    item or table row refers to the claim and its value rounds to the number as printed; with a per
    cent sign, a hundred times its value. A number that touches another number, or one that an
    expression prints, is part of a larger one and not covered. Words in ``names`` are not numbers.
    """
    code, written, prose = _split(source)
    known, unseen = NAMES.union(names), _without_code(written)
    literals = []
    for start, end in _blocks(source):
        claimed = [
            value
            for call in _CLAIMED.finditer(code[start:end])
            for value in _numbers_of(values.get(call[2]))
        ]
        text = prose[start:end]
        spans = [span for span in _number_spans(text, known) if text[slice(*span)].strip("%")]
        joined = {
            span
            for pair in pairwise(spans)
            for span in pair
            if not re.search(r"[\s\w]", text[pair[0][1] : pair[1][0]])
        }
        for span in spans:
            is_covered = span not in joined and any(_covers(v, text[slice(*span)]) for v in claimed)
            if not is_covered:
                literals.append(_at(source, start + span[0], "number", text[slice(*span)]))
        shown, places = as_seen(written[start:end])
        for changed in (*CHANGED.finditer(shown), *SHARE.finditer(shown)):
            at = start + places[changed.start()]
            literals.append(_at(source, at, "number", source[max(0, at - 8) : at + 12].strip()))
        for image in _IMAGE.finditer(unseen[start:end]):
            literals.append(_at(source, start + image.start(), "figure", image.group()))
    return literals


def _at(source: str, offset: int, kind: Literal["number", "figure"], text: str) -> Uncovered:
    line = source.count("\n", 0, offset) + 1
    return Uncovered(line, offset - (source.rfind("\n", 0, offset) + 1) + 1, kind, text)


def _numbers_of(value: Any) -> Iterator[float]:
    """Yield the numbers of a claim: one, or those of a table, a range or a comparison."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _covers(value: float, text: str) -> bool:
    """Return whether the value rounds to the number as printed; a half may go either way."""
    return bool(re.fullmatch(PRINTED, text)) and printed(text).holds(value)


def _number_spans(text: str, names: Collection[str]) -> Iterator[tuple[int, int]]:
    for start, end in spans_of_digits(text, names):
        if not _ORDINAL.fullmatch(text[start:end]):
            yield start, end


def _blocks(source: str) -> Iterator[tuple[int, int]]:
    start = offset = 0
    for line in source.splitlines(keepends=True):
        if _BLOCK.match(line) and offset > start:
            yield start, offset
            start = offset
        offset += len(line)
    if offset > start:
        yield start, offset


def _split(source: str) -> tuple[str, str, str]:
    """Return the template's code, its texts, and the prose in these, each at its original position.

    Everything else is blanked out.
    """
    code: list[str] = []
    texts: list[str] = []
    offset, begun, last = 0, 0, ""
    for _, kind, value in Environment(keep_trailing_newline=True).lex(source):
        # The lexer drops only the white space that '-' in a tag eats.
        start = source.index(value, offset)
        gap, offset = source[offset:start], start + len(value)
        parted = kind == "name" and value in ("else", "elif")
        shown = _blank(value, _PARTED if parted else _HOLE)
        if kind == "variable_begin":
            shown, begun = NUMBER + shown[1:], len(texts)
        elif kind == "variable_end" and last == "mark":  # Of a claim: no number.
            texts[begun] = texts[begun].replace(NUMBER, _PARTED)
        last = value if kind not in ("whitespace", "variable_begin") else last
        code.append(_blank(gap) + (_blank(value) if kind == "data" else value))
        texts.append(_blank(gap, _HOLE) + (value if kind == "data" else shown))
    text = written = "".join(texts) + source[offset:]
    for pattern in _NOT_PROSE:
        text = pattern.sub(lambda found: _blank(found.group()), text)
    for pattern in (_LIST, _HEADING):
        text = _without_numbering(text, pattern)
    text = _FORMULA.sub(lambda found: _assigned(found.group()), text)
    lines = [_without_citations(line) for line in text.split("\n")]
    return "".join(code), written, "\n".join(lines)


def _blank(text: str, fill: str = " ") -> str:
    return "".join("\n" if letter == "\n" else fill for letter in text)


def _without_numbering(text: str, pattern: re.Pattern[str]) -> str:
    """Blank out numbers that count items or headings consecutively."""
    last: tuple[int, ...] = ()

    def blanked(match: re.Match[str]) -> str:
        nonlocal last
        now = tuple(map(int, match[1].split(".")))
        next_one = (*last[: len(now) - 1], (*last, 0)[len(now) - 1] + 1) if last else (1,)
        if now not in ((1,), next_one, (*last, 1)):
            return match.group()
        last = now
        return _blank(match.group())

    return pattern.sub(blanked, text)


def _without_code(text: str) -> str:
    """Blank out the code of a text, in which no picture counts."""
    lines = text.split("\n")
    for token in parser().parse(text):
        if token.type in ("fence", "code_block") and token.map:
            for number in range(*token.map):
                lines[number] = _blank(lines[number])
    return _CODE.sub(lambda found: _blank(found.group()), "\n".join(lines))


def _without_citations(line: str) -> str:
    for start, end in spans_of_citations(line):
        line = line[:start] + " " * (end - start) + line[end:]
    return line


def _assigned(formula: str) -> str:
    """Keep only the numbers of a formula after an equals sign or of several digits.

    A formula without a letter is just a number and stays.
    """
    if not re.search(r"[^\W\d]", formula):
        return formula.replace("$", " ")
    flat = formula
    while (inner := re.sub(r"\{[^{}]*\}", lambda match: " " * len(match.group()), flat)) != flat:
        flat = inner
    kept = [" " if letter != "\n" else letter for letter in formula]
    for match in (*_ASSIGNED.finditer(flat), *_LONG.finditer(formula)):
        start, end = match.span(1)
        kept[start:end] = formula[start:end]
    return "".join(kept)
