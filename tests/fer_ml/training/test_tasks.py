"""Tasks give the loss that their recipe's docstring states, and its parts under their names."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fer_ml.errors import FerError
from fer_ml.profiles import CE, DKD, KD, ArcFace
from fer_ml.training.losses import arcface_logits, dkd_parts, kd_loss
from fer_ml.training.models import ArcFaceNet
from fer_ml.training.tasks import Batch, make_task, margin_at

C = 7


class Fixed(torch.nn.Module):
    """Gives the logits it was made with."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def batch(teacher: bool = True, epoch: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch(
        images=torch.zeros(5, 3, 16, 16),
        y=torch.tensor([0, 6, 3, 3, 1]),
        teacher=torch.randn(5, C, generator=generator) if teacher else None,
        epoch=epoch,
    )


@pytest.fixture
def model() -> Fixed:
    return Fixed(torch.randn(5, C, generator=torch.Generator().manual_seed(1)))


def test_ce(model: Fixed) -> None:
    loss, parts = make_task(CE(label_smoothing=0.1), None)(model, batch(teacher=False))
    wanted = cross_entropy(model.logits, batch().y, label_smoothing=0.1)
    assert loss.item() == pytest.approx(wanted.item())
    assert parts == {"ce": pytest.approx(wanted.item())}


def test_kd(model: Fixed) -> None:
    data = batch()
    loss, parts = make_task(KD(ce_weight=0.3, kd_weight=0.7), 4.0)(model, data)
    ce = cross_entropy(model.logits, data.y).item()
    kd = kd_loss(model.logits, data.teacher, 4.0).item()
    assert parts == pytest.approx({"ce": ce, "kd": kd})
    assert loss.item() == pytest.approx(0.3 * ce + 0.7 * kd)


def test_dkd(model: Fixed) -> None:
    data = batch()
    recipe = DKD(ce_weight=0.5, tckd_weight=0.25, nckd_weight=8.0)
    loss, parts = make_task(recipe, 2.0)(model, data)
    tckd, nckd = (part.item() for part in dkd_parts(model.logits, data.teacher, data.y, 2.0))
    ce = cross_entropy(model.logits, data.y).item()
    assert parts == pytest.approx({"ce": ce, "tckd": tckd, "nckd": nckd})
    assert loss.item() == pytest.approx(0.5 * ce + 0.25 * tckd + 8.0 * nckd)


@pytest.mark.parametrize("recipe", [KD(), DKD()])
def test_distillation_without_temperature_or_teacher_is_refused(
    recipe: KD | DKD, model: Fixed
) -> None:
    with pytest.raises(FerError, match="no temperature"):
        make_task(recipe, None)
    with pytest.raises(FerError, match="needs soft labels"):
        make_task(recipe, 2.0)(model, batch(teacher=False))


def test_the_margin_rises_linearly_between_its_epochs() -> None:
    task = ArcFace(plain_epochs=5, ramp_end=15, margin=0.4)
    found = [margin_at(task, epoch) for epoch in (0, 5, 7.5, 10, 15, 60)]
    assert found == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])
    assert margin_at(ArcFace(plain_epochs=2, ramp_end=2, margin=0.4), 2.0) == 0.4


def test_arcface_trains_the_plain_head_first_and_then_the_margin_head() -> None:
    torch.manual_seed(0)
    task = ArcFace(plain_epochs=1, ramp_end=2, margin=0.4, scale=10, embedding=8, dropout=0)
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net = ArcFaceNet(backbone, 3, task)
    loss_of = make_task(task, None)
    images = torch.randn(5, 3, 8, 8)

    early = Batch(images, batch().y, None, 0.5)
    plain, cosine = net.heads(images)
    assert loss_of(net, early)[0].item() == pytest.approx(cross_entropy(plain, early.y).item())
    assert not net.arc_in_use
    net.eval()
    assert torch.equal(net(images), net.heads(images)[0])

    net.train()
    late = Batch(images, early.y, None, 1.5)
    loss, parts = loss_of(net, late)
    wanted = cross_entropy(arcface_logits(cosine, late.y, 0.2, 10.0), late.y)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert parts["arcface_margin"] == pytest.approx(0.2)
    net.eval()
    assert net.arc_in_use, "from here on inference uses the ArcFace head"
    torch.testing.assert_close(net(images), 10 * net.heads(images)[1])
    assert net.state_dict()["arc_in_use"], "and the checkpoint carries it"
