"""An optimiser with a fast and a slow momentum, as a plain baseline of nested learning."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fer_ml.base.errors import FerError

_BELOW_1 = "0 <= value < 1"


class MultiTimescale(torch.optim.Optimizer):
    """AdamW with a second, slow momentum that is updated once in ``period`` steps.

    With gradient g, weights w, steps t = 1, 2, ..., and all state zero at first, each step does

        m = beta1 * m + (1 - beta1) * g                              the fast memory
        v = beta2 * v + (1 - beta2) * g^2
        w = (1 - lr * weight_decay) * w
        w = w - lr * (m / (1 - beta1^t) + slow_weight * s / (1 - slow_beta^k))
                   / (sqrt(v / (1 - beta2^t)) + eps)
        a = a + g

    and each step t that ``period`` divides then does

        s = slow_beta * s + (1 - slow_beta) * a / period             the slow memory
        a = 0,  k = k + 1

    where the slow term is 0 while k = 0. ``slow_weight`` 0 is ``torch.optim.AdamW``. While all
    gradients agree a step is up to 1 + slow_weight times AdamW's. State: four tensors the size of
    the weights, AdamW has two.

    Of Behrouz, Razaviyayn, Zhong, Mirrokni: Nested Learning: The Illusion of Deep Learning
    Architectures, 2025, this is the idea of its optimiser M3: momentum as a continuum memory whose
    levels have their own frequency, the slow one fed with the gradients that its chunk collected
    and constant until the next chunk ends, both levels over one second moment. It differs from M3:
    the momenta are not orthogonalised (Newton-Schulz); all averages decay and are freed of their
    bias as in Adam, where M3 sums without decay; the slow level takes its chunk's mean, so that
    ``slow_weight`` means the same for each period; weights decay as in AdamW. Nothing is here of
    the rest of that work: no learned or deep optimiser memory, no delta rule, no self-modifying
    network, no layers of different frequency. The weights themselves have no slow copy, as in M3.

    The defaults of ``period``, ``slow_beta`` and ``slow_weight`` are this project's, not the
    paper's.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        slow_beta: float = 0.9,
        slow_weight: float = 0.5,
        period: int = 10,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        for name, value, fits, allowed in (
            ("lr", lr, lr >= 0, "0 or more"),
            ("betas", betas, all(0 <= beta < 1 for beta in betas), _BELOW_1),
            ("slow_beta", slow_beta, 0 <= slow_beta < 1, _BELOW_1),
            ("slow_weight", slow_weight, slow_weight >= 0, "0 or more"),
            ("period", period, period >= 1, "1 or more"),
            ("eps", eps, eps > 0, "more than 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, "0 or more"),
        ):
            if not fits:
                raise FerError(
                    f"{name} is {value}",
                    code="invalid-value",
                    where="MultiTimescale",
                    allowed=allowed,
                )
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "slow_beta": slow_beta,
                "slow_weight": slow_weight,
                "period": period,
                "eps": eps,
                "weight_decay": weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update each parameter that has a gradient; return the value of ``closure``, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [weights for weights in group["params"] if weights.grad is not None]
            if moving:
                self._move(moving, group)
        return loss

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        # Lists of tensors, as in torch's own optimisers: one kernel for many small weights.
        states = [self._state(each) for each in weights]
        gradients = [each.grad for each in weights if each.grad is not None]
        fast = [state["fast"] for state in states]
        square = [state["square"] for state in states]
        (beta1, beta2), lr = group["betas"], group["lr"]

        torch._foreach_lerp_(fast, gradients, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)
        for state in states:
            state["step"] += 1
        steps = [state["step"] for state in states]

        below = torch._foreach_sqrt(square)
        torch._foreach_div_(below, [(1 - beta2**step) ** 0.5 for step in steps])
        torch._foreach_add_(below, group["eps"])
        rate = [lr / (1 - beta1**step) for step in steps]
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(weights, fast, below, [-each for each in rate])
        self._follow_slow(weights, states, below, group)

    def _follow_slow(
        self,
        weights: list[Tensor],
        states: list[dict[str, Any]],
        below: tuple[Tensor, ...],
        group: dict[str, Any],
    ) -> None:
        """Add the slow memory's part of the step, then feed and move that memory."""
        period, slow_beta = group["period"], group["slow_beta"]
        slow = [state["slow"] for state in states]
        chunks = [(state["step"] - 1) // period for state in states]
        rate = [
            group["lr"] * group["slow_weight"] / (1 - slow_beta**chunk) if chunk else 0.0
            for chunk in chunks
        ]
        torch._foreach_addcdiv_(weights, slow, below, [-each for each in rate])
        collected = [state["collected"] for state in states]
        torch._foreach_add_(
            collected, [each.grad for each in weights if each.grad is not None], alpha=1 / period
        )
        for state in states:
            if state["step"] % period == 0:
                state["slow"].lerp_(state["collected"], 1 - slow_beta)
                state["collected"].zero_()

    def _state(self, weights: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[weights]
        if not state:
            state["step"] = 0
            for name in ("fast", "square", "slow", "collected"):
                state[name] = torch.zeros_like(weights, memory_format=torch.preserve_format)
        return state
