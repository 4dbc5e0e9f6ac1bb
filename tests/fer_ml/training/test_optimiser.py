"""The learning rate by step."""

import math
from dataclasses import replace

import pytest

from fer_ml.recipes.training import CE, Training
from fer_ml.training.optimiser import learning_rate

RATE = Training(
    architecture="test_resnet",
    task=CE(),
    init="none",
    epochs=5,
    lr=0.1,
    min_lr=0.01,
    warmup_epochs=2.0,
)


def by_hand(epoch: float) -> float:
    recipe = RATE
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(RATE, step, 10) for step in range(50)]
    assert rates[0] == pytest.approx(0.005), "the first step already learns"
    assert rates[:20] == pytest.approx([by_hand((step + 1) / 10) for step in range(19)] + [0.1])
    assert rates[20:] == pytest.approx([by_hand(step / 10) for step in range(20, 50)])
    assert max(rates) == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.055), "half way down, half the way"
    assert learning_rate(RATE, 50, 10) == pytest.approx(0.01)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    recipe = replace(RATE, warmup_epochs=0.0)
    assert learning_rate(recipe, 0, 10) == 0.1
