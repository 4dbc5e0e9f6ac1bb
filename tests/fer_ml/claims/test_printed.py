"""Printed numbers against the definition of rounding, and shares against every k."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.claims.printed import not_a_share, not_the_sum, of_count, printed, show_like


@pytest.mark.parametrize(
    ("value", "text", "holds"),
    [
        (0.7501744, "0.750174", True),
        (0.7501746, "0.750174", False),
        (0.125, "0.12", True),
        (0.125, "0.13", True),
        (0.1251, "0.12", False),
        (0.7399, "0.740", True),
        (0.7394, "0.740", False),
        (0.7394, "0.74", True),
        (0.1 + 0.2, "0.300000000", True),
        (466284, "466,284", True),
        (466284, "466283", False),
        (466284.5, "466284", True),
        (-0.125, "-0.13", True),
        (0.0914, "9.1%", True),
        (0.0916, "9.1%", False),
        (1e-9, "0.000000", True),
        (1.967, "2", True),
        (0.996, "100%", True),
        (0.734, "1", False),
        (0.3, "0", False),
        (0.004, "0%", False),
    ],
)
def test_what_a_printed_number_stands_for(value: float, text: str, holds: bool) -> None:
    assert printed(text).holds(value) is holds


@settings(max_examples=300)
@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_a_number_holds_as_python_prints_it(value: float, decimals: int) -> None:
    step = Decimal(1).scaleb(-decimals)
    rounded = Decimal(str(value)).quantize(step, ROUND_HALF_EVEN)
    assert printed(f"{rounded:f}").holds(value)
    assert not printed(f"{rounded + step:f}").holds(value) or value % 1 != 0


@pytest.mark.parametrize(
    "text", ["", "1e3", "1.", ".5", "1,00", "1,0000", "0x1", "nan", "1 000", "١"]
)
def test_what_is_no_printed_number(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number as it is printed"):
        printed(text)


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [(466284, "466284", "466,284"), (0.74, "0.740", "0.740"), (0.0914, "9.1%", "9.1%")],
)
def test_numbers_are_shown_as_they_were_printed(value: float, text: str, shown: str) -> None:
    assert show_like(value, text) == shown


@settings(max_examples=300)
@given(st.integers(1, 400), st.integers(0, 10_000))
def test_a_printed_share_fits_exactly_where_some_k_rounds_to_it(n: int, digits: int) -> None:
    number = printed(f"{digits / 10_000:.4f}")
    fits = any(abs(Fraction(k, n) - number.value) <= number.half for k in range(n + 1))
    assert (not_a_share(number.value, number.half, Fraction(n)) is None) is fits


@pytest.mark.parametrize(
    ("accuracy", "k"), [("0.750174", 16131), ("0.734688", 15798), ("0.737432", 15857)]
)
def test_the_first_pipelines_students_were_measured_on_21503_rows(accuracy: str, k: int) -> None:
    number = printed(accuracy)
    assert round(k / 21503, 6) == float(accuracy)
    assert not_a_share(number.value, number.half, Fraction(21503)) is None
    for n in (18020, 27840):
        assert "for any whole k" in str(not_a_share(number.value, number.half, Fraction(n)))


@pytest.mark.parametrize(("value", "n"), [("0.5", 0), ("1.5", 3), ("-0.5", 4)])
def test_what_no_share_can_be(value: str, n: int) -> None:
    assert not_a_share(Fraction(value), Fraction(0), Fraction(n))
    assert not_a_share(Fraction(value), Fraction(0), Fraction(7, 2))


def test_every_share_that_a_program_computes_is_one() -> None:
    for n in range(1, 120):
        for k in range(n + 1):
            assert not_a_share(Fraction(str(k / n)), Fraction(0), Fraction(n)) is None
    assert not_a_share(Fraction(str(1 / 3)), Fraction(0), Fraction(10**6))


def parts(*texts: str) -> list[tuple[Fraction, Fraction]]:
    return [(printed(text).value, of_count(printed(text))) for text in texts]


def test_counts_add_up_exactly() -> None:
    sources = parts("140,000", "138526", "91793", "71764", "15339", "4908", "3954")
    assert not_the_sum(Fraction(466284), Fraction(0), sources) is None
    assert "add up to 466284, not 466285" in str(
        not_the_sum(Fraction(466285), Fraction(0), sources)
    )


def test_rounded_parts_may_be_off_by_their_rounding_and_no_more() -> None:
    thirds = parts("0.33", "0.33", "0.33")
    one = printed("1.00")
    assert not_the_sum(one.value, of_count(one), thirds) is None
    assert not_the_sum(Fraction("1.03"), one.half, thirds)
