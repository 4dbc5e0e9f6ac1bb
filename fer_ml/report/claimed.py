r"""Compare any report with claims: misquoted claims, and numbers that no claim covers.

A report refers to a claim by a link to its page, by ``\ferclaim`` or Quarto's ``var``, or by
repeating its sentence. The number printed there must be the claim's value. Other numbers of the
same paragraph are covered when the claim's value rounds to them.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_ml.claims.printed import PRINTED, printed
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.sentences import NAMES, PLACE, spans_of_digits
from fer_ml.report.literals import Uncovered, find_uncovered

#: A link to a claim's page (``claims/ID.html``), to its mark (``#ID``), or to ``ferclaim:ID``.
_LINK = re.compile(
    r"(?<!!)\[(?P<text>(?:[^\[\]\n]|\\[\[\]]){0,400})\]"
    r"\((?:(?P<named>ferclaim:)|[^)\s]*?(?:claims/|\#(?:claim-)?))(?P<id>[a-z0-9][a-z0-9_-]*)"
    r"(?:\.html)?\)(?:\{[^}\n]*\})?"
)
_NUMBER = re.compile(r"[-\u2212]?\d[\d,]*(?:\.\d+)?(?:\s?\\?%)?")
#: Mark-up that may stand around a value.
_MARKED = r"[*_`$\\\[\s]{0,4}"
_WORD = r"[^\W\d_]{2,}"
#: A sentence of fewer words than these could be said of anything.
WORDS = 3


@dataclass(frozen=True)
class Misquote:
    """A wrong quotation of a claim; ``shown`` is its value, or ``None`` for an unknown claim."""

    line: int
    claim: str
    said: str
    shown: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the misquote as JSON values."""
        return {"line": self.line, "claim": self.claim, "said": self.said, "shown": self.shown}


@dataclass(frozen=True)
class UncoveredNumber:
    """A number that no claim covers; ``near`` holds the words around it."""

    line: int
    text: str
    near: str

    def to_json(self) -> dict[str, Any]:
        """Return the number as JSON values."""
        return {"line": self.line, "text": self.text, "near": self.near}


@dataclass(frozen=True)
class Covered:
    """A report compared with claims: misquotes (``wrong``) and numbers without one (``uncovered``).

    ``referred`` are the claims that it refers to.
    """

    referred: tuple[str, ...]
    wrong: tuple[Misquote, ...]
    uncovered: tuple[UncoveredNumber, ...]

    @property
    def sound(self) -> bool:
        """Whether the report misquotes no claim."""
        return not self.wrong

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "referred": list(self.referred),
            "wrong": [said.to_json() for said in self.wrong],
            "uncovered": [number.to_json() for number in self.uncovered],
        }


def check_claims(text: str, claims: Sequence[Resolved], names: Sequence[str]) -> Covered:
    """Compare a report's Markdown with claims; words in ``names`` are not taken for numbers."""
    by_id = {claim.claim.id: claim for claim in claims}
    # What a template would take for its own.
    text = re.sub(r"\{(?=[{%#])", "(", text)
    wrong: list[Misquote] = []
    referred: dict[str, None] = {}
    pieces, done, line, counted = [], 0, 1, 0
    for start, end, claim, numbers in sorted(_mentions(text, by_id, NAMES.union(names))):
        known = by_id.get(claim)
        line, counted = line + text.count("\n", counted, start), start
        if known is None:
            wrong.append(Misquote(line, claim, ", ".join(numbers), None))
            continue
        referred[claim] = None
        wrong += [Misquote(line, claim, n, known.shown()) for n in numbers if not _is(known, n)]
        if start >= done:  # Else it is inside of another reference.
            kept = "\n" * text.count("\n", start, end)
            pieces += [text[done:start], f"{{{{ claim('{claim}').mark }}}}{kept}"]
            done = end
    source = "".join([*pieces, text[done:]])
    values: Mapping[str, Any] = {name: claim.value for name, claim in by_id.items()}
    lines = source.split("\n")
    bare = [
        UncoveredNumber(literal.line, literal.text, _near(lines[literal.line - 1], literal))
        for literal in find_uncovered(source, values, names)
        if literal.kind == "number"
    ]
    return Covered(tuple(referred), tuple(dict.fromkeys(wrong)), tuple(bare))


def _near(line: str, literal: Uncovered) -> str:
    at = literal.column - 1
    around = line[max(0, at - 30) : at + 30]
    return re.sub(r"\{\{.*?\}\}|^[^{]*\}\}|\{\{.*$", "...", around).strip()


Found = tuple[int, int, str, list[str]]


def _mentions(text: str, by_id: Mapping[str, Resolved], names: Collection[str]) -> Iterator[Found]:
    """Yield each reference to a claim: its place, the claim, and the numbers printed there."""
    yield from _sentences(text, by_id)
    for link in _LINK.finditer(text):
        if link["named"] or link["id"] in by_id:
            said = link["text"]
            numbers = [said[slice(*span)] for span in spans_of_digits(said, names)]
            yield link.start(), link.end(), link["id"], numbers


def _sentences(text: str, by_id: Mapping[str, Resolved]) -> Iterator[Found]:
    used = set(re.findall(_WORD, text))
    for name, claim in by_id.items():
        before, _, after = claim.claim.sentence.partition(PLACE)
        words = re.findall(_WORD, before + after)
        if len(words) < WORDS or not used.issuperset(words):
            continue
        if PLACE in after or not re.fullmatch(PRINTED, claim.shown()):
            continue
        pattern = rf"{_loose(before)}{_MARKED}(?P<value>{_NUMBER.pattern}){_MARKED}{_loose(after)}"
        for said in re.finditer(pattern, text):
            yield said.start("value"), said.end("value"), name, [said["value"]]


def _loose(words: str) -> str:
    """Return a pattern for the words with any white space and escapes between them."""
    return r"\s+".join(
        "".join(rf"\\?{re.escape(sign)}" for sign in word) for word in words.strip().split()
    )


def _is(claim: Resolved, number: str) -> bool:
    """Return whether a printed number is one of the claim's, with any number of digits."""
    plain = re.sub(r"[\s\\]", "", number).replace("\u2212", "-")
    if plain in re.findall(_NUMBER, claim.shown()):
        return True
    values = list(_numbers(claim.value))
    return bool(re.fullmatch(PRINTED, plain)) and any(printed(plain).holds(v) for v in values)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
