"""Negative learning and the prototype memory against plain loops over rows."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softmax

from fer_ml.training.auxiliary import PrototypeMemory, negative_learning
from fer_ml.training.losses import is_class

N, C, D = 64, 7, 24


@dataclass(frozen=True)
class Negative:
    ratio: float = 1.0
    entropy_gate: float = 0.0


@dataclass(frozen=True)
class Prototype:
    gate: Literal["threshold", "top_fraction"] = "threshold"
    value: float = 0.0
    dim: int = 32
    momentum: float = 0.9


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Logits ``[N, C]`` from sure to unsure, and ``y [N]``."""
    generator = seeded(seed)
    scale = torch.linspace(0.1, 6, N)[:, None]
    return scale * torch.randn(N, C, generator=generator), torch.arange(N) % C


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    z = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(z).sum(), z)
    return found


# -- negative learning ----------------------------------------------------------------------------


def test_the_drawn_class_is_uniform_over_the_others() -> None:
    """At uniform logits the gradient is positive on the drawn class alone."""
    n = 60_000
    y = torch.arange(n) % C
    loss = lambda z: negative_learning(z, is_class(y, C), Negative(), generator=seeded(1))[0]  # noqa: E731
    step = gradient(loss, torch.zeros(n, C))
    drawn = step.argmax(dim=1)
    assert ((step > 0).sum(dim=1) == 1).all()
    for label in range(C):
        counts = drawn[y == label].bincount(minlength=C).double()
        assert counts[label] == 0
        expected = (y == label).sum() / (C - 1)
        others = counts[torch.arange(C) != label]
        # Five standard deviations of a binomial count.
        assert ((others - expected).abs() < 5 * expected.sqrt()).all()


def test_no_class_that_a_face_may_show_is_pushed_down() -> None:
    """Votes for several classes, or a mixture of two faces; with all seven shown none is left."""
    n = 20_000
    shown = torch.rand(n, C, generator=seeded(3)) < torch.linspace(0, 1.01, n)[:, None]
    shown[-100:] = True
    loss = lambda z: negative_learning(z, shown, Negative(), generator=seeded(4))[0]  # noqa: E731
    pushed = gradient(loss, torch.zeros(n, C)) > 0
    assert not (pushed & shown).any()
    assert torch.equal(pushed.sum(dim=1), (~shown.all(dim=1)).long())
    free = (~shown).sum(dim=1)
    two = pushed[free == 2].int().argmax(dim=1) == (~shown[free == 2]).int().argmax(dim=1)
    assert two.double().mean().item() == pytest.approx(0.5, abs=0.05), "either is drawn"
    given = torch.arange(n) % C
    _, applied = negative_learning(torch.zeros(n, C), shown, Negative(), given=given)
    assert torch.equal(applied, ~shown[torch.arange(n), given])


def test_rows_are_those_of_the_given_class() -> None:
    logits, y = draw(2)
    given = (y + 3) % C
    given[::4] = -1
    rows, applied = negative_learning(
        logits, is_class(y, C), Negative(), given=given, generator=seeded(2)
    )
    assert torch.equal(applied, given >= 0)
    p = softmax(logits.double(), 1)
    for row in range(N):
        wanted = -math.log(1 - p[row, given[row]]) if given[row] >= 0 else 0.0
        assert rows[row].item() == pytest.approx(wanted, rel=1e-4)
    step = gradient(
        lambda z: negative_learning(
            z, is_class(y, C), Negative(), given=given, generator=seeded(2)
        )[0],
        logits,
    )
    assert (step[~applied] == 0).all() and (step[applied] != 0).any(dim=1).all()


def test_a_step_makes_the_given_class_less_likely() -> None:
    logits, y = draw(3)
    logits = logits.double()
    given = (y + 1) % C
    loss = lambda z: negative_learning(z, is_class(y, C), Negative(), given=given)[0]  # noqa: E731
    after = softmax(logits - 0.1 * gradient(loss, logits), 1).gather(1, given[:, None])
    assert (after < softmax(logits, 1).gather(1, given[:, None])).all()


@pytest.mark.parametrize("gate", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_only_unsure_predictions_count(gate: float) -> None:
    logits, y = draw(4)
    logits[0] = 0.0
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy() / math.log(C)
    _, applied = negative_learning(
        logits, is_class(y, C), Negative(entropy_gate=gate), generator=seeded(4)
    )
    assert torch.equal(applied[1:], entropy[1:] >= gate)
    assert applied[0]


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (0.3, 0.28, 0.32), (1.0, 1, 1)])
def test_the_ratio_of_rows_is_drawn(ratio: float, least: float, most: float) -> None:
    n = 20_000
    logits, y = torch.zeros(n, C), torch.zeros(n, dtype=torch.int64)
    rows, applied = negative_learning(
        logits, is_class(y, C), Negative(ratio=ratio), generator=seeded(5)
    )
    assert least <= applied.float().mean() <= most
    assert torch.equal(rows > 0, applied)


def test_a_rare_gate_has_a_small_say() -> None:
    """The mean over all rows falls with the number that count; it is not their own mean."""
    logits, y = torch.zeros(N, C), torch.zeros(N, dtype=torch.int64)
    given = torch.full((N,), -1)
    given[:4] = 1
    rows, _ = negative_learning(logits, is_class(y, C), Negative(), given=given)
    assert rows.mean().item() == pytest.approx(4 / N * -math.log(1 - 1 / C))


def test_equal_generators_draw_equally_whatever_the_gate() -> None:
    logits, y = draw(6)
    first = negative_learning(logits, is_class(y, C), Negative(ratio=0.5), generator=seeded(6))
    again = negative_learning(logits, is_class(y, C), Negative(ratio=0.5), generator=seeded(6))
    other = negative_learning(logits, is_class(y, C), Negative(ratio=0.5), generator=seeded(7))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    gated, applied = negative_learning(
        logits, is_class(y, C), Negative(ratio=0.5, entropy_gate=0.5), generator=seeded(6)
    )
    assert torch.equal(gated[applied], first[0][applied])


def test_extreme_logits_give_finite_gradients() -> None:
    y = torch.arange(C)
    logits = torch.full((C, C), -100.0).scatter(1, y[:, None].roll(1, 0), 100.0)
    loss = lambda z: negative_learning(z, is_class(y, C), Negative(), given=y.roll(1))[0]  # noqa: E731
    assert torch.isfinite(loss(logits)).all()
    assert torch.isfinite(gradient(loss, logits)).all()


def test_no_value_is_read_back_from_the_device() -> None:
    """Tensors of the meta device have no values; the draws are the generator's device's."""
    logits, y = torch.empty(N, C, device="meta"), torch.empty(N, dtype=torch.int64, device="meta")
    rows, applied = negative_learning(
        logits, is_class(y, C), Negative(0.5, 0.5), generator=seeded(8)
    )
    assert rows.device.type == applied.device.type == "meta"


# -- prototypes -----------------------------------------------------------------------------------


def features(seed: int) -> tuple[Tensor, Tensor]:
    """Rows around a direction of their class, ``[N, D]``, and ``y [N]``."""
    generator = seeded(seed)
    y = torch.randint(0, C, (N,), generator=generator)
    centres = torch.randn(C, D, generator=seeded(99))
    return centres[y] + torch.randn(N, D, generator=generator), y


def by_hand(memory: PrototypeMemory, batches: list[tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    known: dict[int, Tensor] = {}
    for x, y in batches:
        z = x @ memory.projection
        for label in y.unique().tolist():
            mean = z[y == label].mean(dim=0)
            known[label] = 0.9 * known[label] + 0.1 * mean if label in known else mean
    return known


def test_prototypes_are_moving_averages_of_the_class_means() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    batches = [features(seed) for seed in (10, 11, 12)]
    batches[0] = tuple(part[batches[0][1] != 2] for part in batches[0])
    batches[1] = tuple(part[batches[1][1] != 5] for part in batches[1])
    batches = [tuple(part[y != 6] for part in (x, y)) for x, y in batches]
    for x, y in batches:
        memory.update(x, y)
    wanted = by_hand(memory, batches)
    assert memory.seen.tolist() == [label in wanted for label in range(C)]
    assert memory.seen.tolist() == [True] * 6 + [False]
    for label, prototype in wanted.items():
        torch.testing.assert_close(memory.prototypes[label], prototype)
    assert (memory.prototypes[6] == 0).all()


def test_loss_is_one_minus_cosine_to_the_own_prototype() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    x, y = features(13)
    memory.update(x[y != 3], y[y != 3])
    rows = memory(x, y)
    for row in range(N):
        z, own = x[row] @ memory.projection, memory.prototypes[y[row]]
        wanted = 0.0 if y[row] == 3 else 1 - float(z @ own / (z.norm() * own.norm()))
        assert rows[row].item() == pytest.approx(wanted, abs=1e-5)


def test_a_memory_without_prototypes_asks_for_nothing() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    x, y = features(14)
    assert torch.equal(memory(x, y), torch.zeros(N))
    assert torch.equal(gradient(lambda f: memory(f, y), x), torch.zeros_like(x))
    top = PrototypeMemory(D, C, Prototype("top_fraction", 0.5))
    assert torch.equal(top(x, y), torch.zeros(N))


def test_a_step_brings_rows_to_their_prototype_and_leaves_the_memory() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    memory.update(*features(15))
    x, y = features(16)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    closer = x - 0.5 * gradient(lambda f: memory(f, y), x)
    assert (memory(closer, y) < memory(x, y)).all()
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    assert not any(True for _ in memory.parameters())


def test_the_loss_of_before_an_update_may_still_be_differentiated() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    memory.update(*features(17))
    x, y = features(18)
    wanted = gradient(lambda f: memory(f, y), x)
    z = x.clone().requires_grad_()
    rows = memory(z, y)
    memory.update(z.detach(), y)
    rows.sum().backward()
    assert torch.equal(z.grad, wanted)


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 2.0])
def test_threshold_takes_the_rows_beyond_it(value: float) -> None:
    memory = PrototypeMemory(D, C, Prototype("threshold", value))
    everything = PrototypeMemory(D, C, Prototype())
    for each in (memory, everything):
        each.update(*features(19))
    x, y = features(20)
    distance = everything(x, y)
    wanted = torch.where(distance > value, distance, 0.0)
    torch.testing.assert_close(memory(x, y), wanted)
    step = gradient(lambda f: memory(f, y), x)
    assert torch.equal((step != 0).any(dim=1), distance > value)


@pytest.mark.parametrize(("value", "number"), [(0.001, 1), (0.1, 6), (0.5, 32), (1.0, N)])
def test_top_fraction_takes_the_furthest_of_known_classes(value: float, number: int) -> None:
    memory = PrototypeMemory(D, C, Prototype("top_fraction", value))
    everything = PrototypeMemory(D, C, Prototype())
    x, y = features(21)
    for each in (memory, everything):
        each.update(x[y != 0] + 1, y[y != 0])
    distance = everything(x, y)
    taken = distance.argsort(descending=True)[: min(number, int((y != 0).sum()))]
    wanted = torch.zeros(N)
    wanted[taken] = distance[taken]
    torch.testing.assert_close(memory(x, y), wanted)


def test_all_state_is_saved_and_the_projection_is_fixed() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    memory.update(*features(22))
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    resumed = PrototypeMemory(D, C, Prototype())
    assert torch.equal(resumed.projection, memory.projection)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in (memory, resumed):
        each.update(*features(23))
    x, y = features(24)
    assert torch.equal(memory(x, y), resumed(x, y))


def test_autocast_and_half_precision_change_nothing_but_the_input() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    x, y = features(25)
    x = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        memory.update(x, y)
        rows = memory(x, y)
    plain = PrototypeMemory(D, C, Prototype())
    plain.update(x.float(), y)
    assert rows.dtype == torch.float32
    assert torch.equal(memory.prototypes, plain.prototypes)
    assert torch.equal(rows, plain(x.float(), y))


def test_rows_of_no_features_and_large_ones_give_small_gradients() -> None:
    memory = PrototypeMemory(D, C, Prototype())
    memory.update(*features(26))
    x, y = features(27)
    x[0], x[1] = 0.0, x[1] * 1e6
    step = gradient(lambda f: memory(f, y), x)
    assert torch.isfinite(step).all()
    assert step[0].norm() < 1e4 and step[1].norm() < 1e-3


@pytest.mark.parametrize("gate", ["threshold", "top_fraction"])
def test_no_branch_follows_a_value(gate: Literal["threshold", "top_fraction"]) -> None:
    """A whole graph can be traced, which a value read in between forbids."""
    memory = PrototypeMemory(D, C, Prototype(gate, 0.3))
    x, y = features(28)

    def use(x: Tensor, y: Tensor) -> Tensor:
        rows = memory(x, y)
        memory.update(x, y)
        return rows

    torch.compiler.reset()
    use(x, y)
    wanted = memory(x, y)
    traced = torch.compile(use, backend="eager", fullgraph=True)(x, y)
    torch.testing.assert_close(traced, wanted)
