"""Printed numbers of a report, and exact arithmetic on them. Needs only Python.

A printed number stands for every number that rounds to it. It holds when the artifact's number
differs by at most half a unit of the last digit and rounding did not remove much of the value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

#: ``466,284``, ``0.740``, ``-1.5``, ``9.1%``.
PRINTED = r"^-?([0-9]{1,3}(,[0-9]{3})+|[0-9]{1,15})(\.[0-9]{1,12})?%?$"

#: A share that a program wrote differs from k/n by the rounding of a float only.
_FLOAT = Fraction(1, 10**12)
#: Sums of numbers that a program wrote: floats of the size of a share.
_FLOAT_SUM = Fraction(1, 10**9)


@dataclass(frozen=True)
class Printed:
    """A printed number: its exact value, and half a unit of its last digit (0 to 1 for a share)."""

    text: str
    value: Fraction
    half: Fraction

    def holds(self, value: float) -> bool:
        """Return whether ``value`` rounds to the printed number; a half may go either way.

        A fraction printed as a whole number must not lose more than a tenth of itself: 0.734 is not
        printed as 1.
        """
        now = exact(value)
        off = abs(now - self.value)
        whole = "." in self.text or (now * (100 if "%" in self.text else 1)).denominator == 1
        return off <= self.half and (whole or 10 * off <= abs(now))


def printed(text: str) -> Printed:
    """Parse a number as it is printed; ``ValueError`` for anything else."""
    if not re.fullmatch(PRINTED, text):
        raise ValueError(f"{text!r} is not a number as it is printed, such as 466,284 or 0.740")
    digits = text.rstrip("%").replace(",", "")
    scale = 100 if text.endswith("%") else 1
    decimals = len(digits.partition(".")[2])
    return Printed(text, Fraction(digits) / scale, Fraction(1, 2 * scale * 10**decimals))


def exact(value: float) -> Fraction:
    """Return the shortest decimal that reads back as ``value``, as an exact fraction."""
    return Fraction(Decimal(str(value)))


def show(value: float, decimals: int) -> str:
    """Format ``value`` with thousands separators and ``decimals`` decimals."""
    return f"{value:,.{decimals}f}"


def show_like(value: float, text: str) -> str:
    """Format ``value`` with the decimals, and the ``%``, of the printed number ``text``."""
    percent = "%" if text.endswith("%") else ""
    decimals = len(text.rstrip("%").partition(".")[2])
    return show(value * 100 if percent else value, decimals) + percent


def not_a_share(value: Fraction, half: Fraction, n: Fraction) -> str | None:
    """Say why no whole k gives ``value`` = k/n within ``half``; ``None`` when one does.

    ``half`` is half a unit of the last printed digit. It is 0 for a number that a program wrote,
    which may differ only by float rounding.
    """
    if n <= 0 or n.denominator != 1:
        return f"n is {_plain(n)}, not a whole number above 0"
    if not 0 <= value <= 1:
        return f"{_plain(value)} is not between 0 and 1"
    below = value * n // 1
    nearest = min((below, below + 1), key=lambda k: abs(k / n - value))
    if abs(nearest / n - value) <= max(half, _FLOAT):
        return None
    around = " and ".join(f"{k}/{_plain(n)} = {float(k / n):.9f}" for k in (below, below + 1))
    return f"{_plain(value)} is not k/{_plain(n)} for any whole k: its neighbours are {around}"


def not_the_sum(
    total: Fraction, half: Fraction, parts: Sequence[tuple[Fraction, Fraction]]
) -> str | None:
    """Say why ``parts`` (pairs of value and half unit) do not sum to ``total``, or return ``None``.

    Printed integers are exact. Printed decimals may each be off by their half unit, so a sum is
    refused only if no numbers that round to the printed ones can have it.
    """
    parts_sum = sum((value for value, _ in parts), Fraction(0))
    slack = half + sum((part_half for _, part_half in parts), Fraction(0))
    if abs(parts_sum - total) <= max(slack, _FLOAT_SUM):
        return None
    return f"the parts add up to {_plain(parts_sum)}, not {_plain(total)}"


def of_count(number: Printed) -> Fraction:
    """Return the half unit for sums: 0 for a printed integer, which is an exact count."""
    return Fraction(0) if number.half == Fraction(1, 2) else number.half


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"
