"""Tasks: what a training minimises. The loop asks for a loss and its named parts, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fer_ml.errors import FerError
from fer_ml.profiles import CE, DKD, KD, ArcFace
from fer_ml.training.losses import arcface_logits, dkd_parts, kd_loss
from fer_ml.training.models import ArcFaceNet

Parts = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """``images [N, 3, S, S]`` normalised, ``y [N]``, ``teacher [N, C]`` logits or ``None``.

    ``epoch`` is the progress in epochs, with its fraction.
    """

    images: torch.Tensor
    y: torch.Tensor
    teacher: torch.Tensor | None
    epoch: float


#: Takes the network and a batch, gives the loss to minimise and its parts for the history.
LossFunction = Callable[[nn.Module, Batch], tuple[torch.Tensor, Parts]]


def make_task(task: CE | ArcFace | KD | DKD, temperature: float | None) -> LossFunction:
    """The loss function of a recipe's task. ``temperature`` is the one distillation uses."""
    if isinstance(task, CE):
        return _ce(task)
    if isinstance(task, ArcFace):
        return _arcface(task)
    if temperature is None:
        raise FerError(
            f"task {task.kind} has no temperature",
            fix="give task.temperature, or let the soft labels derive it",
        )
    return _kd(task, temperature) if isinstance(task, KD) else _dkd(task, temperature)


def _ce(task: CE) -> LossFunction:
    def loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Parts]:
        value = cross_entropy(model(batch.images), batch.y, label_smoothing=task.label_smoothing)
        return value, {"ce": value.item()}

    return loss


def margin_at(task: ArcFace, epoch: float) -> float:
    """The margin in radians: 0 until ``plain_epochs``, then linear up to ``ramp_end``."""
    if epoch >= task.ramp_end:
        return task.margin
    if epoch <= task.plain_epochs:
        return 0.0
    return task.margin * (epoch - task.plain_epochs) / (task.ramp_end - task.plain_epochs)


def _arcface(task: ArcFace) -> LossFunction:
    def loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert isinstance(model, ArcFaceNet)
        plain, cosine = model.heads(batch.images)
        margin = margin_at(task, batch.epoch)
        if batch.epoch < task.plain_epochs:
            value = cross_entropy(plain, batch.y)
        else:
            model.arc_in_use.fill_(True)
            value = cross_entropy(
                arcface_logits(cosine.float(), batch.y, margin, task.scale), batch.y
            )
        return value, {"ce": value.item(), "arcface_margin": margin}

    return loss


def _teacher(batch: Batch) -> torch.Tensor:
    if batch.teacher is None:
        raise FerError("distillation needs soft labels, and this training has none")
    return batch.teacher


def _kd(task: KD, temperature: float) -> LossFunction:
    def loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Parts]:
        logits = model(batch.images).float()
        ce = cross_entropy(logits, batch.y)
        kd = kd_loss(logits, _teacher(batch), temperature)
        value = task.ce_weight * ce + task.kd_weight * kd
        return value, {"ce": ce.item(), "kd": kd.item()}

    return loss


def _dkd(task: DKD, temperature: float) -> LossFunction:
    def loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Parts]:
        logits = model(batch.images).float()
        ce = cross_entropy(logits, batch.y)
        tckd, nckd = dkd_parts(logits, _teacher(batch), batch.y, temperature)
        value = task.ce_weight * ce + task.tckd_weight * tckd + task.nckd_weight * nckd
        return value, {"ce": ce.item(), "tckd": tckd.item(), "nckd": nckd.item()}

    return loss
