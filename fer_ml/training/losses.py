"""Losses as pure functions on logits ``[N, C]``, in log space, each with its source."""

import torch
from torch.nn.functional import log_softmax


def kl_divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Mean over rows of KL(teacher || student) for log-probabilities ``[N, C]``; a scalar >= 0."""
    # exp(-inf) * (-inf - x) is NaN; a class of probability zero contributes nothing.
    terms = teacher.exp() * (teacher - student)
    return torch.where(teacher.isneginf(), 0.0, terms).sum(dim=1).mean()


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over rows.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. T^2 keeps the size
    of the gradient when T changes. ``teacher`` may be log-probabilities: a constant added to a row
    changes nothing.
    """
    return temperature**2 * kl_divergence(
        log_softmax(teacher / temperature, dim=1), log_softmax(student / temperature, dim=1)
    )


def dkd_parts(
    student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(T^2 TCKD, T^2 NCKD), each averaged over rows; ``y [N]`` are class indices.

    Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022. TCKD is the KL between the binary
    distributions (target, all others); NCKD the KL between the distributions over the others. The
    target is masked out of the logits, not divided out of the probabilities, so that a teacher that
    is sure of the target still has a proper distribution over the others.
    """
    scaled_s, scaled_t = student / temperature, teacher / temperature
    target = torch.nn.functional.one_hot(y, student.shape[1]).bool()
    tckd = kl_divergence(_binary(scaled_t, target), _binary(scaled_s, target))
    nckd = kl_divergence(_others(scaled_t, target), _others(scaled_s, target))
    return temperature**2 * tckd, temperature**2 * nckd


def _binary(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Log-probabilities ``[N, 2]`` of the target and of all other classes together."""
    log_p = log_softmax(logits, dim=1)
    of_target = log_p[target]
    of_others = log_p.masked_fill(target, -torch.inf).logsumexp(dim=1)
    return torch.stack([of_target, of_others], dim=1)


def _others(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Log-probabilities ``[N, C - 1]`` over the classes other than the target."""
    n, classes = logits.shape
    return log_softmax(logits[~target].view(n, classes - 1), dim=1)


def arcface_logits(
    cosine: torch.Tensor, y: torch.Tensor, margin: float, scale: float
) -> torch.Tensor:
    """scale * cos(theta + margin) for the target class, scale * cos(theta) for the others.

    ``cosine [N, C]`` in -1..1, ``margin`` in radians. Deng et al.: ArcFace, CVPR 2019. Where
    theta + margin passes pi the cosine would rise again; there the published linear continuation
    cos(theta) - margin * sin(margin) is taken.
    """
    if margin == 0:
        return scale * cosine
    limit = torch.cos(torch.tensor(torch.pi - margin))
    # The clamp keeps the gradient of acos finite at the ends.
    theta = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    widened = torch.where(
        cosine > limit,
        torch.cos(theta + margin),
        cosine - margin * torch.sin(torch.tensor(margin)),
    )
    target = torch.nn.functional.one_hot(y, cosine.shape[1]).bool()
    return scale * torch.where(target, widened, cosine)
