"""The numbers in a claim's sentence: each must be bound to something that the claim is checked on.

A sentence consists of words and the placeholder ``{value}``, which the artifact fills. A number
written into it by hand must be one that the claim itself is checked on, such as the n of its
evaluation set. A word with a digit must be a known name: one of the project's, or one that the
claims file declares.

Number words are English words without another meaning. 'One', 'a pair' and 'a score' are not
counted, nor Roman numerals in Latin letters, since CI, CV, ML and MCC would be numbers.
"""

import html
import re
import unicodedata
from collections.abc import Collection, Iterator
from fractions import Fraction

from fer_ml.claims.model import (
    Claim,
    ComparisonClaim,
    ConfigurationClaim,
    FormulaClaim,
    NonInferiorityClaim,
    ProportionClaim,
    RangeClaim,
    SumClaim,
    TableClaim,
)
from fer_ml.claims.printed import PRINTED, printed
from fer_ml.recipes.profile import BACKBONES

PLACE = "{value}"
#: Names with digits that every claims file may use.
NAMES = frozenset({*BACKBONES, "F1", "f1"})
_UNITS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_PARTS = "fifth sixth seventh eighth ninth"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS: dict[str, Fraction] = {
    **{word: Fraction(number) for number, word in enumerate(_UNITS.split(), start=2)},
    **{word: Fraction(10 * number) for number, word in enumerate(_TENS.split(), start=2)},
    **dict.fromkeys(("half", "halves", "halved"), Fraction(1, 2)),
    **dict.fromkeys(("third", "thirds"), Fraction(1, 3)),
    **dict.fromkeys(("quarter", "quarters"), Fraction(1, 4)),
    **dict.fromkeys(("twice", "double", "doubled", "doubles", "couple"), Fraction(2)),
    **dict.fromkeys(("thrice", "triple", "tripled", "triples"), Fraction(3)),
    **dict.fromkeys(("quadruple", "quadrupled"), Fraction(4)),
    **dict.fromkeys(("quintuple", "quintupled"), Fraction(5)),
    **{f"{word}s": Fraction(1, number) for number, word in enumerate(_PARTS.split(), start=5)},
    **dict.fromkeys(("tenth", "tenths"), Fraction(1, 10)),
    **dict.fromkeys(("hundredth", "hundredths"), Fraction(1, 100)),
    **dict.fromkeys(("thousandth", "thousandths"), Fraction(1, 1000)),
    **dict.fromkeys(("zero", "nought"), Fraction(0)),
    **dict.fromkeys(("dozen", "dozens"), Fraction(12)),
    **dict.fromkeys(("hundred", "hundreds"), Fraction(100)),
    **dict.fromkeys(("thousand", "thousands"), Fraction(1000)),
    **dict.fromkeys(("million", "millions"), Fraction(10**6)),
    **dict.fromkeys(("billion", "billions"), Fraction(10**9)),
    **dict.fromkeys(("trillion", "trillions"), Fraction(10**12)),
    **dict.fromkeys(("quadrillion", "quadrillions"), Fraction(10**15)),
    **dict.fromkeys(("lakh", "lakhs"), Fraction(10**5)),
    **dict.fromkeys(("crore", "crores"), Fraction(10**7)),
    **dict.fromkeys(("percent", "percentage", "cent"), Fraction(1, 100)),
    **dict.fromkeys(("permille", "mille"), Fraction(1, 1000)),
}
_TOKEN = re.compile(r"[^\s()\[\]{}<>\"'`=/;:!?|*_~#&\\\u2018\u2019\u201c\u201d\u2026\ue000\ue001]+")
#: What would make another number of what is printed at the place.
_TOUCHED = re.compile(r"[\w.,+/^%\u2212-]\{value\}|\{value\}(?:[\w+/^-]|\{|[.,][0-9]|\s?[%\u2030])")
#: Stands for a number from elsewhere in a text as it is seen.
NUMBER = "\ue001"
_UNIT = (
    r"[%\u2030\u2031\u066a^]|per ?(?:cent|mille)\b|basis points?\b|percentage points?\b|-?fold\b"
    r"|(?:[kKM]|bn|[Mm]io|pp|ppm|bps?|dozen|hundred|thousand|lakh|crore|million|billion|trillion"
    r"|tenths?|hundredths?|thousandths?)\b"
)
#: What changes such a number for whoever reads it: a unit, a sign, another number that touches it.
CHANGED = re.compile(
    rf"{NUMBER}(?=\s?(?:{_UNIT})|[.,]?[\d{NUMBER}]|[mbBx]\b)"
    rf"|(?<=\d)[.,]?{NUMBER}|(?<![\w)\]{NUMBER}])[-+\u2212\u221a]{NUMBER}"
    rf"|\b(?:minus|negative)\s{NUMBER}"
)
_ANY = "|".join(sorted(_WORDS, key=len, reverse=True))
_WORD = re.compile(rf"(?:{_ANY})+(?:fold)?", re.IGNORECASE)
#: Shares in words.
SHARE = re.compile(
    rf"\b(?:{_ANY})[ -]?(?:per ?cent\b|%)|\b(?:one|{_ANY}) (?:out of|in)(?: every)? (?:{_ANY})\b"
    rf"|\b(?:one|{_UNITS.replace(' ', '|')})[ -]"
    rf"(?:third|quarter|{_PARTS.replace(' ', '|')}|tenth|hundredth)s?\b",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&\w+;")
_PIECE = re.compile(r"<!--.*?-->|</?[A-Za-z][^>]*>|&#?\w+;|.", re.DOTALL)
#: Letters of other alphabets that look as Latin ones do.
_LOOK_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u04cf\u04af"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405\u0500\u051a\u051c"
    "\u03bf\u03bd\u03b9\u03b1\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0131\u0237\u0251\u0261",
    "aeopcyxijshdqwlyABEKMHOPCTXIJSDQWoviaABEZHIKMNOPTYXijag",
)
#: Pictures of ten and of a hundred.
_PICTURES = "\U0001f51f\U0001f4af"
#: Characters that Markdown does not print, and what stands for a template's code.
_UNPRINTED = frozenset("*_`~\\$\ue000")


def unbound(claim: Claim, names: Collection[str]) -> str | None:
    """Say which number in a claim's sentence is not backed by the claim, or return ``None``."""
    if PLACE not in claim.sentence:
        return f"its sentence has no place {PLACE} for what the artifact holds"
    shown, _ = as_seen(claim.sentence.replace(PLACE, NUMBER))
    if _TOUCHED.search(claim.sentence) or CHANGED.search(shown):
        return f"its sentence adds to the number at {PLACE}, which stands there as it is printed"
    known, values = NAMES.union(names), set(_checked(claim))
    texts = [claim.sentence.replace(PLACE, " ")]
    if isinstance(claim, TableClaim):
        texts += [*claim.rows, *claim.expected, *claim.columns]
    for text in texts:
        for number in numbers_of(text, known):
            if _value(number) not in values:
                return f"{number!r} is written by hand, and nothing of the claim is held to it"
    return None


def numbers_of(text: str, names: Collection[str]) -> Iterator[str]:
    """Yield every number of a text, in digits of any script or in words, except in ``names``."""
    yield from (text[start:end] for start, end in spans_of_digits(text, names))
    for match in _TOKEN.finditer(as_seen(text)[0]):
        # A word of a compound stands for itself: 'ninety-nine', 'three-fold'.
        yield from filter(_is_word, match.group().rstrip(".,").split("-"))


def as_seen(text: str) -> tuple[str, list[int]]:
    """Return a text as its reader sees it, and for each character its index in the original.

    The result has plain letters, hyphens and single spaces, however they were written, and no
    mark-up.
    """
    letters: list[str] = []
    places: list[int] = []
    for match in _PIECE.finditer(text):
        piece = match.group()
        piece = "" if len(piece) > 1 and piece[0] == "<" else html.unescape(piece)
        for letter in unicodedata.normalize("NFKD", piece).translate(_LOOK_ALIKE):
            kind = unicodedata.category(letter)
            if letter in _UNPRINTED or kind in ("Cf", "Mn", "Me"):
                continue
            shown = " " if letter.isspace() else "-" if kind == "Pd" else letter
            if shown != " " or letters[-1:] != [" "]:
                letters.append(shown)
                places.append(match.start())
    return "".join(letters), places


def spans_of_digits(text: str, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the spans of words with a digit (of any script) that are not in or part of ``names``.

    An HTML entity counts as the character it stands for.
    """
    for match in _ENTITY.finditer(text):
        if _digits(html.unescape(match.group())) and not _digits(match.group()):
            yield match.span()
    for match in _TOKEN.finditer(text):
        token = match.group().rstrip(".,")
        start = match.start() + len(token) - len(token := token.lstrip(","))
        if token not in names and any(_digits(p) and p not in names for p in token.split("-")):
            yield start, start + len(token)


def _is_word(part: str) -> bool:
    return _WORD.fullmatch(part) is not None


def _digits(part: str) -> bool:
    return any(unicodedata.numeric(c, None) is not None or c in _PICTURES for c in part)


def _value(text: str) -> Fraction | None:
    if re.fullmatch(PRINTED, text, re.ASCII):
        return printed(text).value
    return _WORDS.get(text.lower())


def _checked(claim: Claim) -> Iterator[Fraction]:
    """Yield the numbers in the claim's other fields, each of which is checked."""
    for text in _stated(claim):
        if re.fullmatch(PRINTED, text):
            yield printed(text).value


def _stated(claim: Claim) -> Iterator[str]:
    if isinstance(claim, ConfigurationClaim):
        yield from (wanted for wanted in claim.settings.values() if wanted is not None)
    elif isinstance(claim, FormulaClaim):
        used = set(re.findall(r"\w+", claim.says))
        yield from (text for name, text in claim.symbols.items() if name in used)
    elif isinstance(claim, RangeClaim):
        yield from (claim.low, claim.high)
    elif isinstance(claim, ComparisonClaim):
        yield from [claim.by] if claim.by else []
    elif isinstance(claim, NonInferiorityClaim):
        yield claim.margin
    elif isinstance(claim, TableClaim):
        yield from (cell for cells in claim.expected.values() for cell in cells)
    expected = getattr(claim, "expected", None)
    yield from [expected] if isinstance(expected, str) else []
    operands: tuple[object, ...] = ()
    if isinstance(claim, ProportionClaim | SumClaim | RangeClaim):
        operands = claim.operands()
    yield from (operand for operand in operands if isinstance(operand, str))
    if claim.asset is not None:
        evaluation = getattr(claim, "evaluation", None)
        yield from [str(evaluation.n)] if evaluation is not None else []
        yield from (text for text in getattr(claim, "where", {}).values() if text is not None)
