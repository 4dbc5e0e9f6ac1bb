"""Confidence intervals of methods, which cover both other runs and other faces. Needs SciPy.

A method's score is its mean over independent runs (seeds). It would differ with other runs and with
other faces. A bootstrap over three runs underestimates the variance between runs by a third. Here
both variances are estimated, and the interval comes from a t distribution, which is the wider the
fewer runs there are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from fer_ml.base.errors import FerError
from fer_ml.metrics.resampling import LEVEL, Difference, Resampled

#: With fewer there is no spread between runs, and no interval of the method.
LEAST_RUNS = 2


class _Estimate(NamedTuple):
    """A figure with its standard error and the degrees of freedom of that."""

    value: float
    error: float
    freedom: float


def over_runs(
    models: Resampled, runs: Sequence[int], against: Sequence[int] = (), level: float = LEVEL
) -> dict[str, Difference]:
    """Return for every metric the mean over ``runs`` minus the mean over the runs ``against``.

    Both are indices of models in ``models``; without ``against`` nothing is subtracted. The
    interval is value -+ t x error with Satterthwaite's degrees of freedom (1946); p tests that the
    value is zero. ``FerError`` with fewer than two runs on a side.

    >>> again = np.full((2, 9), 0.5)
    >>> held = Resampled({"accuracy": np.array([0.4, 0.6])}, {"accuracy": again}, 10)
    >>> over_runs(held, [0, 1])["accuracy"].value
    0.5
    """
    sides = [list(runs), *([list(against)] if len(against) else [])]
    few = min(len(side) for side in sides)
    if few < LEAST_RUNS:
        raise FerError(
            f"a confidence interval of a method cannot come from {few} run{'s' * (few != 1)}",
            code="too-few-runs",
            allowed=f"at least {LEAST_RUNS} runs a side",
            fix="train the method with more seeds",
        )
    differences = {}
    for name, value in models.value.items():
        made = _estimate(
            [value[side] for side in sides], [models.again[name][s] for s in sides], models.groups
        )
        differences[name] = _difference(made, level)
    return differences


def _estimate(values: list[np.ndarray], again: list[np.ndarray], groups: int) -> _Estimate:
    """Mean (of the first less the second) with the variance that runs and faces give it.

    The variance of a side's runs on these faces, over their number, holds all that differs from
    run to run. What faces do to all runs alike is the covariance, over resampled faces, of two
    different runs: within a side, and less that between the sides. Both together are never less
    than what other faces alone do to the mean of these very runs.
    """
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in values]
    moved = [side - side.mean(axis=1, keepdims=True) for side in again]
    means = [side.mean(axis=0) for side in moved]
    freedom = len(means[0]) - 1
    alike = -2 * float(means[0] @ means[1]) / freedom if len(means) > 1 else 0.0
    for side, mean in zip(moved, means, strict=True):
        runs = len(side)
        alike += float(runs**2 * (mean @ mean) - (side**2).sum()) / freedom / (runs * (runs - 1))
    contrast = means[0] - means[1] if len(means) > 1 else means[0]
    faces = float(contrast @ contrast) / freedom
    parts.append((max(0.0, alike, faces - sum(part for part, _ in parts)), groups - 1))
    variance = sum(part for part, _ in parts)
    squares = sum(part**2 / degrees for part, degrees in parts)
    value = float(values[0].mean()) - (float(values[1].mean()) if len(values) > 1 else 0.0)
    return _Estimate(value, variance**0.5, variance**2 / squares if squares else np.inf)


def _difference(made: _Estimate, level: float) -> Difference:
    if made.error == 0:
        p = 1.0 if made.value == 0 else 0.0
        return Difference(made.value, made.value, made.value, p)
    reach = float(stdtrit(made.freedom, (1 + level) / 2)) * made.error
    p = 2 * float(stdtr(made.freedom, -abs(made.value) / made.error))
    return Difference(made.value, made.value - reach, made.value + reach, p)
