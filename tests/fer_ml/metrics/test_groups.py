"""Metrics by a column, and gaps between its values, against the rows of each value alone."""

import numpy as np
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import classification_metrics, softmax
from fer_ml.metrics.groups import (
    FAIRNESS_METRICS,
    MIN_GROUPS,
    NO_VALUE,
    fairness_table,
    metrics_by,
    value_rows,
)
from fer_ml.metrics.resampling import draws, group_sums, metric_intervals
from tests.refusals import refused

C = len(CLASSES)


def sample(
    seed: int, n: int, worse: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``y``, logits, a column of a, b and c, groups; rows of c have noise added to their logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)) * 2
    y = (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(0, C - 1)
    values = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    logits[values == "c"] += worse * rng.normal(size=((values == "c").sum(), C))
    return y, logits, values, np.arange(n) // 2


def test_rows_of_each_value() -> None:
    found = value_rows([30, None, "x", 30, None])
    assert {name: rows.tolist() for name, rows in found.items()} == {
        NO_VALUE: [1, 4],
        "30": [0, 3],
        "x": [2],
    }


def test_metrics_by_value_are_those_of_its_rows() -> None:
    y, logits, values, _ = sample(0, 90)
    found = metrics_by(y, logits, values.tolist(), 1.3)
    assert list(found) == ["a", "b", "c"]
    for name, metrics in found.items():
        assert metrics == classification_metrics(y[values == name], logits[values == name], 1.3)
    with refused("length-mismatch"):
        metrics_by(y, logits, ["a", "b"])


def test_a_fairness_table_is_the_metrics_of_each_value() -> None:
    y, logits, values, groups = sample(1, 3000)
    found = fairness_table(y, logits, values, groups, 1.2, resamples=50)
    assert sum(row.n for row in found.rows) == 3000
    for row in found.rows:
        rows = values == row.value
        wanted = classification_metrics(y[rows], logits[rows], 1.2)
        assert row.n == rows.sum() and row.groups == len(set(groups[rows]))
        assert row.metrics == pytest.approx({name: wanted[name] for name in FAIRNESS_METRICS})
    for name, gap in found.gaps.items():
        held = {row.value: row.metrics[name] for row in found.rows}
        assert gap.difference.value == pytest.approx(max(held.values()) - min(held.values()))
        assert held[gap.highest] == max(held.values()) and held[gap.lowest] == min(held.values())


def test_a_table_of_one_value_has_the_intervals_of_the_whole_set() -> None:
    y, logits, _, groups = sample(2, 400)
    found = fairness_table(y, logits, ["all"] * 400, groups, resamples=70, seed=3)
    whole = metric_intervals(group_sums(y, logits, groups)[None], resamples=70, seed=3)[0]
    assert found.rows[0].intervals == {name: whole[name] for name in FAIRNESS_METRICS}
    assert found.gaps == {}


def test_a_gaps_interval_by_drawing_the_same_rows() -> None:
    y, logits, values, groups = sample(3, 1200)
    found = fairness_table(y, logits, values, groups, resamples=40, seed=9)
    observed = metrics_by(y, logits, values)
    reach = []
    for drawn in draws(600, 40, seed=9):
        rows = np.concatenate([[2 * group, 2 * group + 1] for group in drawn])
        again = metrics_by(y[rows], logits[rows], values[rows])
        moved = [again[name]["macro_f1"] - observed[name]["macro_f1"] for name in "abc"]
        reach.append(max(moved) - min(moved))
    gap, q = found.gaps["macro_f1"].difference, np.quantile(reach, 0.95)
    assert (gap.value - gap.low, gap.high - gap.value) == pytest.approx((q, q))


def test_a_gap_that_is_there_is_told_from_one_that_is_not() -> None:
    """Of 40 sets without a gap at most a few have an interval above zero; with one, all have."""
    false = sum(
        fairness_table(*sample(seed, 1500), resamples=100, seed=seed)
        .gaps["accuracy"]
        .difference.low
        > 0
        for seed in range(40)
    )
    assert false <= 4
    for seed in range(3):
        gap = fairness_table(*sample(seed, 3000, worse=3), resamples=100).gaps["accuracy"]
        assert gap.lowest == "c" and gap.difference.low > 0


def test_what_does_not_count_is_shown() -> None:
    y, logits, values, groups = sample(4, 2000)
    values = values.astype(object)
    values[:300] = None
    values[300:330] = "rare"
    logits[300:330] = np.eye(C)[(y[300:330] + 1) % C] * 9
    found = fairness_table(y, logits, values, groups, resamples=30)
    shown = {row.value: row for row in found.rows}
    assert sorted(shown) == [NO_VALUE, "a", "b", "c", "rare"]
    assert shown["rare"].n == 30 and shown["rare"].metrics["accuracy"] == 0.0
    assert shown["rare"].intervals == shown[NO_VALUE].intervals == {}
    assert found.min_groups == MIN_GROUPS
    for gap in found.gaps.values():
        assert {gap.highest, gap.lowest} <= {"a", "b", "c"}


def test_a_value_that_lacks_a_class_makes_no_gap_of_macro_f1() -> None:
    y, logits, values, groups = sample(5, 3000)
    keep = ~((values == "c") & (y == 1))
    found = fairness_table(y[keep], logits[keep], values[keep], groups[keep], resamples=30)
    lacking = {row.value: row.absent_classes for row in found.rows}
    assert lacking == {"a": (), "b": (), "c": (CLASSES[1],)}
    assert {found.gaps["macro_f1"].highest, found.gaps["macro_f1"].lowest} == {"a", "b"}


def test_a_limit_too_low_for_a_resample_is_refused() -> None:
    with refused("invalid-value", allowed="at least 20"):
        fairness_table(*sample(6, 100), min_groups=5)
