"""The one training loop. It knows batches, steps and epochs, and no method."""

import copy
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import classification_metrics
from fer_ml.profiles import Training
from fer_ml.training.faces import FaceSet, augment, batches, epoch_order, to_input
from fer_ml.training.tasks import Batch, LossFunction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training leaves: the best weights by val macro-F1, its epoch, and the history."""

    state: dict[str, torch.Tensor]
    best_epoch: int
    history: list[dict[str, Any]]
    steps: int


def predict(model: nn.Module, faces: FaceSet, batch_size: int = 256) -> np.ndarray:
    """Inference logits ``[N, C] float32``, without augmentation, in the rows' order."""
    model.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(faces), batch_size):
            images = to_input(faces.images[start : start + batch_size], faces.preprocess)
            out.append(model(images).float().numpy())
    return np.concatenate(out)


def learning_rate(recipe: Training, step: int, steps_per_epoch: int) -> float:
    """Linear warmup over ``warmup_epochs``, then cosine from ``lr`` to ``min_lr``, by step."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    total = max(1, recipe.epochs * steps_per_epoch - warmup)
    progress = min(1.0, (step - warmup) / total)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimiser(model: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters of ``model``."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def train(
    model: nn.Module,
    task: LossFunction,
    recipe: Training,
    train_faces: FaceSet,
    val_faces: FaceSet,
    *,
    seed: int,
    teacher: np.ndarray | None = None,
    name: str = "train",
) -> Trained:
    """Train ``model`` and keep its best weights by macro-F1 on ``val_faces``.

    ``teacher [N, C]`` are soft-label logits in the order of ``train_faces``. Raises ``FerError``
    when no step would be taken, or when the loss is not finite.
    """
    steps_per_epoch = sum(
        1
        for _ in batches(np.arange(len(train_faces)), recipe.batch_size, drop_last=recipe.drop_last)
    )
    if steps_per_epoch == 0:
        raise FerError(
            f"{name}: {len(train_faces)} training rows give no batch of {recipe.batch_size}",
            fix="lower batch_size in the recipe, or give more rows",
        )
    optimiser = make_optimiser(model, recipe)
    model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    seen = np.zeros(len(train_faces), dtype=bool)
    history: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, torch.Tensor]] = (-1.0, 0, {})
    step = 0
    for epoch in range(recipe.epochs):
        started = time.monotonic()
        model.train()
        totals: dict[str, float] = {}
        order = epoch_order(len(train_faces), seed, epoch)
        bar = tqdm(
            batches(order, recipe.batch_size, drop_last=recipe.drop_last),
            total=steps_per_epoch,
            desc=f"{name} {epoch + 1}/{recipe.epochs}",
            disable=None,
            leave=False,
        )
        for rows in bar:
            rate = learning_rate(recipe, step, steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            # Sorted reads are sequential in the memory map; the rows of a batch have no order.
            rows = np.sort(rows)
            batch = Batch(
                images=augment(
                    to_input(train_faces.images[rows], train_faces.preprocess),
                    generator,
                    recipe.augment,
                ),
                y=torch.from_numpy(train_faces.y[rows]),
                teacher=None if teacher is None else torch.from_numpy(teacher[rows]),
                epoch=step / steps_per_epoch,
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss, parts = task(model, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimiser.step()
            value = loss.item()
            if not math.isfinite(value):
                raise FerError(
                    f"{name}: the loss is {value} at step {step}",
                    fix="lower lr, or switch bf16 off, in the recipe",
                )
            seen[rows] = True
            step += 1
            for key, part in {"loss": value, **parts}.items():
                totals[key] = totals.get(key, 0.0) + part
            bar.set_postfix(loss=f"{value:.3f}")
        metrics = classification_metrics(val_faces.y, predict(model, val_faces))
        history.append(
            {
                "epoch": epoch,
                "train": {key: total / steps_per_epoch for key, total in totals.items()},
                "val": metrics,
                "lr": rate,
                "steps": step,
                "coverage": float(seen.mean()),
                "timing": {"epoch_sec": round(time.monotonic() - started, 2)},
            }
        )
        log.info(
            "%s epoch %d/%d: loss %.4f, val accuracy %.4f, macro-F1 %.4f, %.1f s",
            name,
            epoch + 1,
            recipe.epochs,
            history[-1]["train"]["loss"],
            metrics["accuracy"],
            metrics["macro_f1"],
            time.monotonic() - started,
        )
        if metrics["macro_f1"] > best[0]:
            best = (metrics["macro_f1"], epoch, copy.deepcopy(model.state_dict()))
    return Trained(best[2], best[1], history, step)
