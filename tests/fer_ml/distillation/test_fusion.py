"""Fusion three ways by hand, and the search for weights against a plain loop and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

from fer_ml.base.errors import FerError
from fer_ml.distillation import fusion as module
from fer_ml.distillation.fusion import (
    fuse,
    named_weights,
    search_weights,
    simplex,
    weight_intervals,
)
from fer_ml.metrics.calibration import fit_temperature, nll
from fer_ml.metrics.classification import log_softmax, softmax
from fer_ml.metrics.resampling import draws, group_codes
from tests.refusals import refused

RNG = np.random.default_rng(0)
MEMBERS = [RNG.normal(size=(20, 7)) * scale for scale in (1.0, 3.0, 9.0)]
WEIGHTS = (0.2, 0.3, 0.5)
T = (0.7, 1.5, 4.0)


def test_logits_are_added() -> None:
    wanted = 0.2 * MEMBERS[0] + 0.3 * MEMBERS[1] + 0.5 * MEMBERS[2]
    np.testing.assert_allclose(fuse(MEMBERS, WEIGHTS, "logits", T), wanted)


def test_calibrated_probabilities_are_mixed() -> None:
    wanted = sum(w * softmax(z, t) for w, z, t in zip(WEIGHTS, MEMBERS, T, strict=True))
    np.testing.assert_allclose(softmax(fuse(MEMBERS, WEIGHTS, "probabilities", T)), wanted)


def test_calibrated_is_the_geometric_mean_of_calibrated_members() -> None:
    product = math.prod(softmax(z, t) ** w for w, z, t in zip(WEIGHTS, MEMBERS, T, strict=True))
    wanted = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(fuse(MEMBERS, WEIGHTS, "calibrated", T)), wanted)


def test_a_class_without_probability_stays_finite() -> None:
    sure = np.full((1, 7), -1000.0)
    sure[0, 2] = 1000.0
    for fusion in ("logits", "probabilities", "calibrated"):
        fused = fuse([sure, sure], (0.5, 0.5), fusion, (1.0, 1.0))
        assert np.isfinite(fused).all()
        assert softmax(fused)[0, 2] == pytest.approx(1.0)


def test_calibrated_fusion_does_not_care_how_sharp_a_member_is() -> None:
    """A member whose logits are ten times larger has a T ten times larger, and no more say."""
    sharp = [MEMBERS[0], 10 * MEMBERS[1], MEMBERS[2]]
    one = fuse(MEMBERS, WEIGHTS, "calibrated", T)
    np.testing.assert_allclose(fuse(sharp, WEIGHTS, "calibrated", (T[0], 10 * T[1], T[2])), one)
    plain = [softmax(fuse(z, WEIGHTS, "logits", T)) for z in (MEMBERS, sharp)]
    assert np.abs(plain[0] - plain[1]).max() > 0.1


@pytest.mark.parametrize("fusion", ["logits", "probabilities", "calibrated"])
def test_one_member_with_all_the_weight_decides_alone(fusion) -> None:
    fused = fuse(MEMBERS, (0.0, 1.0, 0.0), fusion, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(softmax(fused), softmax(MEMBERS[1]), atol=1e-11)


def test_members_and_weights_must_be_as_many() -> None:
    for fusion in ("logits", "probabilities", "calibrated"):
        with pytest.raises(ValueError, match=r"shorter|shape"):
            fuse(MEMBERS, (0.5, 0.5), fusion, T)


@pytest.mark.parametrize("members", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0.1, 0.25, 0.5])
def test_the_grid_has_every_weight_vector_once(members: int, step: float) -> None:
    grid, parts = simplex(members, step), round(1 / step)
    assert len(grid) == len(set(grid)) == math.comb(parts + members - 1, members - 1)
    for weights in grid:
        assert len(weights) == members
        assert sum(weights) == pytest.approx(1, abs=1e-9)
        assert all(0 <= w <= 1 and w / step == pytest.approx(round(w / step)) for w in weights)
    assert (1.0,) + (0.0,) * (members - 1) in grid


FUSIONS = ("logits", "probabilities", "calibrated")


def sample(
    seed: int,
    n: int,
    noise: tuple[float, ...] = (1.6, 2.0, 2.6),
    scale: tuple[float, ...] = (6, 1, 2),
) -> tuple[list[np.ndarray], np.ndarray, list[float]]:
    """Members of different skill and sharpness, labels, and the members' temperatures."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, n)
    truth = np.eye(7)[y] * 2
    logits = [(truth + rng.normal(size=(n, 7)) * s) * k for s, k in zip(noise, scale, strict=True)]
    return logits, y, [fit_temperature(z, y) for z in logits]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_grid_is_what_a_plain_loop_finds(fusion) -> None:
    logits, y, temperatures = sample(0, 400)
    found = search_weights(logits, y, fusion, temperatures, 0.25)
    assert found.candidates.tolist() == [list(weights) for weights in simplex(3, 0.25)]
    for index, weights in enumerate(found.candidates):
        fused = fuse(logits, weights, fusion, temperatures)
        temperature = fit_temperature(fused, y)
        assert found.candidate_temperature[index] == pytest.approx(temperature, rel=1e-6)
        assert found.candidate_nll[index] == pytest.approx(nll(fused, y, temperature), rel=1e-9)
    assert found.chosen == found.candidate_nll.argmin()


@pytest.mark.parametrize("fusion", ["logits", "calibrated"])
def test_the_convex_fit_against_scipy(fusion) -> None:
    logits, y, temperatures = sample(1, 500)
    found = search_weights(logits, y, fusion, temperatures, 0.1)
    terms = [fuse([z], [1.0], fusion, [t]) for z, t in zip(logits, temperatures, strict=True)]

    def loss(u: np.ndarray) -> float:
        return nll(np.tensordot(u, terms, 1), y, 1.0)

    theirs = minimize(loss, np.full(3, 0.1), bounds=[(0, None)] * 3, tol=1e-12)
    assert found.method == "convex fit"
    assert found.nll == pytest.approx(theirs.fun, rel=1e-7) and found.nll <= theirs.fun + 1e-12
    assert found.weights == pytest.approx(tuple(theirs.x / theirs.x.sum()), abs=2e-3)
    assert found.temperature == pytest.approx(1 / theirs.x.sum(), rel=2e-3)
    assert found.nll < found.candidate_nll.min()
    fused = fuse(logits, found.weights, fusion, temperatures)
    assert nll(fused, y, found.temperature) == pytest.approx(found.nll)
    assert fit_temperature(fused, y) == pytest.approx(found.temperature, rel=1e-6)


def test_fitted_logits_and_fitted_calibrated_logits_are_one_softmax() -> None:
    """A member's temperature is a factor, and a factor is a weight: only their names differ."""
    logits, y, temperatures = sample(2, 500)
    probs = []
    for fusion in ("logits", "calibrated"):
        found = search_weights(logits, y, fusion, temperatures, 0.1)
        fused = fuse(logits, found.weights, fusion, temperatures)
        probs.append(softmax(fused, found.temperature))
    np.testing.assert_allclose(probs[0], probs[1], atol=1e-6)


def test_a_member_that_only_harms_gets_no_weight() -> None:
    """The minimum lies on an edge of the triangle, and is found there."""
    logits, y, _ = sample(3, 2000)
    members = [logits[0], -logits[2], logits[1]]
    found = search_weights(members, y, "logits", (1, 1, 1), 0.1)
    assert found.weights[1] == 0.0
    pair = search_weights([logits[0], logits[1]], y, "logits", (1, 1), 0.1)
    assert (found.weights[0], found.weights[2]) == pytest.approx(pair.weights, rel=1e-5)


def test_one_member_twice_has_the_weight_of_one() -> None:
    logits, y, temperatures = sample(4, 400)
    one = search_weights(logits[:2], y, "calibrated", temperatures[:2], 0.1)
    members, t = [logits[0], logits[0], logits[1]], [temperatures[0], *temperatures[:2]]
    two = search_weights(members, y, "calibrated", t, 0.1)
    assert two.nll == pytest.approx(one.nll, rel=1e-9)
    assert two.weights[0] + two.weights[1] == pytest.approx(one.weights[0], abs=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_member_is_an_ensemble_of_itself(fusion) -> None:
    logits, y, temperatures = sample(5, 300)
    found = search_weights(logits[:1], y, fusion, temperatures[:1], 0.5)
    assert found.weights == (1.0,)
    assert found.nll == pytest.approx(nll(logits[0], y, temperatures[0]), abs=1e-6)


def test_probabilities_are_chosen_on_the_grid_and_said_so() -> None:
    logits, y, temperatures = sample(6, 400)
    found = search_weights(logits, y, "probabilities", temperatures, 0.1)
    assert found.method == "grid"
    assert found.weights == tuple(found.candidates[found.chosen])
    assert found.nll == found.candidate_nll.min()


def test_the_nll_of_mixed_probabilities_is_not_convex_once_t_is_fitted() -> None:
    """Why there is no convex fit of them: the middle of two (w, 1/T) lies above their mean."""
    logits, y, temperatures = sample(7, 200, noise=(1.0, 3.0, 3.0), scale=(20, 0.2, 0.2))

    def loss(weight: float, beta: float) -> float:
        fused = fuse(logits, (weight, 1 - weight, 0), "probabilities", temperatures)
        return nll(fused, y, 1 / beta)

    rng = np.random.default_rng(0)
    ends = rng.uniform([0, 0.05], [1, 10], size=(400, 2, 2))
    bent = [loss(*(a + b) / 2) - (loss(*a) + loss(*b)) / 2 for a, b in ends]
    assert max(bent) > 1e-3


def test_mixed_probabilities_of_sharp_members_stay_exact() -> None:
    """At an angular margin's scale the smallest probabilities are far below 1e-300."""
    rng = np.random.default_rng(13)
    members = [rng.normal(size=(5, 7)) * 400 for _ in range(2)]
    found = fuse(members, (0.3, 0.7), "probabilities", (1, 1))
    parts = [np.log(w) + log_softmax(z) for w, z in zip((0.3, 0.7), members, strict=True)]
    np.testing.assert_allclose(found, logsumexp(parts, axis=0), atol=1e-15)
    assert found.min() < -700


def test_a_useless_member_does_not_stop_the_search() -> None:
    logits, y, _ = sample(14, 500)
    members = [logits[0], -logits[0]]
    found = search_weights(members, y, "probabilities", (1, 1), 0.5)
    assert found.candidate_temperature[found.candidates[:, 1] == 1] == pytest.approx([200])
    assert found.weights == (1.0, 0.0)


def test_members_that_are_separated_have_no_weights() -> None:
    y = np.arange(70) % 7
    members = [np.eye(7)[y], 2 * np.eye(7)[y]]
    for fusion in FUSIONS:
        with refused("fit-on-bound"):
            search_weights(members, y, fusion, (1.0, 1.0), 0.5)


def test_members_that_separate_only_together_have_no_weights() -> None:
    """Each member alone has a temperature; together they are right about every row."""
    y = np.arange(70) % 7
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(70, 7)) * 3
    members = [np.eye(7)[y] + noise, np.eye(7)[y] - noise]
    with refused("fit-on-bound"):
        search_weights(members, y, "logits", (1.0, 1.0), 0.4)


@pytest.mark.parametrize("twins", [1, 3])
def test_one_step_of_a_resample_is_near_its_own_fit(twins: int) -> None:
    logits, y, temperatures = sample(8, 1500)
    logits, y = [np.repeat(z, twins, axis=0) for z in logits], np.repeat(y, twins)
    groups = np.repeat(np.arange(1500), twins)
    search = search_weights(logits, y, "calibrated", temperatures, 0.1)
    codes, count = group_codes(groups)
    found = weight_intervals(
        search, logits, y, groups, "calibrated", temperatures, resamples=40, seed=1
    )
    refits = []
    for drawn in draws(count, 40, seed=1):
        rows = np.concatenate([np.flatnonzero(codes == group) for group in drawn])
        again = search_weights([z[rows] for z in logits], y[rows], "calibrated", temperatures, 0.5)
        refits.append(again.weights)
    spread = np.std(refits, axis=0)
    wanted = np.quantile(refits, [0.025, 0.975], axis=0)
    for member, bounds in enumerate(found):
        assert bounds.value == search.weights[member]
        assert bounds.low == pytest.approx(wanted[0, member], abs=0.15 * spread[member])
        assert bounds.high == pytest.approx(wanted[1, member], abs=0.15 * spread[member])


def test_a_grid_chooses_again_on_each_resample() -> None:
    logits, y, temperatures = sample(9, 300)
    groups = np.arange(300) // 2
    search = search_weights(logits, y, "probabilities", temperatures, 0.1)
    found = weight_intervals(
        search, logits, y, groups, "probabilities", temperatures, resamples=30, seed=4
    )
    chosen = []
    for drawn in draws(150, 30, seed=4):
        rows = np.concatenate([[2 * group, 2 * group + 1] for group in drawn])
        losses = [
            nll(fuse([z[rows] for z in logits], w, "probabilities", temperatures), y[rows], t)
            for w, t in zip(search.candidates, search.candidate_temperature, strict=True)
        ]
        chosen.append(search.candidates[np.argmin(losses)])
    wanted = np.quantile(chosen, [0.025, 0.975], axis=0)
    assert [bounds.low for bounds in found] == pytest.approx(wanted[0].tolist())
    assert [bounds.high for bounds in found] == pytest.approx(wanted[1].tolist())


def test_more_rows_make_the_intervals_narrower_and_they_hold_the_best_weights() -> None:
    best = search_weights(*sample_of(10, 100_000), 0.5).weights
    widths = []
    for n in (300, 4800):
        logits, y, fusion, temperatures = sample_of(11, n)
        search = search_weights(logits, y, fusion, temperatures, 0.5)
        found = weight_intervals(search, logits, y, np.arange(n), fusion, temperatures)
        for bounds, weight in zip(found, best, strict=True):
            assert bounds.low <= weight <= bounds.high
        widths.append(found[0].high - found[0].low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)


def test_resamples_that_tell_nothing_of_the_weights_widen_their_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few and weak rows: a Newton step may end where no member says anything."""
    logits, y, fusion, temperatures = sample_of(11, 300)
    search = search_weights(logits, y, fusion, temperatures, 0.5)
    assert search.method != "grid"
    steps = module._one_step

    def some_at_zero(*arguments):
        found = steps(*arguments)
        found[: len(found) // 10] = 0.0
        return found

    before = weight_intervals(search, logits, y, np.arange(300), fusion, temperatures)
    monkeypatch.setattr(module, "_one_step", some_at_zero)
    after = weight_intervals(search, logits, y, np.arange(300), fusion, temperatures)
    for narrow, wide in zip(before, after, strict=True):
        assert wide.value == narrow.value
        assert (wide.low, wide.high) == (0.0, 1.0)


@given(seed=st.integers(0, 10_000), n=st.integers(7, 40))
@settings(max_examples=40)
def test_intervals_of_few_rows_are_finite(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 7
    logits = [rng.normal(size=(n, 7)) + k * np.eye(7)[y] for k in range(3)]
    try:
        search = search_weights(logits, y, "calibrated", (1.0, 1.0, 1.0), 0.5)
    except FerError:
        reject()  # Rows that are separated perfectly have no temperature.
    found = weight_intervals(
        search, logits, y, np.arange(n), "calibrated", (1.0, 1.0, 1.0), resamples=200
    )
    for bounds in found:
        assert 0 <= bounds.low <= bounds.high <= 1


def sample_of(seed: int, n: int):
    """A sample at temperatures that do not depend on it, so that weights can be compared."""
    logits, y, _ = sample(seed, n)
    return logits, y, "calibrated", (6.0, 1.0, 2.0)


def test_the_quadratic_minimum_against_trying_many_points() -> None:
    rng = np.random.default_rng(12)
    root = rng.normal(size=(20, 3, 3))
    hessian, linear = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3), rng.normal(size=(20, 3))
    found = module._nonnegative_minimum(hessian, linear)

    def value(x: np.ndarray, index: int) -> np.ndarray:
        return ((x @ hessian[index]) * x).sum(axis=-1) / 2 - x @ linear[index]

    near = np.abs(rng.normal(size=(5000, 3)))
    assert (found >= 0).all() and (found == 0).any() and (found > 0).any()
    for index in range(20):
        around = np.maximum(found[index] + 0.01 * rng.normal(size=(500, 3)), 0)
        assert value(found[index], index) <= value(near, index).min() + 1e-12
        assert value(found[index], index) <= value(around, index).min() + 1e-12


def test_the_reports_weights_by_name() -> None:
    assert named_weights("interim_report", ("RN18", "B3", "CNXT")) == (0.4, 0.4, 0.2)
    assert named_weights("interim_report", ("CNXT", "RN18", "B3")) == (0.2, 0.4, 0.4)
    with refused("unknown-weights", allowed="interim_report"):
        named_weights("report", ("RN18", "B3", "CNXT"))
    with refused("weights-mismatch"):
        named_weights("interim_report", ("RN18", "B3"))
