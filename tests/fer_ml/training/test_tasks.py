"""The objective is what its recipe's docstring states, its parts stand under their names."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from fer_ml.recipes.training import (
    CE,
    DIST,
    DKD,
    KD,
    ArcFace,
    Imbalance,
    Locality,
    Negative,
    Prototype,
    StandardizedKD,
    Training,
)
from fer_ml.training.losses import arcface_logits, dkd_rows
from fer_ml.training.networks import ArcFaceNet, Outputs, Plain
from fer_ml.training.tasks import Batch, Objective, margin_at
from tests.refusals import refused

C = 7
COUNTS = torch.tensor([50, 5, 20, 100, 30, 25, 70])
RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)


class Fixed(Plain):
    """Gives the logits it was made with."""

    def __init__(self) -> None:
        head = torch.nn.Linear(4, C)
        backbone = torch.nn.Module()
        backbone.get_classifier = lambda: head
        super().__init__(backbone)
        seeded = torch.Generator().manual_seed(1)
        self.logits = torch.nn.Parameter(torch.randn(5, C, generator=seeded))
        self.features = torch.randn(5, 4, generator=seeded)

    def outputs(self, images: torch.Tensor) -> Outputs:
        rows = images[:, 0, 0, 0].long()
        return Outputs(self.logits[rows], self.features[rows])


def batch(rows: list[int] | None = None, teacher: bool = True, epoch: float = 0.0) -> Batch:
    chosen = torch.tensor(rows if rows is not None else range(5))
    y = torch.tensor([0, 6, 3, 3, 1])
    logits = torch.randn(5, C, generator=torch.Generator().manual_seed(2))
    images = torch.zeros(5, 3, 4, 4)
    images[:, 0, 0, 0] = torch.arange(5)
    return Batch(
        images=images[chosen],
        y=y[chosen],
        target=one_hot(y, C).float()[chosen],
        shown=one_hot(y, C).bool()[chosen],
        epoch=epoch,
        count=5,
        teacher=logits[chosen] if teacher else None,
        generator=torch.Generator().manual_seed(0),
    )


def values(recipe: Training, temperature: float | None = None, **changes: object):
    net = Fixed()
    data = replace(batch(), **changes)
    loss, parts = Objective(net, recipe, COUNTS, temperature)(data)
    return net.logits.detach(), data, loss.item(), {k: v.item() for k, v in parts.items()}


def test_ce_against_torch_with_smoothed_targets() -> None:
    smoothed = one_hot(batch().y, C) * 0.9 + 0.1 / C
    logits, data, loss, parts = values(RECIPE, target=smoothed)
    wanted = cross_entropy(logits, data.y, label_smoothing=0.1).item()
    assert loss == pytest.approx(wanted)
    assert parts == {"ce": pytest.approx(wanted)}


def test_kd() -> None:
    recipe = replace(RECIPE, task=KD(ce_weight=0.3, kd_weight=0.7))
    logits, data, loss, parts = values(recipe, 4.0)
    ce = cross_entropy(logits, data.y).item()
    soft = [log_softmax(z / 4, 1) for z in (logits, data.teacher)]
    kd = 16 * kl_div(*soft, log_target=True, reduction="batchmean").item()
    assert parts == pytest.approx({"ce": ce, "kd": kd})
    assert loss == pytest.approx(0.3 * ce + 0.7 * kd)


def test_each_dkd_weight_multiplies_its_own_term_and_nothing_else() -> None:
    """In the first pipeline alpha multiplied both terms in the code, and one in the report."""
    task = DKD(ce_weight=0.5, tckd_weight=0.25, nckd_weight=8.0)
    logits, data, loss, parts = values(replace(RECIPE, task=task), 2.0)
    tckd, nckd = (rows.mean().item() for rows in dkd_rows(logits, data.teacher, data.y, 2.0))
    ce = cross_entropy(logits, data.y).item()
    assert parts == pytest.approx({"ce": ce, "tckd": tckd, "nckd": nckd})
    assert loss == pytest.approx(0.5 * ce + 0.25 * tckd + 8.0 * nckd)


def test_the_teacher_s_terms_rise_during_their_warmup() -> None:
    recipe = replace(RECIPE, task=KD(distill_warmup=4))
    found = {e: values(recipe, 2.0, epoch=e) for e in (0.0, 1.0, 4.0, 9.0)}
    for epoch, (_, _, loss, parts) in found.items():
        assert loss == pytest.approx(parts["ce"] + min(1, epoch / 4) * parts["kd"])


@pytest.mark.parametrize("task", [KD(), DKD(), DIST(), StandardizedKD()])
def test_distillation_without_soft_labels_is_refused(task) -> None:
    with refused("missing-soft-labels"):
        Objective(Fixed(), replace(RECIPE, task=task), COUNTS, 2.0)(batch(teacher=False))


@pytest.mark.parametrize("task", [KD(), DKD(), DIST()])
def test_distillation_without_a_temperature_is_refused(task) -> None:
    with refused("missing-temperature"):
        Objective(Fixed(), replace(RECIPE, task=task), COUNTS, None)


SHARED = [
    replace(RECIPE, task=KD()),
    replace(RECIPE, task=DKD()),
    replace(RECIPE, task=StandardizedKD()),
    replace(RECIPE, imbalance=Imbalance(class_weights="effective_number")),
    replace(RECIPE, imbalance=Imbalance(focal_gamma=2.0)),
    replace(RECIPE, imbalance=Imbalance(logit_adjustment=1.0)),
    replace(RECIPE, negative=Negative(source="manifest")),
]


@pytest.mark.parametrize("recipe", SHARED)
def test_parts_of_a_step_add_up_to_the_whole(recipe: Training) -> None:
    """Accumulation and several processes minimise the same mean, uneven parts included."""
    whole = replace(batch(), negative=torch.tensor([1, 2, -1, 0, 3]))
    net = Fixed()
    objective = Objective(net, recipe, COUNTS, 2.0)
    loss, parts = objective(whole)
    (gradient,) = torch.autograd.grad(loss, net.logits)
    pieces = []
    for rows in ([0, 1, 2], [3, 4]):
        part = replace(batch(rows), negative=whole.negative[rows])
        pieces.append(objective(part))
    total = sum(piece[0] for piece in pieces)
    assert total.item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(total, net.logits)[0], gradient)
    for name in parts:
        assert sum(p[1][name].item() for p in pieces) == pytest.approx(parts[name].item(), rel=1e-6)


def test_class_weights_and_row_weights_multiply_the_label_s_term_only() -> None:
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0])
    recipe = replace(
        RECIPE, task=KD(), imbalance=Imbalance(class_weights="effective_number", beta=0.9)
    )
    logits, data, _, parts = values(recipe, 2.0, weight=weight)
    effective = (1 - 0.9) / (1 - 0.9 ** COUNTS.double())
    by_class = (effective / effective.mean()).float()
    rows = cross_entropy(logits, data.y, reduction="none") * by_class[data.y] * weight
    assert parts["ce"] == pytest.approx(rows.mean().item(), rel=1e-5)
    assert parts["kd"] == pytest.approx(values(replace(RECIPE, task=KD()), 2.0)[3]["kd"])


def test_auxiliary_terms_add_with_their_weights() -> None:
    recipe = replace(
        RECIPE,
        negative=Negative(weight=0.5),
        locality=Locality(weight=0.25, neighbours=2),
        prototype=Prototype(weight=2.0),
    )
    _, _, loss, parts = values(recipe)
    wanted = parts["ce"] + 0.5 * parts["negative"] + 0.25 * parts["locality"]
    assert loss == pytest.approx(wanted + 2.0 * parts["prototype"], rel=1e-5)
    assert parts["negative_applied"] == pytest.approx(1.0)


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
    loss_of = Objective(net, replace(RECIPE, task=task), COUNTS)
    images = torch.randn(5, 3, 8, 8)

    early = replace(batch(), images=images, epoch=0.5)
    outputs = net.outputs(images)
    plain, cosine = outputs.logits, outputs.cosine
    assert loss_of(early)[0].item() == pytest.approx(cross_entropy(plain, early.y).item())
    assert not net.arc_in_use
    net.eval()
    assert torch.equal(net(images), net.outputs(images).logits)

    net.train()
    late = replace(early, epoch=1.5)
    loss, parts = loss_of(late)
    wanted = cross_entropy(arcface_logits(cosine, late.y, 0.2, 10.0), late.y)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert parts["arcface_margin"].item() == pytest.approx(0.2)
    net.eval()
    assert net.arc_in_use, "from here on inference uses the ArcFace head"
    torch.testing.assert_close(net(images), 10 * net.outputs(images).cosine)
    assert net.state_dict()["arc_in_use"], "and the checkpoint carries it"


def test_negative_learning_acts_on_the_head_that_inference_uses() -> None:
    torch.manual_seed(0)
    task = ArcFace(plain_epochs=1, ramp_end=2, margin=0.4, scale=10, embedding=8, dropout=0)
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net = ArcFaceNet(backbone, 3, task)
    recipe = replace(RECIPE, task=task, negative=Negative(source="manifest"))
    objective = Objective(net, recipe, COUNTS)
    wrong = torch.tensor([1, 2, 0, 4, 3])
    data = replace(batch(), images=torch.randn(5, 3, 8, 8), negative=wrong)
    for epoch in (0.5, 1.5):
        _, parts = objective(replace(data, epoch=epoch))
        # Statistics of BatchNorm are those of the batch while training.
        probability = torch.softmax(net.answer(net.outputs(data.images)), dim=1)
        expected = -torch.log1p(-probability[torch.arange(5), wrong]).mean()
        assert parts["negative"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert net.arc_in_use
