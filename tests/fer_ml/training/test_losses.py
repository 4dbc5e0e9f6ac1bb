"""Losses against torch's own functions, and against the papers' definitions in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot, softmax

from fer_ml.training.losses import (
    arcface_logits,
    cross_entropy_rows,
    dist_parts,
    dkd_rows,
    effective_number_weights,
    focal_rows,
    kd_rows,
    kl_rows,
    locality_rows,
    logit_adjusted,
    negative_rows,
    normalised_entropy,
    standardized,
    std_kd_rows,
)
from tests.refusals import refused

N, C = 16, 7
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 20.0)
SEEDS = st.integers(0, 2**32 - 1)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def draw(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits ``[N, C] float64`` and ``y [N]``."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        scale * torch.randn(N, C, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student, teacher, torch.randint(0, C, (N,), generator=generator)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    z = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(z).sum(), z)
    return found


# -- every loss at once ---------------------------------------------------------------------------


def shares(teacher: Tensor) -> Tensor:
    """The target of a loss that takes one."""
    return softmax(teacher.to(torch.promote_types(teacher.dtype, torch.float32)), 1)


#: Losses of (student, teacher, y).
LOSSES: dict[str, Loss] = {
    "cross entropy": lambda s, t, y: cross_entropy_rows(s, shares(t)),
    "focal 0.5": lambda s, t, y: focal_rows(s, shares(t), 0.5),
    "focal 2": lambda s, t, y: focal_rows(s, one_hot(y, C), 2.0),
    "adjusted": lambda s, t, y: cross_entropy_rows(
        logit_adjusted(s, torch.arange(1, C + 1), 1.0), shares(t)
    ),
    "kd": lambda s, t, y: kd_rows(s, t, 2.0),
    "tckd": lambda s, t, y: dkd_rows(s, t, y, 2.0)[0],
    "nckd": lambda s, t, y: dkd_rows(s, t, y, 2.0)[1],
    "standardized kd": lambda s, t, y: std_kd_rows(s, t, 1.0),
    "inter": lambda s, t, y: dist_parts(s, t, 2.0)[0],
    "intra": lambda s, t, y: dist_parts(s, t, 2.0)[1],
    "negative": lambda s, t, y: negative_rows(s, y),
    "entropy": lambda s, t, y: normalised_entropy(s),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    student, teacher, y = draw(1, scale=1.0)
    student.requires_grad_()
    assert gradcheck(lambda z: LOSSES[name](z, teacher, y), (student,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_a_row_changes_nothing(name: str) -> None:
    student, teacher, y = draw(2)
    shift = torch.linspace(-50, 50, N).double()[:, None]
    shifted = LOSSES[name](student + shift, teacher - 17.5, y)
    torch.testing.assert_close(shifted, LOSSES[name](student, teacher, y))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    student, teacher, y = draw(3)
    step = gradient(lambda z: LOSSES[name](z, teacher, y), student)
    before = LOSSES[name](student, teacher, y).sum()
    assert LOSSES[name](student - 1e-3 * step, teacher, y).sum() < before


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(name: str, dtype: torch.dtype) -> None:
    student, teacher, y = draw(4)
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = LOSSES[name](student, teacher, y)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, LOSSES[name](student.float(), teacher.float(), y))


@pytest.mark.parametrize("name", LOSSES)
@given(seed=SEEDS, scale=st.floats(1e-3, 100))
@settings(max_examples=25)
def test_values_are_finite_and_not_negative(name: str, seed: int, scale: float) -> None:
    student, teacher, y = draw(seed, scale)
    student, teacher = student.float(), teacher.float()
    assert (LOSSES[name](student, teacher, y) >= -1e-4).all()
    step = gradient(lambda z: LOSSES[name](z, teacher, y), student)
    assert torch.isfinite(step).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sure", ["student", "teacher", "both", "opposed"])
def test_logits_of_100_give_finite_values_and_gradients(name: str, sure: str) -> None:
    student, teacher, y = (x.float() if x.is_floating_point() else x for x in draw(5))
    certain = torch.full((N, C), -100.0).scatter(1, y[:, None], 100.0)
    student = student if sure == "teacher" else certain
    teacher = teacher if sure == "student" else certain
    if sure == "opposed":
        teacher = certain.roll(1, dims=1)
    assert torch.isfinite(LOSSES[name](student, teacher, y)).all()
    assert torch.isfinite(gradient(lambda z: LOSSES[name](z, teacher, y), student)).all()


@pytest.mark.parametrize("name", ["cross entropy", "focal 2", "kd", "tckd", "nckd", "inter"])
@pytest.mark.parametrize("possible", [1, 2])
def test_a_teacher_with_impossible_classes_gives_finite_gradients(name: str, possible: int) -> None:
    """One possible class is a one-hot teacher: it has no distribution over the others."""
    student, teacher, y = draw(6)
    order = (torch.arange(C)[None] - y[:, None]) % C
    teacher = teacher.masked_fill(order >= possible, -torch.inf)
    assert torch.isfinite(LOSSES[name](student, teacher, y)).all()
    assert torch.isfinite(gradient(lambda z: LOSSES[name](z, teacher, y), student)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_no_value_is_read_back_from_the_device(name: str) -> None:
    """Tensors of the meta device have no values, and do not mix with those of another device."""
    student, teacher = (torch.empty(N, C, device="meta") for _ in range(2))
    y = torch.empty(N, dtype=torch.int64, device="meta")
    counts = torch.empty(C, device="meta")
    loss = LOSSES[name]
    if name == "adjusted":
        loss = lambda s, t, y: logit_adjusted(s, counts, 1.0)  # noqa: E731
    assert gradient(lambda z: loss(z, teacher, y), student).device.type == "meta"


@pytest.mark.parametrize("loss", [arcface_logits, locality_rows])
def test_no_value_is_read_back_from_the_device_by_others(loss: Callable[..., Tensor]) -> None:
    rows, y = torch.empty(N, C, device="meta"), torch.empty(N, dtype=torch.int64, device="meta")
    settings = (0.35, 30.0) if loss is arcface_logits else (3,)
    assert gradient(lambda x: loss(x, y, *settings), rows).device.type == "meta"


# -- cross entropy, focal, imbalance --------------------------------------------------------------


def test_cross_entropy_is_torchs_and_sklearns() -> None:
    student, teacher, y = draw(7)
    soft = softmax(teacher, 1)
    torch.testing.assert_close(
        cross_entropy_rows(student, soft), cross_entropy(student, soft, reduction="none")
    )
    hard = cross_entropy_rows(student, one_hot(y, C).double()).mean()
    assert hard.item() == pytest.approx(log_loss(y, softmax(student, 1), labels=range(C)))
    smoothed = one_hot(y, C) * 0.9 + 0.1 / C
    torch.testing.assert_close(
        cross_entropy_rows(student, smoothed).mean(),
        cross_entropy(student, y, label_smoothing=0.1),
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_published_form(gamma: float) -> None:
    student, teacher, y = draw(8)
    p, soft = softmax(student, 1), softmax(teacher, 1)
    of_target = p[torch.arange(N), y]
    torch.testing.assert_close(
        focal_rows(student, one_hot(y, C).double(), gamma),
        -((1 - of_target) ** gamma) * of_target.log(),
    )
    torch.testing.assert_close(
        focal_rows(student, soft, gamma), -(soft * (1 - p) ** gamma * p.log()).sum(1)
    )


def test_focal_without_focus_is_cross_entropy() -> None:
    student, teacher, _ = draw(9)
    soft = softmax(teacher, 1)
    torch.testing.assert_close(focal_rows(student, soft, 0.0), cross_entropy_rows(student, soft))


def test_focal_looks_away_from_easy_rows() -> None:
    """The share of cross entropy's gradient that is left falls as p of the target rises."""
    logit = torch.arange(0.0, 10.0, dtype=torch.float64)
    student = torch.zeros(10, C, dtype=torch.float64)
    student[:, 0] = logit
    target = one_hot(torch.zeros(10, dtype=torch.int64), C).double()
    left = (
        gradient(lambda z: focal_rows(z, target, 2.0), student)[:, 0]
        / gradient(lambda z: cross_entropy_rows(z, target), student)[:, 0]
    )
    assert (left.diff() < 0).all() and left[-1] < 0.01


def test_effective_number_weights_by_hand() -> None:
    """beta 0.5: effective numbers 1, 1.5 and 1.75 times 1, so 1 : 2/3 : 4/7."""
    weights = effective_number_weights(torch.tensor([1, 2, 3]), 0.5)
    wanted = torch.tensor([21.0, 14.0, 12.0]) * 3 / 47
    torch.testing.assert_close(weights, wanted)


def test_effective_number_weights_between_their_ends() -> None:
    counts = torch.tensor([436, 4953, 28709, 3995])
    assert torch.equal(effective_number_weights(counts, 0.0), torch.ones(4))
    inverse = 1 / counts.double()
    nearly = effective_number_weights(counts, 1 - 1e-9)
    torch.testing.assert_close(nearly, (inverse / inverse.mean()).float(), rtol=1e-4, atol=0)
    for beta in (0.999, 0.9999):
        weights = effective_number_weights(counts, beta)
        assert weights.mean().item() == pytest.approx(1)
        assert (weights[counts.argsort()].diff() <= 0).all() and weights[0] > weights[2]


def test_effective_number_weights_refuse_empty_classes() -> None:
    with refused("class-without-rows") as caught:
        effective_number_weights(torch.tensor([5, 0, 3, 0]), 0.99)
    assert "[1, 3]" in caught.value.what
    for beta in (-0.1, 1.0):
        with refused("invalid-value", allowed="0 <= beta < 1"):
            effective_number_weights(torch.tensor([5, 3]), beta)


def test_logit_adjustment_adds_the_prior() -> None:
    student, _, _ = draw(10)
    counts = torch.tensor([10, 20, 30, 40, 50, 60, 70])
    wanted = softmax(student, 1) * (counts / counts.sum())
    adjusted = softmax(logit_adjusted(student, counts, 1.0), 1)
    torch.testing.assert_close(adjusted, wanted / wanted.sum(1, keepdim=True), rtol=1e-6, atol=0)
    by_hand = 2 * torch.tensor([1 / 28, 2 / 28, 3 / 28, 4 / 28, 5 / 28, 6 / 28, 7 / 28]).log()
    torch.testing.assert_close(logit_adjusted(torch.zeros(1, C), counts, 2.0)[0], by_hand)
    assert torch.equal(logit_adjusted(student, counts, 0.0), student)
    torch.testing.assert_close(
        softmax(logit_adjusted(student, torch.full((C,), 9), 2.0), 1), softmax(student, 1)
    )


def test_a_class_without_rows_is_impossible_in_the_adjusted_loss() -> None:
    student, _, y = draw(11)
    counts, target = torch.tensor([3, 3, 3, 3, 3, 3, 0]), one_hot(y % 6, C).double()
    loss = lambda z: cross_entropy_rows(logit_adjusted(z, counts, 1.0), target)  # noqa: E731
    torch.testing.assert_close(
        loss(student), cross_entropy(student[:, :6], y % 6, reduction="none")
    )
    step = gradient(loss, student)
    assert torch.isfinite(step).all() and (step[:, 6] == 0).all()


# -- distillation ---------------------------------------------------------------------------------


def dkd_by_definition(
    student: Tensor, teacher: Tensor, y: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each row ``[N]`` from probabilities, as the paper writes them, times T^2."""
    tckd, nckd = [], []
    p_s, p_t = softmax(student / t, dim=1), softmax(teacher / t, dim=1)
    for row, target in enumerate(y.tolist()):
        b_s = torch.stack([p_s[row, target], 1 - p_s[row, target]])
        b_t = torch.stack([p_t[row, target], 1 - p_t[row, target]])
        others = [c for c in range(C) if c != target]
        q_s = p_s[row, others] / (1 - p_s[row, target])
        q_t = p_t[row, others] / (1 - p_t[row, target])
        tckd.append((b_t * (b_t / b_s).log()).sum())
        nckd.append((q_t * (q_t / q_s).log()).sum())
    return t**2 * torch.stack(tckd), t**2 * torch.stack(nckd)


def test_kl_of_hand_made_distributions() -> None:
    teacher = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    student = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).log()
    wanted = torch.tensor([0.5 * math.log(2), math.log(2)])
    torch.testing.assert_close(kl_rows(teacher, student), wanted)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_torch_kl_div(t: float) -> None:
    student, teacher, _ = draw(12)
    theirs = kl_div(log_softmax(student / t, 1), softmax(teacher / t, 1), reduction="none").sum(1)
    torch.testing.assert_close(kd_rows(student, teacher, t), t**2 * theirs)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_moves_towards_the_teacher(t: float) -> None:
    """d/dz of T^2 KL is T (p_s - p_t), which is why T^2 keeps the gradient's size."""
    student, teacher, _ = draw(13)
    wanted = t * (softmax(student / t, 1) - softmax(teacher / t, 1))
    torch.testing.assert_close(gradient(lambda z: kd_rows(z, teacher, t), student), wanted)


def test_a_student_like_its_teacher_has_no_loss() -> None:
    _, teacher, y = draw(14)
    log_p = log_softmax(teacher, dim=1)
    for rows in (kd_rows(teacher, log_p, 3.0), *dkd_rows(teacher, log_p, y, 3.0)):
        torch.testing.assert_close(rows, torch.zeros_like(rows))
    for name in ("standardized kd", "inter", "intra"):
        value = LOSSES[name](teacher, teacher, y)
        torch.testing.assert_close(value, torch.zeros_like(value))


def test_a_one_hot_teacher_gives_cross_entropy() -> None:
    student, _, y = draw(15)
    teacher = torch.full((N, C), -torch.inf, dtype=torch.float64).scatter(1, y[:, None], 0.0)
    theirs = cross_entropy(student, y, reduction="none")
    torch.testing.assert_close(kl_rows(teacher, log_softmax(student, 1)), theirs)
    torch.testing.assert_close(kd_rows(student, teacher, 1.0), theirs)
    tckd, nckd = dkd_rows(student, teacher, y, 1.0)
    torch.testing.assert_close(tckd, theirs)
    assert torch.equal(nckd, torch.zeros(N, dtype=torch.float64))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_dkd_is_the_papers_definition(t: float) -> None:
    student, teacher, y = draw(16)
    torch.testing.assert_close(
        dkd_rows(student, teacher, y, t), dkd_by_definition(student, teacher, y, t)
    )


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_tckd_plus_weighted_nckd(t: float) -> None:
    """KD = TCKD + (1 - p_t of the teacher) NCKD: the identity that DKD starts from."""
    student, teacher, y = draw(17)
    tckd, nckd = dkd_rows(student, teacher, y, t)
    weight = 1 - softmax(teacher / t, 1)[torch.arange(N), y]
    torch.testing.assert_close(
        kd_rows(student, teacher, t), tckd + weight * nckd, rtol=1e-9, atol=1e-12
    )


def test_tckd_moves_the_target_and_nckd_only_the_others() -> None:
    student, teacher, y = draw(18)
    target = one_hot(y, C).bool()
    step = -gradient(lambda z: dkd_rows(z, teacher, y, 2.0)[1], student)
    assert (step[target] == 0).all()
    p_s = softmax(student.masked_fill(target, -torch.inf) / 2, 1)
    p_t = softmax(teacher.masked_fill(target, -torch.inf) / 2, 1)
    assert (step.sign()[~target] == (p_t - p_s).sign()[~target]).all()

    step = -gradient(lambda z: dkd_rows(z, teacher, y, 2.0)[0], student)
    more_target = softmax(teacher / 2, 1)[target] > softmax(student / 2, 1)[target]
    assert ((step[target] > 0) == more_target).all() and (step[target] != 0).all()
    # What the others lose, each loses by its share among them.
    share = softmax(student.masked_fill(target, -torch.inf) / 2, 1)
    torch.testing.assert_close(step[~target], (-step[target][:, None] * share)[~target])


@pytest.mark.parametrize("gap", [50.0, 1000.0])
def test_a_sure_teacher_keeps_its_distribution_over_the_others(gap: float) -> None:
    student, teacher, y = draw(19)
    _, wanted = dkd_by_definition(student, teacher, y, 1.0)
    sure = teacher.scatter_add(1, y[:, None], torch.full((N, 1), gap, dtype=torch.float64))
    _, nckd = dkd_rows(student.float(), sure.float(), y, 1.0)
    torch.testing.assert_close(nckd.double(), wanted, rtol=1e-3, atol=1e-3)


def test_standardized_by_numpy_and_its_bound() -> None:
    student, _, _ = draw(20)
    x = student.numpy()
    wanted = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardized(student).numpy(), wanted)
    sure = standardized(one_hot(torch.arange(C), C).double() * 1e3)
    torch.testing.assert_close(
        sure.max(), torch.tensor(6 / math.sqrt(7)).double(), rtol=1e-6, atol=0
    )
    for t, most in ((2.0, 0.385), (1.0, 0.70), (0.5, 0.97)):
        assert softmax(sure / t, 1).max().item() == pytest.approx(most, abs=0.005)
    flat = torch.full((2, C), 3.0)
    assert torch.equal(standardized(flat), torch.zeros(2, C))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_standardized_kd_is_kd_of_z_scores_at_any_scale(t: float) -> None:
    student, teacher, _ = draw(21)
    z_s, z_t = (
        (x - x.mean(1, keepdim=True)) / x.var(1, keepdim=True).sqrt() for x in (student, teacher)
    )
    ours = std_kd_rows(student, teacher, t)
    log_s, log_t = log_softmax(z_s / t, 1), log_softmax(z_t / t, 1)
    wanted = t**2 * kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(ours, wanted)
    scale = torch.linspace(0.1, 40, N).double()[:, None]
    torch.testing.assert_close(std_kd_rows(student, scale * teacher + 5, t), ours)
    torch.testing.assert_close(std_kd_rows(scale * student - 5, teacher, t), ours)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_dist_is_one_minus_numpys_correlation(t: float) -> None:
    student, teacher, _ = draw(22)
    p_s, p_t = softmax(student / t, 1).numpy(), softmax(teacher / t, 1).numpy()
    rows = [np.corrcoef(p_s[i], p_t[i])[0, 1] for i in range(N)]
    columns = [np.corrcoef(p_s[:, c], p_t[:, c])[0, 1] for c in range(C)]
    inter, intra = dist_parts(student, teacher, t)
    assert inter.item() == pytest.approx(t**2 * (1 - np.mean(rows)))
    assert intra.item() == pytest.approx(t**2 * (1 - np.mean(columns)))


def test_dist_ignores_the_scale_of_probabilities() -> None:
    """p -> a p + (1 - a) / C flattens every row alike and correlates with p as before."""
    student, teacher, _ = draw(23)
    flat = (0.25 * softmax(teacher, 1) + 0.75 / C).log()
    torch.testing.assert_close(dist_parts(student, flat, 1.0), dist_parts(student, teacher, 1.0))
    assert dist_parts(teacher, flat, 1.0)[0].abs() < 1e-12
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        dist_parts(student[order], teacher[order], 2.0), dist_parts(student, teacher, 2.0)
    )


def test_dist_of_constant_columns_is_one_without_a_gradient() -> None:
    student, teacher, _ = (x.float() if x.is_floating_point() else x for x in draw(24))
    same = teacher[:1].expand(N, C)
    _, intra = dist_parts(student, same, 2.0)
    assert intra.item() == pytest.approx(4.0)
    assert (gradient(lambda z: dist_parts(z, same, 2.0)[1], student) == 0).all()
    flat = torch.zeros(N, C)
    inter, intra = dist_parts(flat, teacher, 2.0)
    assert (inter.item(), intra.item()) == (4.0, 4.0)
    assert (gradient(lambda z: sum(dist_parts(z, teacher, 2.0)), flat) == 0).all()


# -- angular margin -------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.1, 0.35, 1.0])
def test_arcface_widens_only_the_target_angle(margin: float) -> None:
    theta = torch.linspace(0.01, math.pi - margin - 0.01, 50, dtype=torch.float64)
    cosine = torch.cos(theta)[:, None].repeat(1, C)
    y = torch.arange(50) % C
    wanted = 30 * cosine
    wanted[torch.arange(50), y] = 30 * torch.cos(theta + margin)
    torch.testing.assert_close(arcface_logits(cosine, y, margin, 30.0), wanted)


def test_arcface_without_margin_is_scaled_cosine() -> None:
    cosine = torch.rand(N, C, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = torch.zeros(N, dtype=torch.int64)
    assert torch.equal(arcface_logits(cosine, y, 0.0, 30.0), 30.0 * cosine)


@pytest.mark.parametrize("margin", [0.1, 0.35, 1.0])
def test_arcface_keeps_falling_beyond_pi_minus_margin(margin: float) -> None:
    theta = torch.linspace(0.01, math.pi - 0.01, 400, dtype=torch.float64)
    cosine = torch.cos(theta)[:, None].repeat(1, C)
    ours = arcface_logits(cosine, torch.zeros(400, dtype=torch.int64), margin, 1.0)[:, 0]
    assert (ours.diff() < 0).all()
    beyond = theta > math.pi - margin + 1e-6
    wanted = torch.cos(theta[beyond]) - margin * math.sin(margin)
    torch.testing.assert_close(ours[beyond], wanted)


def test_arcface_gradient() -> None:
    cosine = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [1 - 1e-9, 0.1]])
    y = torch.zeros(3, dtype=torch.int64)
    assert torch.isfinite(gradient(lambda c: arcface_logits(c, y, 0.35, 30.0), cosine)).all()
    inside = 0.9 * (torch.rand(N, C, generator=torch.Generator().manual_seed(2)).double() * 2 - 1)
    y = torch.arange(N) % C
    inside.requires_grad_()
    assert gradcheck(lambda c: arcface_logits(c, y, 0.35, 30.0), (inside,))


# -- negative labels, entropy, locality -----------------------------------------------------------


def test_negative_is_minus_log_of_the_rest() -> None:
    student, _, y = draw(25)
    p = softmax(student, 1)[torch.arange(N), y]
    torch.testing.assert_close(negative_rows(student, y), -torch.log(1 - p))
    others = one_hot(y, C).logical_not()
    rest = torch.stack([softmax(s, 0)[keep].sum() for s, keep in zip(student, others, strict=True)])
    torch.testing.assert_close(negative_rows(student, y), -rest.log())


def test_a_step_down_the_negative_loss_lowers_the_class_from_uniform() -> None:
    y = torch.arange(C)
    uniform = torch.zeros(C, C, dtype=torch.float64)
    step = -gradient(lambda z: negative_rows(z, y), uniform)
    assert (step.diagonal() < 0).all()
    after = softmax(uniform + step, 1)
    assert (after.diagonal() < 1 / C).all()
    raised = after[~torch.eye(C, dtype=torch.bool)]
    torch.testing.assert_close(raised, raised[0].expand_as(raised))
    assert raised[0] > 1 / C


def test_negative_of_a_class_that_is_certain_is_its_lead() -> None:
    """-log(1 - p) of a class that leads 6 others by 200 is 200 - log 6; its p rounds to 1."""
    logits = torch.zeros(1, C)
    logits[0, 3] = 200.0
    loss = negative_rows(logits, torch.tensor([3]))
    assert loss.item() == pytest.approx(200 - math.log(6))
    step = gradient(lambda z: negative_rows(z, torch.tensor([3])), logits)
    assert step[0, 3].item() == pytest.approx(1.0)


def test_normalised_entropy_of_known_rows() -> None:
    rows = torch.log(torch.tensor([[1.0] * 7, [1.0] + [0.0] * 6, [0.5, 0.5] + [0.0] * 5]))
    wanted = torch.tensor([1.0, 0.0, math.log(2) / math.log(7)])
    torch.testing.assert_close(normalised_entropy(rows), wanted)
    student, _, _ = draw(26)
    theirs = torch.distributions.Categorical(logits=student).entropy() / math.log(C)
    torch.testing.assert_close(normalised_entropy(student), theirs)


@given(seed=SEEDS, scale=st.floats(0, 1e4))
@settings(max_examples=50)
def test_normalised_entropy_stays_in_its_range(seed: int, scale: float) -> None:
    entropy = normalised_entropy(draw(seed, scale)[0].float())
    assert ((entropy >= 0) & (entropy <= 1)).all()


def locality_by_hand(features: Tensor, y: Tensor, k: int) -> Tensor:
    rows = []
    for i in range(len(y)):
        own = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        own.sort(key=lambda j: float((features[i] - features[j]).norm()))
        near = [features[j] for j in own[:k]]
        away = features[i] - torch.stack(near).mean(0) if near else torch.zeros_like(features[i])
        rows.append(0.5 * away.square().sum())
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_locality_by_brute_force(k: int) -> None:
    features, _, y = draw(27)
    torch.testing.assert_close(locality_rows(features, y, k), locality_by_hand(features, y, k))


def test_locality_of_hand_made_rows() -> None:
    """On a line: 0, 1, 5 are of one class, 3 of another; k = 1."""
    features = torch.tensor([[0.0], [1.0], [5.0], [3.0]])
    y = torch.tensor([0, 0, 0, 1])
    wanted = torch.tensor([0.5, 0.5, 8.0, 0.0])
    torch.testing.assert_close(locality_rows(features, y, 1), wanted)
    step = gradient(lambda x: locality_rows(x, y, 1), features)
    torch.testing.assert_close(step, torch.tensor([[-1.0], [1.0], [4.0], [0.0]]))


def test_locality_takes_the_mean_as_a_constant() -> None:
    """Its gradient is x - mean, as published, whoever else has the row as a neighbour."""
    features, _, _ = draw(28)
    y = torch.arange(N) % 3
    apart = torch.cdist(features, features).masked_fill(y[:, None] != y, torch.inf)
    nearest = apart.fill_diagonal_(torch.inf).argsort(dim=1)[:, :3]
    step = gradient(lambda x: locality_rows(x, y, 3), features)
    torch.testing.assert_close(step, features - features[nearest].mean(dim=1))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_locality_of_rows_alone_is_zero(rows: int) -> None:
    features = torch.randn(rows, 4, generator=torch.Generator().manual_seed(3))
    y = torch.arange(rows)
    assert torch.equal(locality_rows(features, y, 20), torch.zeros(rows))
    assert torch.equal(
        gradient(lambda x: locality_rows(x, y, 20), features), torch.zeros_like(features)
    )
