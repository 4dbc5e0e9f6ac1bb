"""The optimiser of a recipe, and its learning rate by step."""

import math

import torch
from torch import nn

from fer_ml.recipes.training import Training
from fer_ml.training.nested import MultiTimescale


def learning_rate(recipe: Training, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear warmup, then cosine from ``lr`` to ``min_lr``."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    total = max(1, recipe.epochs * steps_per_epoch - warmup)
    progress = min(1.0, (step - warmup) / total)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimiser(parameters: list[nn.Parameter], recipe: Training) -> torch.optim.Optimizer:
    """The recipe's optimiser over ``parameters``."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
    if recipe.optimiser == "nested":
        return MultiTimescale(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
