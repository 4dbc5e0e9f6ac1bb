"""Losses as pure functions of logits ``[N, C]``, in log space, each with its source.

A loss whose name ends in ``_rows`` returns one value per row, ``[N]``; the caller weights and
averages. Half-precision input is widened to float32 and wider input is kept, so all of them may be
called under autocast. None but ``effective_number_weights`` reads a value back from the device.

``C`` is small here: some losses build an array of ``[N, C, C]``.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from fer_ml.base.errors import FerError

#: A row is constant when centring leaves less of it than this many units of rounding.
ROUNDING = 8


def widened(values: Tensor) -> Tensor:
    """Return ``values`` in float32, or unchanged if they are wider.

    >>> widened(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def is_class(y: Tensor, classes: int) -> Tensor:
    """Return ``[N, C] bool``, true where the column is the row's class; all false for class -1.

    >>> is_class(torch.tensor([1, -1]), classes=2).tolist()
    [[False, True], [False, False]]
    """
    return y[:, None] == torch.arange(classes, device=y.device)


def cross_entropy_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy -sum_c target_c log p_c, ``[N]`` in nats.

    ``target [N, C]`` are probabilities: one-hot, smoothed, or the shares of votes. A class of
    target 0 contributes nothing, even if its logit is -inf.

    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> cross_entropy_rows(logits, torch.tensor([[1.0, 0.0]])).exp()  # 1 / (3/4)
    tensor([1.3333])
    """
    log_p = log_softmax(widened(logits), dim=1)
    return -(target * log_p.masked_fill(target == 0, 0.0)).sum(dim=1)


def focal_rows(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Return the focal loss -sum_c target_c (1 - p_c)^gamma log p_c, ``[N]``.

    ``gamma`` 0 gives the cross-entropy. Lin et al.: Focal Loss for Dense Object Detection, ICCV
    2017, in its softmax form for a one-hot ``target [N, C]``; for other targets the sum over
    classes is its plain extension.

    >>> logits, target = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 0.0]])
    >>> focal_rows(logits, target, gamma=2) / cross_entropy_rows(logits, target)  # (1/4)^2
    tensor([0.0625])
    """
    odds = _log_odds(widened(logits))
    focus = torch.exp(gamma * logsigmoid(-odds))
    return -(target * focus * logsigmoid(odds).masked_fill(target == 0, 0.0)).sum(dim=1)


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Return class weights ``[C] float32`` of mean 1, proportional to (1 - beta) / (1 - beta^n).

    ``counts [C]`` are the rows n of each class, ``beta`` is in 0 <= beta < 1: 0 weights all classes
    alike, and close to 1 the weights approach 1 / n. Cui et al.: Class-Balanced Loss Based on
    Effective Number of Samples, CVPR 2019. It waits for the device, so call it once a training.

    >>> effective_number_weights(torch.tensor([1, 2]), beta=0.5)  # 1 : 2/3, of mean 1
    tensor([1.2000, 0.8000])
    """
    if not 0 <= beta < 1:
        raise FerError(
            f"beta is {beta}",
            code="invalid-value",
            where="class-balanced weights",
            allowed="0 <= beta < 1",
        )
    empty = [number for number, count in enumerate(counts.tolist()) if count < 1]
    if empty:
        raise FerError(
            f"classes without a row have no weight: {empty}",
            code="class-without-rows",
            where="class-balanced weights",
            allowed="at least one row in each class",
            fix="add rows of these classes, or train without class weights",
        )
    weights = 1 / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


def logit_adjusted(logits: Tensor, class_counts: Tensor, tau: float) -> Tensor:
    """Return logits + tau * log(share of the class), ``[N, C]``, for the training loss only.

    ``class_counts [C]`` are the training rows of each class. Menon et al.: Long-tail learning via
    logit adjustment, ICLR 2021. Predictions use the plain logits, which then minimise the balanced
    error. A class without rows gets -inf: a target with a share in it gives an infinite loss.

    >>> logit_adjusted(torch.zeros(1, 2), torch.tensor([3, 1]), tau=1).exp()
    tensor([[0.7500, 0.2500]])
    """
    counts = widened(class_counts)
    return widened(logits) + tau * torch.log(counts / counts.sum())


def kl_rows(teacher_log_p: Tensor, student_log_p: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities ``[N, C]``: ``[N]`` in nats, at least 0.

    The teacher may hold -inf: a class of probability 0 contributes nothing.

    >>> p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    >>> kl_rows(p.log(), q.log()).exp()  # log 2
    tensor([2.])
    """
    gap = (teacher_log_p - student_log_p).masked_fill(teacher_log_p.isneginf(), 0.0)
    return (teacher_log_p.exp() * gap).sum(dim=1)


def kd_rows(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the KD loss T^2 * KL(softmax(teacher / T) || softmax(student / T)), ``[N]``.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. T^2 keeps the size
    of the gradient when T changes. ``teacher`` may be log-probabilities: a constant added to a row
    changes nothing.

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    >>> kd_rows(student, teacher, 2.0) == 4 * kd_rows(student, teacher / 2, 1.0)
    tensor([True])
    """
    return temperature**2 * kl_rows(
        log_softmax(widened(teacher) / temperature, dim=1),
        log_softmax(widened(student) / temperature, dim=1),
    )


def dkd_rows(
    student: Tensor, teacher: Tensor, y: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the DKD terms (T^2 TCKD, T^2 NCKD), each ``[N]``; ``y [N]`` are class indices.

    Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022. TCKD is the KL between the binary
    distributions (target, all others); NCKD the KL between the distributions over the others. The
    target is masked out of the logits, not divided out of the probabilities, so that a teacher that
    is sure of the target still has a proper distribution over the others. A teacher that gives all
    others probability zero has none, and its NCKD is 0.

    >>> teacher = torch.tensor([[3.0, 2.0, 1.0]]); y = torch.tensor([0])
    >>> dkd_rows(torch.tensor([[0.0, 2.0, 1.0]]), teacher, y, 1.0)[1] < 1e-6  # others agree
    tensor([True])
    """
    of_student, of_teacher = widened(student) / temperature, widened(teacher) / temperature
    tckd = kl_rows(_target_or_not(of_teacher, y), _target_or_not(of_student, y))
    nckd = kl_rows(_others(of_teacher, y), _others(of_student, y))
    return temperature**2 * tckd, temperature**2 * nckd


def standardized(logits: Tensor) -> Tensor:
    """Return each row's z-score, (row - mean) / sample standard deviation, ``[N, C]``, finite.

    Sun et al.: Logit Standardization in Knowledge Distillation, CVPR 2024, with the deviation over
    C - 1 as in its code. A row of equal logits gives zeros.

    >>> standardized(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).tolist()
    [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    values = widened(logits)
    deviation = values.std(dim=1, keepdim=True).clamp(min=1e-7)
    return (values - values.mean(dim=1, keepdim=True)) / deviation


def std_kd_rows(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``kd_rows`` of the standardized logits, T^2 included, ``[N]``; Sun et al., CVPR 2024.

    The student learns the teacher's relations between classes, not its scale. A z-score
    of 7 classes is at most 6 / sqrt(7) = 2.27, and the others are then -0.38: a teacher that is
    sure says at most 0.385 at T = 2, 0.70 at T = 1 and 0.97 at T = 0.5. The gradient grows as the
    student's deviation shrinks. Both inputs must be finite.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> std_kd_rows(10 * logits, logits, 1.0) < 1e-6  # the scale does not count
    tensor([True])
    """
    return kd_rows(standardized(student), standardized(teacher), temperature)


def dist_parts(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the DIST terms (inter, intra): T^2 * (1 - mean Pearson correlation), 0..2 T^2.

    The correlations are those of softmax(student / T) with softmax(teacher / T), between the rows
    (inter) and between the columns of the batch (intra). Huang et al.: Knowledge Distillation from
    A Stronger Teacher, NeurIPS 2022. A constant row or column counts as correlation 0, without a
    gradient.

    >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> [part.item() < 1e-5 for part in dist_parts(teacher, teacher, 1.0)]
    [True, True]
    """
    p_student = torch.softmax(widened(student) / temperature, dim=1)
    p_teacher = torch.softmax(widened(teacher) / temperature, dim=1)
    inter = 1 - _pearson(p_student, p_teacher).mean()
    intra = 1 - _pearson(p_student.T, p_teacher.T).mean()
    return temperature**2 * inter, temperature**2 * intra


def arcface_logits(cosine: Tensor, y: Tensor, margin: float, scale: float) -> Tensor:
    """Return scale * cos(theta + margin) for the target class, scale * cos(theta) for the others.

    ``cosine [N, C]`` in -1..1, ``margin`` in radians. Deng et al.: ArcFace, CVPR 2019. Where
    theta + margin passes pi the cosine would rise again; there the published linear continuation
    cos(theta) - margin * sin(margin) is taken.

    >>> cosine = torch.tensor([[0.0, 0.5]])
    >>> arcface_logits(cosine, torch.tensor([0]), margin=math.pi / 6, scale=10.0)
    tensor([[-5.0000,  5.0000]])
    """
    cosine = widened(cosine)
    if margin == 0:
        return scale * cosine
    # The clamp keeps the gradient of acos finite at the ends.
    theta = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    harder = torch.where(
        cosine > math.cos(math.pi - margin),
        torch.cos(theta + margin),
        cosine - margin * math.sin(margin),
    )
    return scale * torch.where(is_class(y, cosine.shape[1]), harder, cosine)


def negative_rows(logits: Tensor, negative: Tensor) -> Tensor:
    """Return the negative-learning loss -log(1 - p_negative), ``[N]``.

    ``negative [N]`` are class indices. Kim et al.: NLNL: Negative Learning for Noisy Labels, ICCV
    2019, equation 2. A step down its gradient lowers the probability of the negative class.

    >>> negative_rows(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([1])).exp()  # 1 / (3/4)
    tensor([1.3333])
    """
    return -logsigmoid(-_log_odds_of(widened(logits), negative))


def normalised_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) divided by log C, ``[N]``: 0 certain, 1 uniform.

    >>> normalised_entropy(torch.tensor([[0.0, 0.0], [999.0, 0.0]])).abs()
    tensor([1., 0.])
    """
    log_p = log_softmax(widened(logits), dim=1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(dim=1)
    # Rounding takes a uniform row past 1, and a gate at 1 compares with it.
    return (entropy / math.log(logits.shape[1])).clamp(0.0, 1.0)


def locality_rows(features: Tensor, y: Tensor, k: int) -> Tensor:
    """Return 1/2 |x - mean of its k nearest rows of the same class|^2, ``[N]``.

    ``features [N, D]``, ``y [N]`` class indices. Li, Deng, Du: Reliable Crowdsourcing and Deep
    Locality-Preserving Learning, CVPR 2017. Neighbours are sought in the batch by Euclidean
    distance; a class with fewer than k other rows gives all of them, and a row alone in its class
    contributes 0. As in the published gradient, x - mean, the mean is a constant.

    >>> features = torch.tensor([[0.0], [2.0], [9.0]])
    >>> locality_rows(features, torch.tensor([0, 0, 1]), k=1)  # 2^2 / 2, and one alone
    tensor([2., 2., 0.])
    """
    values = widened(features)
    with torch.no_grad():
        mean, alone = _neighbours_mean(values, y, k)
    rows = 0.5 * (values - mean).square().sum(dim=1)
    return rows.masked_fill(alone, 0.0)


def _log_odds(logits: Tensor) -> Tensor:
    """log(p_c / (1 - p_c)), ``[N, C]``: log p is its ``logsigmoid``, log(1 - p) that of minus it.

    Both stay exact where p rounds to 1, as log(1 - p) from p does not.
    """
    diagonal = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits[:, None, :].masked_fill(diagonal, -torch.inf).logsumexp(dim=2)


def _log_odds_of(logits: Tensor, y: Tensor) -> Tensor:
    return _log_odds(logits).gather(1, y[:, None]).squeeze(1)


def _target_or_not(logits: Tensor, y: Tensor) -> Tensor:
    """Log-probabilities ``[N, 2]`` of the target and of all other classes together."""
    odds = _log_odds_of(logits, y)
    return logsigmoid(torch.stack([odds, -odds], dim=1))


def _others(logits: Tensor, y: Tensor) -> Tensor:
    """Log-probabilities ``[N, C]`` over the classes other than the target, which gets -inf.

    A row that gives every other class -inf has no distribution over them: all of it is -inf.
    """
    others = logits.masked_fill(is_class(y, logits.shape[1]), -torch.inf)
    nothing = others.isneginf().all(dim=1, keepdim=True)
    return log_softmax(others, dim=1).masked_fill(nothing, -torch.inf)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation ``[M]`` of each row of ``a [M, K]`` with that of ``b``; 0 where one is flat."""
    (a, flat_a), (b, flat_b) = _centred(a), _centred(b)
    return (a * b).sum(dim=1).masked_fill(flat_a | flat_b, 0.0)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row less its mean, at length 1, and whether it is constant, ``[M] bool``."""
    away = rows - rows.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(away, dim=1, keepdim=True)
    rounding = ROUNDING * torch.finfo(rows.dtype).eps
    flat = length <= rounding * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return away / length.masked_fill(flat, 1.0), flat[:, 0]


def _neighbours_mean(values: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean ``[N, D]`` of up to k nearest rows of the same class, and whether there is none."""
    n = len(values)
    same = (y[:, None] == y[None, :]) & ~torch.eye(n, dtype=torch.bool, device=y.device)
    # The form without a matrix product: near neighbours differ by less than its rounding.
    apart = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.masked_fill(~same, torch.inf).topk(min(k, n - 1), largest=False).indices
    taken = same.gather(1, nearest)
    number = taken.sum(dim=1)
    total = torch.where(taken[:, :, None], values[nearest], 0.0).sum(dim=1)
    return total / number.clamp(min=1)[:, None], number == 0
