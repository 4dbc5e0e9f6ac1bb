"""Losses against torch's own functions and against the papers' definitions in float64."""

import math

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from fer_ml.training.losses import arcface_logits, dkd_parts, kd_loss, kl_divergence

N, C = 16, 7
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 20.0)


def draw(seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student and teacher logits ``[N, C] float64`` and ``y [N]``."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        scale * torch.randn(N, C, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student, teacher, torch.randint(0, C, (N,), generator=generator)


def dkd_by_definition(
    student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor, t: float
) -> tuple[torch.Tensor, torch.Tensor]:
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


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_torch_kl_div(t: float) -> None:
    student, teacher, _ = draw(1)
    theirs = t**2 * kl_div(
        log_softmax(student / t, dim=1), softmax(teacher / t, dim=1), reduction="batchmean"
    )
    torch.testing.assert_close(kd_loss(student, teacher, t), theirs)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_gradient_is_that_of_the_plain_definition(t: float) -> None:
    """d/dz of T^2 KL is T (p_s - p_t) / N, which is why T^2 keeps the gradient's size."""
    student, teacher, _ = draw(2)
    student.requires_grad_()
    kd_loss(student, teacher, t).backward()
    wanted = t * (softmax(student.detach() / t, 1) - softmax(teacher / t, 1)) / N
    torch.testing.assert_close(student.grad, wanted)


def test_losses_ignore_constants_and_are_zero_for_equals() -> None:
    student, teacher, y = draw(3)
    shift_s, shift_t = torch.linspace(-50, 50, N).double()[:, None], 17.5
    for one, other in (
        (kd_loss(student, teacher, 2.0), kd_loss(student + shift_s, teacher - shift_t, 2.0)),
        *zip(
            dkd_parts(student, teacher, y, 2.0),
            dkd_parts(student + shift_s, teacher - shift_t, y, 2.0),
            strict=True,
        ),
    ):
        torch.testing.assert_close(one, other)
        assert one > 0
    log_p = log_softmax(teacher, dim=1)
    torch.testing.assert_close(kd_loss(student, log_p, 3.0), kd_loss(student, teacher, 3.0))
    assert kd_loss(teacher, log_p, 3.0).abs() < 1e-12
    assert all(part.abs() < 1e-12 for part in dkd_parts(teacher, log_p, y, 3.0))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_dkd_is_the_papers_definition(t: float) -> None:
    student, teacher, y = draw(4)
    tckd, nckd = dkd_by_definition(student, teacher, y, t)
    ours = dkd_parts(student, teacher, y, t)
    torch.testing.assert_close(ours, (tckd.mean(), nckd.mean()))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_tckd_plus_weighted_nckd_in_every_row(t: float) -> None:
    """KD = TCKD + (1 - p_t of the teacher) NCKD: the identity that DKD starts from."""
    student, teacher, y = draw(5)
    for row in range(N):
        one = slice(row, row + 1)
        tckd, nckd = dkd_parts(student[one], teacher[one], y[one], t)
        weight = 1 - softmax(teacher[row] / t, dim=0)[y[row]]
        torch.testing.assert_close(
            kd_loss(student[one], teacher[one], t), tckd + weight * nckd, rtol=1e-9, atol=1e-12
        )


def test_a_step_down_the_gradient_lowers_each_loss() -> None:
    student, teacher, y = draw(6)
    losses = (
        lambda z: kd_loss(z, teacher, 2.0),
        lambda z: dkd_parts(z, teacher, y, 2.0)[0],
        lambda z: dkd_parts(z, teacher, y, 2.0)[1],
    )
    for loss in losses:
        z = student.clone().requires_grad_()
        before = loss(z)
        before.backward()
        assert loss(z.detach() - 0.1 * z.grad) < before


def test_tckd_moves_only_the_balance_and_nckd_only_the_others() -> None:
    student, teacher, y = draw(7)
    target = torch.nn.functional.one_hot(y, C).bool()
    z = student.clone().requires_grad_()
    dkd_parts(z, teacher, y, 2.0)[1].backward()
    assert (z.grad[target] == 0).all()
    p_s = softmax(student.masked_fill(target, -torch.inf) / 2, 1)
    p_t = softmax(teacher.masked_fill(target, -torch.inf) / 2, 1)
    assert (torch.sign(-z.grad)[~target] == torch.sign(p_t - p_s)[~target]).all()

    z = student.clone().requires_grad_()
    dkd_parts(z, teacher, y, 2.0)[0].backward()
    more_target = softmax(teacher / 2, 1)[target] > softmax(student / 2, 1)[target]
    assert ((-z.grad[target] > 0) == more_target).all()


@pytest.mark.parametrize("gap", [50.0, 1000.0])
def test_a_sure_teacher_gives_finite_losses_and_gradients(gap: float) -> None:
    student, teacher, y = (x.float() if x.is_floating_point() else x for x in draw(8))
    teacher[torch.arange(N), y] += gap
    student.requires_grad_()
    kd, (tckd, nckd) = kd_loss(student, teacher, 1.0), dkd_parts(student, teacher, y, 1.0)
    (kd + tckd + nckd).backward()
    assert torch.isfinite(student.grad).all()
    _, wanted = dkd_by_definition(*[x.double() for x in draw(8)[:2]], y, 1.0)
    # The target's size is no part of NCKD.
    torch.testing.assert_close(nckd.double(), wanted.mean(), rtol=1e-3, atol=1e-4)


def test_a_one_hot_teacher_gives_cross_entropy() -> None:
    student, _, y = draw(9)
    teacher = torch.full((N, C), -torch.inf, dtype=torch.float64)
    teacher[torch.arange(N), y] = 0.0
    student.requires_grad_()
    ours = kl_divergence(teacher, log_softmax(student, 1))
    theirs = torch.nn.functional.cross_entropy(student, y)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(kd_loss(student, teacher, 1.0), theirs)
    ours.backward()
    assert torch.isfinite(student.grad).all()


def test_kl_divergence_of_hand_made_distributions() -> None:
    teacher = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    student = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).log()
    wanted = (0.5 * math.log(2) + math.log(2)) / 2
    assert kl_divergence(teacher, student).item() == pytest.approx(wanted)


@pytest.mark.parametrize("margin", [0.1, 0.35, 1.0])
def test_arcface_widens_only_the_target_angle(margin: float) -> None:
    theta = torch.linspace(0.01, math.pi - margin - 0.01, 50, dtype=torch.float64)
    cosine = torch.cos(theta)[:, None].repeat(1, C)
    y = torch.arange(50) % C
    wanted = 30 * cosine
    wanted[torch.arange(50), y] = 30 * torch.cos(theta + margin)
    torch.testing.assert_close(arcface_logits(cosine, y, margin, 30.0), wanted)


def test_arcface_without_margin_is_scaled_cosine() -> None:
    cosine = torch.rand(N, C) * 2 - 1
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
    torch.testing.assert_close(ours[beyond], wanted, rtol=1e-6, atol=1e-7)


def test_arcface_gradient_is_finite_at_the_ends() -> None:
    cosine = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [1 - 1e-9, 0.1]], requires_grad=True)
    arcface_logits(cosine, torch.zeros(3, dtype=torch.int64), 0.35, 30.0).sum().backward()
    assert torch.isfinite(cosine.grad).all()
