"""The optimiser against torch's AdamW, against its equations written out, and on real problems."""

import io
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fer_ml.training.nested import MultiTimescale
from tests.refusals import refused

SHAPES = ((5, 3), (7,), (2, 3, 2, 2))
Maker = Callable[[list[Tensor]], torch.optim.Optimizer]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def walk(optimiser: torch.optim.Optimizer, params: list[Tensor], first: int, last: int) -> None:
    """Steps ``first`` to ``last - 1`` with gradients drawn by the step's number."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for each in params:
            each.grad = torch.randn(each.shape, generator=generator) + 0.3 * each.detach()
        optimiser.step()


def by_equations(steps: int, period: int, slow_weight: float, slow_beta: float) -> list[Tensor]:
    """The docstring's equations for one weight after another, in float64."""
    lr, beta1, beta2, eps, decay = 0.01, 0.8, 0.95, 1e-8, 0.1
    found = [each.detach().double() for each in weights()]
    state = [{name: torch.zeros_like(w) for name in "mvsa"} for w in found]
    k = 0
    for t in range(1, steps + 1):
        generator = torch.Generator().manual_seed(t - 1)
        for w, has in zip(found, state, strict=True):
            g = torch.randn(w.shape, generator=generator).double() + 0.3 * w
            has["m"] = beta1 * has["m"] + (1 - beta1) * g
            has["v"] = beta2 * has["v"] + (1 - beta2) * g**2
            slow = slow_weight * has["s"] / (1 - slow_beta**k) if k else 0.0
            w *= 1 - lr * decay
            w -= (
                lr * (has["m"] / (1 - beta1**t) + slow) / ((has["v"] / (1 - beta2**t)).sqrt() + eps)
            )
            has["a"] = has["a"] + g
            if t % period == 0:
                has["s"] = slow_beta * has["s"] + (1 - slow_beta) * has["a"] / period
                has["a"] = torch.zeros_like(g)
        k += t % period == 0
    return found


@pytest.mark.parametrize("period", [1, 7])
def test_without_slow_weight_it_is_adamw(period: int) -> None:
    ours, theirs = weights(), weights()
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    walk(MultiTimescale(ours, slow_weight=0.0, period=period, **settings), ours, 0, 30)
    walk(torch.optim.AdamW(theirs, **settings), theirs, 0, 30)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("period", [1, 4, 100])
@pytest.mark.parametrize(("slow_weight", "slow_beta"), [(0.5, 0.9), (2.0, 0.0)])
def test_it_is_its_equations(period: int, slow_weight: float, slow_beta: float) -> None:
    ours = weights()
    optimiser = MultiTimescale(
        ours,
        lr=0.01,
        betas=(0.8, 0.95),
        slow_beta=slow_beta,
        slow_weight=slow_weight,
        period=period,
        weight_decay=0.1,
    )
    walk(optimiser, ours, 0, 23)
    wanted = by_equations(23, period, slow_weight, slow_beta)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one.detach().double(), other, rtol=1e-5, atol=1e-5)


def test_the_slow_memory_moves_once_a_period() -> None:
    ours = weights()
    optimiser = MultiTimescale(ours, period=4)
    before, moved = torch.zeros(SHAPES[0]), []
    for step in range(12):
        walk(optimiser, ours, step, step + 1)
        now = optimiser.state[ours[0]]["slow"]
        moved.append(not torch.equal(now, before))
        before = now.clone()
    assert moved == [False, False, False, True] * 3


@pytest.mark.parametrize("stop", [10, 12])
def test_a_resumed_run_is_the_straight_run_to_the_bit(stop: int) -> None:
    """Period 4: at 10 steps a chunk is half collected, at 12 it has just been taken in."""
    straight = weights()
    walk(MultiTimescale(straight, period=4, lr=0.02), straight, 0, 20)

    first = weights()
    optimiser = MultiTimescale(first, period=4, lr=0.02)
    walk(optimiser, first, 0, stop)
    file = io.BytesIO()
    torch.save({"weights": first, "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = saved["weights"]
    # The group's settings are the saved ones, not those of construction.
    optimiser = MultiTimescale(resumed, period=9, lr=1.0)
    optimiser.load_state_dict(saved["optimiser"])
    walk(optimiser, resumed, stop, 20)
    assert all(torch.equal(one, other) for one, other in zip(resumed, straight, strict=True))


def test_a_weight_without_a_gradient_stays_and_joins_late() -> None:
    ours = weights()
    optimiser = MultiTimescale(ours, period=2)
    still = ours[1].detach().clone()
    for step in range(3):
        walk(optimiser, ours[:1], step, step + 1)
    assert torch.equal(ours[1], still) and ours[1] not in optimiser.state
    walk(optimiser, ours, 3, 6)
    alone = weights()[1:2]
    late = MultiTimescale(alone, period=2)
    for step in range(3, 6):
        generator = torch.Generator().manual_seed(step)
        torch.randn(SHAPES[0], generator=generator)
        alone[0].grad = torch.randn(SHAPES[1], generator=generator) + 0.3 * alone[0].detach()
        late.step()
    torch.testing.assert_close(ours[1], alone[0])


def test_groups_have_their_own_settings() -> None:
    ours, apart = weights(), weights()
    walk(
        MultiTimescale([{"params": ours[:1], "period": 1, "lr": 0.1}, {"params": ours[1:]}]),
        ours,
        0,
        5,
    )
    optimisers = MultiTimescale(apart[:1], period=1, lr=0.1), MultiTimescale(apart[1:])
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for each in apart:
            each.grad = torch.randn(each.shape, generator=generator) + 0.3 * each.detach()
        for each in optimisers:
            each.step()
    torch.testing.assert_close(ours, apart)


@pytest.mark.parametrize("period", [1, 5, 20])
def test_it_finds_the_minimum_of_a_quadratic(period: int) -> None:
    curvature, wanted = torch.tensor([1.0, 10.0, 0.1]), torch.tensor([1.0, -2.0, 0.5])
    found = torch.zeros(3, requires_grad=True)
    optimiser = MultiTimescale([found], lr=0.1, period=period, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (curvature * (found - wanted) ** 2).sum()
        loss.backward()
        return loss

    for _ in range(400):
        loss = optimiser.step(closure)
        schedule.step()
    assert loss < 1e-5  # 41 at first
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-2)


def test_it_finds_sklearns_logistic_regression() -> None:
    rows, labels = make_classification(200, 5, n_informative=3, random_state=0)
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(rows, labels)
    x, y = torch.tensor(rows), torch.tensor(labels).double()
    w, b = torch.zeros(5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    params = [w.requires_grad_(), b.requires_grad_()]
    optimiser = MultiTimescale(params, lr=0.05, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for _ in range(1500):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ w + b, y, reduction="sum")
        (loss + 0.5 * w.square().sum()).backward()
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(w.detach(), torch.tensor(theirs.coef_[0]), rtol=0, atol=1e-3)
    assert b.item() == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_it_trains_a_small_network_on_digits() -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = MultiTimescale(network.parameters(), lr=3e-3)
    for step in range(300):
        rows = torch.randint(0, 1200, (64,), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        cross_entropy(network(x[rows]), y[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        right = (network(x[1200:]).argmax(1) == y[1200:]).double().mean()
    assert right > 0.88


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"betas": (1.0, 0.9)},
        {"slow_beta": 1.0},
        {"slow_weight": -0.5},
        {"period": 0},
        {"eps": 0.0},
        {"weight_decay": -1e-3},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with refused("invalid-value", where="MultiTimescale") as caught:
        MultiTimescale(weights(), **wrong)
    assert next(iter(wrong)) in caught.value.what
