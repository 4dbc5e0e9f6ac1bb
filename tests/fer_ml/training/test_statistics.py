"""A network that answers otherwise in inference than in training is seen, and mended."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Training
from fer_ml.runs.gates import _inference_fits
from fer_ml.training.loop import train
from fer_ml.training.models import build_model, weights_hash
from fer_ml.training.networks import Network
from fer_ml.training.prediction import predict
from fer_ml.training.statistics import (
    GAP_LIMIT,
    RANGE_LIMIT,
    InferenceFit,
    inference_fit,
    measure_statistics,
)
from fer_ml.training.views import FaceSet, to_input

Make = Callable[..., FaceSet]


def trained_network(recipe: Training, faces: Make) -> Network:
    """A network that is sure of its faces, with statistics that fit."""
    torch.manual_seed(1)
    network = build_model(recipe)
    state = train(network, replace(recipe, epochs=4), faces(59), faces(28, seed=9), seed=1).state
    network.load_state_dict(state)
    return network


def shift_statistics(network: nn.Module, factor: float) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.mul_(factor)


def by_hand(network: Network, images: torch.Tensor, y: torch.Tensor, training: bool) -> float:
    network.train(training)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        value = float(nn.functional.cross_entropy(network(images), y))
    network.load_state_dict(state)
    return value


def test_both_answers_are_those_of_torch_s_own_modes(recipe: Training, faces: Make) -> None:
    network, data = trained_network(recipe, faces), faces(28)
    images, y = to_input(data.images, data.preprocess), torch.from_numpy(data.y)
    before = weights_hash(network.state_dict())
    fit = inference_fit(network, images, y)
    assert weights_hash(network.state_dict()) == before
    assert fit.nll_stored == pytest.approx(by_hand(network, images, y, False), abs=1e-5)
    assert fit.nll_batch == pytest.approx(by_hand(network, images, y, True), abs=1e-5)
    assert fit.fault is None


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_stays_what_it_was(recipe: Training, faces: Make, training: bool) -> None:
    network, data = build_model(recipe).train(training), faces(14)
    inference_fit(network, to_input(data.images, data.preprocess), torch.from_numpy(data.y))
    assert all(module.training == training for module in network.modules())


def test_stale_statistics_are_seen_and_measuring_them_again_mends(
    recipe: Training, faces: Make
) -> None:
    network, data = trained_network(recipe, faces), faces(56)
    images, y = to_input(data.images, data.preprocess), torch.from_numpy(data.y)
    shift_statistics(network, 1e-4)
    stale = inference_fit(network, images, y)
    assert stale.gap > GAP_LIMIT
    assert stale.fault
    measure_statistics(network, [images[:28], images[28:]])
    mended = inference_fit(network, images, y)
    assert mended.gap < GAP_LIMIT
    assert mended.fault is None
    assert mended.nll_batch == pytest.approx(stale.nll_batch, abs=1e-5)


def test_measured_statistics_are_the_means_of_the_batches() -> None:
    """Cumulative averages over equal batches: by hand, for the first layer."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    parts = [torch.randn(8, 3, 6, 6) + k for k in range(3)]
    measure_statistics(network, parts)  # type: ignore[arg-type]
    with torch.no_grad():
        seen = [network[0](part) for part in parts]
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(network[1].running_mean, means)
    variances = torch.stack([x.var(dim=(0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(network[1].running_var, variances)


def test_a_network_without_batchnorm_answers_alike(recipe: Training, faces: Make) -> None:
    network = build_model(replace(recipe, architecture="test_convnext"))
    data = faces(14, spec=Preprocess(size=32, clahe_clip=0.0))
    fit = inference_fit(network, to_input(data.images, data.preprocess), torch.from_numpy(data.y))
    assert fit.gap == 0


def test_what_is_kept_was_measured_with_the_statistics_that_are_kept(
    recipe: Training, faces: Make
) -> None:
    """With ``precise_bn`` the saved weights give the val metrics of their epoch."""
    data, val = faces(59), faces(28, seed=9)
    torch.manual_seed(1)
    network = build_model(recipe)
    held = train(network, replace(recipe, precise_bn=32, epochs=3), data, val, seed=1)
    network.load_state_dict(held.state)
    told = held.history[held.best_epoch]["val"]["accuracy"]
    assert (predict(network, val).argmax(1) == val.y).mean() == pytest.approx(told)
    assert all(entry["inference"]["nll_stored"] > 0 for entry in held.history)


def history(gap: float, spread: float = 2.0) -> list[dict[str, object]]:
    held = {"nll_stored": 1.0 + gap, "nll_batch": 1.0, "feature_range": spread}
    return [{"epoch": 0, "inference": held}]


@pytest.mark.parametrize(
    ("entries", "passed"),
    [
        (history(0.1), True),
        (history(-0.3), True),
        (history(GAP_LIMIT + 0.01), False),
        (history(float("nan")), False),
        (history(0.0, RANGE_LIMIT * 1.01), False),
        (history(0.0, float("inf")), False),
        ([{"epoch": 0}], False),
    ],
)
def test_the_gate_asks_for_both(entries: list[dict[str, object]], passed: bool) -> None:
    assert _inference_fits(entries, 0).passed is passed


def test_a_face_out_of_range_is_seen(recipe: Training, faces: Make) -> None:
    network, data = build_model(recipe).eval(), faces(28)
    images = to_input(data.images, data.preprocess)
    y = torch.from_numpy(data.y)
    calm = inference_fit(network, images, y).feature_range
    images[0] *= 1e4
    wild = inference_fit(network, images, y)
    assert wild.feature_range > RANGE_LIMIT > calm
    assert InferenceFit(1.0, 1.0, wild.feature_range).fault
    assert np.isfinite(wild.feature_range)
