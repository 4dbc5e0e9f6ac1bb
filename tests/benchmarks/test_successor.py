"""The rule by which a new student replaces the one that ships."""

from collections.abc import Callable
from types import ModuleType

import pytest

from fer_ml.metrics.resampling import Difference

Gaps = dict[str, dict[str, Difference]]


def gaps(*values: tuple[float, float]) -> Gaps:
    """Differences in macro-F1 and accuracy by set, each with an interval of 0.02 to both sides."""
    return {
        str(number): {
            name: Difference(value, value - 0.02, value + 0.02, 0.5)
            for name, value in zip(("macro_f1", "accuracy"), pair, strict=True)
        }
        for number, pair in enumerate(values)
    }


@pytest.mark.parametrize(
    ("found", "better"),
    [
        (gaps((0.01, 0.01), (0.0, 0.0), (0.0, 0.0)), True),
        (gaps((-0.02, 0.01), (0.03, 0.0), (0.0, 0.0)), True),
        # Worse on one set, beyond chance, though better in the mean.
        (gaps((-0.021, 0.01), (0.1, 0.0), (0.1, 0.0)), False),
        # Better in one metric alone.
        (gaps((0.03, -0.01), (0.03, 0.0), (0.03, 0.0)), False),
        (gaps((-0.01, 0.03), (0.0, 0.03), (0.0, 0.03)), False),
        # Equal in all.
        (gaps((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)), False),
    ],
)
def test_it_must_be_better_in_both_means_and_worse_in_none(
    script: Callable[[str], ModuleType], found: Gaps, better: bool
) -> None:
    assert script("successor").is_better(found) is better
