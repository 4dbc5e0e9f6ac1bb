"""Bootstrap by group against drawing the same rows by hand, scipy, and known populations."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import classification_metrics, softmax
from fer_ml.metrics.resampling import (
    Difference,
    draws,
    group_codes,
    group_sums,
    interval,
    mcnemar,
    metric_intervals,
    metrics_of_sums,
    paired_difference,
    resample,
    resampled_metrics,
)
from tests.refusals import refused

C = len(CLASSES)
SCALARS = ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "ece")


def sample(
    seed: int, n: int, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """``y``, logits whose softmax at T = sharpness is the truth, groups of 1 to 4 rows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)) * 1.5
    y = (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(0, C - 1)
    sizes = rng.integers(1, 5, n)
    groups = np.repeat([f"g{i:04}" for i in rng.permutation(n)], sizes)[:n]
    return y, logits * sharpness, groups, rng


def named(y: np.ndarray, logits: np.ndarray, temperature: float = 1.0) -> dict[str, float]:
    """``classification_metrics`` by the names of ``metrics_of_sums``."""
    found = classification_metrics(y, logits, temperature)
    per_class = {f"f1_{name}": score for name, score in found["per_class_f1"].items()}
    return {**{name: found[name] for name in SCALARS}, **per_class}


def paired_differences(
    a: np.ndarray, b: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """a - b of two models."""
    models = resampled_metrics(np.stack([a, b]), resamples=resamples, seed=seed)
    return paired_difference(models, 0, 1)


def test_sums_over_all_groups_give_the_metrics() -> None:
    y, logits, groups, _ = sample(0, 200)
    found = metrics_of_sums(group_sums(y, logits, groups, 1.4).sum(axis=0))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        named(y, logits, 1.4)
    )


def test_every_resample_is_the_metrics_of_its_rows() -> None:
    """The same draws, row by row: all metrics of 120 resamples, over a block's end."""
    y, logits, groups, _ = sample(1, 150)
    codes, count = group_codes(groups)
    found = metrics_of_sums(resample(group_sums(y, logits, groups), 120, seed=7))
    for index, drawn in enumerate(draws(count, 120, seed=7)):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        wanted = named(y[rows], logits[rows])
        assert {name: float(value[index]) for name, value in found.items()} == pytest.approx(wanted)


def test_models_see_the_same_draws_and_a_seed_fixes_them() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 40, 5))
    found = resample(values, 60, seed=3)
    assert found.shape == (2, 3, 60, 5)
    np.testing.assert_allclose(found[1, 2], resample(values[1, 2], 60, seed=3))
    assert (resample(values, 60, seed=3) == found).all()
    assert (resample(values, 60, seed=4) != found).any()
    np.testing.assert_allclose(resample(values, 10, seed=3), found[..., :10, :])


@pytest.mark.parametrize("name", ["accuracy", "nll"])
def test_against_scipys_bootstrap(name: str) -> None:
    """Another generator, so bounds agree up to the noise of 20,000 resamples."""
    y, logits, _, _ = sample(2, 40)
    column = {
        "accuracy": (logits.argmax(axis=1) == y).astype(float),
        "nll": -np.log(softmax(logits))[np.arange(40), y],
    }[name]
    theirs = scipy.stats.bootstrap(
        (column,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    )
    sums = group_sums(y, logits, np.arange(40))[None]
    ours = metric_intervals(sums, resamples=20_000)[0][name]
    near = 0.04 * theirs.standard_error * 2
    assert ours.value == pytest.approx(column.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=max(near, 1 / 40))
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=max(near, 1 / 40))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """150 samples of a population whose metrics are known; the ECE's interval is conservative."""
    names = ("accuracy", "macro_f1", "nll", "ece")
    hits = {(sharpness, name): 0 for sharpness in (1.0, 1.25) for name in names}
    for sharpness in (1.0, 1.25):
        y, logits, _, _ = sample(99, 200_000, sharpness)
        truth = named(y, logits)
        for seed in range(150):
            y, logits, _, _ = sample(seed, 500, sharpness)
            sums = group_sums(y, logits, np.arange(500))[None]
            found = metric_intervals(sums, resamples=200, seed=seed)[0]
            for name in names:
                hits[sharpness, name] += found[name].low <= truth[name] <= found[name].high
    for (sharpness, name), count in hits.items():
        assert count / 150 > 0.89, (sharpness, name)
        assert name == "ece" or count < 150, (sharpness, name)


def test_the_percentile_interval_of_a_calibrated_ece_would_miss_the_truth() -> None:
    """Why the lower bound of the ECE is another one."""
    y, logits, _, _ = sample(5, 3000)
    sums = group_sums(y, logits, np.arange(3000))
    found = metric_intervals(sums[None], resamples=300)[0]["ece"]
    percentile = interval(found.value, metrics_of_sums(resample(sums, 300))["ece"])
    truth = named(*sample(98, 200_000)[:2])["ece"]
    assert percentile.low > truth
    assert found.low <= truth <= found.high == percentile.high
    assert found.low <= found.value <= found.high


def test_twins_make_an_interval_wider_than_their_rows_suggest() -> None:
    y, logits, _, _ = sample(6, 300)
    four_y, four_logits = np.repeat(y, 4), np.repeat(logits, 4, axis=0)
    twins = np.repeat(np.arange(300), 4)

    def width(groups: np.ndarray) -> float:
        found = metric_intervals(group_sums(four_y, four_logits, groups)[None])[0]["accuracy"]
        return found.high - found.low

    alone = metric_intervals(group_sums(y, logits, np.arange(300))[None])[0]["accuracy"]
    assert width(twins) == pytest.approx(alone.high - alone.low)
    assert width(np.arange(1200)) == pytest.approx(width(twins) / 2, rel=0.15)


def test_a_paired_difference_by_hand() -> None:
    y, logits, groups, rng = sample(7, 200)
    other = logits + rng.normal(size=logits.shape)
    a, b = (group_sums(y, z, groups) for z in (logits, other))
    codes, count = group_codes(groups)
    found = paired_differences(a, b, resamples=80, seed=2)
    moved = []
    for drawn in draws(count, 80, seed=2):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        moved.append(
            named(y[rows], logits[rows])["macro_f1"] - named(y[rows], other[rows])["macro_f1"]
        )
    result = found["macro_f1"]
    assert result.value == pytest.approx(named(y, logits)["macro_f1"] - named(y, other)["macro_f1"])
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(moved, [0.025, 0.975])))
    below = sum(value <= 0 for value in moved)
    assert result.p_value == pytest.approx(min(1, 2 * (min(below, 80 - below) + 1) / 81))


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """One model has a few rows more right: each interval is wide, their difference is not."""
    y, logits, _, _ = sample(8, 1000)
    better = logits.copy()
    mended = np.flatnonzero(logits.argmax(axis=1) != y)[:12]
    better[mended, y[mended]] = 20
    a, b = (group_sums(y, z, np.arange(1000)) for z in (better, logits))
    one, two = (metric_intervals(sums[None])[0]["accuracy"] for sums in (a, b))
    gap = paired_differences(a, b)["accuracy"]
    assert one.low < two.high
    assert gap.value == pytest.approx(0.012) and gap.low > 0 and gap.p_value < 0.01


def test_no_difference_has_no_width() -> None:
    y, logits, groups, _ = sample(9, 100)
    sums = group_sums(y, logits, groups)
    for gap in paired_differences(sums, sums).values():
        assert (gap.value, gap.low, gap.high, gap.p_value) == (0, 0, 0, 1)


def test_different_rows_are_not_compared() -> None:
    y, logits, groups, _ = sample(11, 50)
    other = y.copy()
    other[0] = (other[0] + 1) % C
    a, b = group_sums(y, logits, groups), group_sums(other, logits, groups)
    with refused("different-rows"):
        paired_differences(a, b)
    with refused("different-rows"):
        metric_intervals(np.stack([a, b]))
    with refused("length-mismatch"):
        group_sums(y, logits, groups[1:])


def test_mcnemar_by_hand() -> None:
    a = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 1], dtype=bool)
    b = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 1], dtype=bool)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (5, 1)
    # 2 (C(6,0) + C(6,1)) / 2^6
    assert found.p_value == 14 / 64
    assert mcnemar(a, a).p_value == 1.0
    with refused("length-mismatch"):
        mcnemar(a, b[1:])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True], dtype=bool)
    b = np.array([False] * only_a + [True] * only_b + [True], dtype=bool)
    wanted = 1.0
    if only_a + only_b:
        wanted = scipy.stats.binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(a, b).p_value == pytest.approx(wanted)
    assert mcnemar(b, a).p_value == mcnemar(a, b).p_value


def test_mcnemar_of_thousands_of_discordant_rows_is_near_its_normal_limit() -> None:
    a = np.array([True] * 2600 + [False] * 2400)
    found = mcnemar(a, ~a)
    z = (200 - 1) / math.sqrt(5000)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(z), rel=0.01)
