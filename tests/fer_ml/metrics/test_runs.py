"""Intervals over runs and faces: by hand, and by how often they hold a known truth."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats

from fer_ml.metrics.resampling import Resampled, holm
from fer_ml.metrics.runs import over_runs
from tests.refusals import refused

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """``benchmarks/coverage.py``: the simulation, which on demand writes a page."""
    spec = importlib.util.spec_from_file_location("coverage_of", BENCHMARKS / "coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_of"] = module
    spec.loader.exec_module(module)
    return module


def measured(value: Any, again: Any, groups: int = 50) -> Resampled:
    return Resampled({"x": np.array(value)}, {"x": np.array(again)}, groups)


def test_intervals_hold_the_truth_as_often_as_they_say(coverage: ModuleType) -> None:
    """150 repeats of two equal methods each; benchmarks/coverage.py does more of them."""
    found = {runs: coverage.shares(coverage.World(), runs, 150) for runs in (3, 5, 10)}
    every = [share for shares in found.values() for share in shares.values()]
    assert 0.93 <= np.mean(every) <= 0.97, found
    # 150 repeats tell a share of 0.95 to within 0.05, at nearly three standard errors.
    assert min(every) >= 0.90, found


def test_of_runs_alone_it_is_welchs_t() -> None:
    """Where faces change nothing, what is left is the textbook test of unequal variances."""
    a, b = [0.52, 0.55, 0.61], [0.40, 0.41, 0.45]
    found = over_runs(measured([*a, *b], np.zeros((6, 20))), range(3), range(3, 6))["x"]
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    bounds = welch.confidence_interval(0.95)
    assert found.p_value == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_of_one_side_it_is_students_t() -> None:
    values = [0.52, 0.55, 0.61, 0.50]
    found = over_runs(measured(values, np.zeros((4, 20))), range(4))["x"]
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_what_faces_do_to_all_runs_alike_is_added_once() -> None:
    """Runs that do not differ: the interval is that of the faces, as wide for 2 runs as for 9."""
    rng = np.random.default_rng(0)
    moved = rng.normal(size=400)
    for runs in (2, 9):
        again = np.stack([moved] * runs + [np.zeros(400)] * runs)
        found = over_runs(
            measured([1.0] * runs + [0.0] * runs, again), range(runs), range(runs, 2 * runs)
        )["x"]
        reach = scipy.stats.t.ppf(0.975, 49) * moved.std(ddof=1)
        assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach))


def test_runs_that_agree_by_chance_leave_the_interval_of_their_faces() -> None:
    """Each run answers other faces right, as many as the others: their mean is not certain."""
    moved = np.random.default_rng(0).normal(size=(4, 400))
    found = over_runs(measured([0.5] * 4, moved), range(4))["x"]
    reach = scipy.stats.t.ppf(0.975, 49) * moved.mean(axis=0).std(ddof=1)
    assert found.high - found.value == pytest.approx(reach)


def test_what_faces_do_to_both_sides_alike_cancels() -> None:
    moved = np.random.default_rng(0).normal(size=400)
    values = [0.5, 0.6, 0.4, 0.45]
    alike = over_runs(measured(values, [moved] * 4), range(2), range(2, 4))["x"]
    still = over_runs(measured(values, np.zeros((4, 400))), range(2), range(2, 4))["x"]
    assert (alike.low, alike.high) == pytest.approx((still.low, still.high))


def test_equal_runs_have_no_width() -> None:
    found = over_runs(measured([0.5] * 4, np.zeros((4, 9))), range(2), range(2, 4))["x"]
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(("runs", "against"), [(1, 3), (3, 1), (1, 0), (0, 0)])
def test_one_run_gives_no_interval(runs: int, against: int) -> None:
    models = measured([0.5] * 6, np.zeros((6, 9)))
    with refused("too-few-runs", allowed="at least 2 runs a side"):
        over_runs(models, range(runs), range(3, 3 + against))


def test_holm_by_hand() -> None:
    # 0.01 x 4, then 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert math.isclose(holm([0.03])[0], 0.03)
