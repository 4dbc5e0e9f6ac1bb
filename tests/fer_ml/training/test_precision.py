"""Precision follows the machine and the network; what is emulated is measured and told."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fer_ml.base.processor import computes_bf16
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, Training
from fer_ml.training.loop import train
from fer_ml.training.models import build_model, weights_hash
from fer_ml.training.precision import emulation_factor, is_emulated, precision_of
from fer_ml.training.views import FaceSet

CPU = torch.device("cpu")
RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1, precision="auto")


@pytest.mark.parametrize(
    ("architecture", "depthwise"),
    [
        ("test_resnet", False),
        ("resnet10t", False),
        ("test_efficientnet", True),
        ("mobilenetv3_small_050", True),
        ("test_convnext", True),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it_and_the_network_gains(
    architecture: str, depthwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_model(replace(RECIPE, architecture=architecture))
    wanted = "bf16" if computes_bf16() and not depthwise else "fp32"
    assert precision_of(RECIPE, CPU, network) == wanted
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert precision_of(RECIPE, CPU, network) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_by_name_is_carried_out(name: str) -> None:
    recipe = replace(RECIPE, precision=name)  # type: ignore[arg-type]
    assert precision_of(recipe, CPU, build_model(recipe)) == name


def test_what_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_emulated("fp32", CPU)
    assert is_emulated("fp16", CPU)
    assert is_emulated("bf16", CPU) != computes_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert is_emulated("bf16", CPU)


def test_measuring_the_cost_changes_neither_weights_nor_luck() -> None:
    torch.manual_seed(3)
    network = build_model(RECIPE)
    before, state = weights_hash(network.state_dict()), torch.get_rng_state()
    assert emulation_factor(network, "bf16", 32, CPU) > 0
    assert weights_hash(network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_in_emulated_numbers_says_so_once_and_records_the_factor(
    faces: Callable[..., FaceSet], caplog: pytest.LogCaptureFixture
) -> None:
    spec = Preprocess(size=16, clahe_clip=0.0)
    data = {name: faces(28, seed=k, spec=spec) for k, name in enumerate(("train", "val"))}
    told = {}
    for precision in ("fp16", "fp32"):
        recipe = replace(RECIPE, precision=precision, batch_size=8)
        torch.manual_seed(1)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="fer_ml.training.loop"):
            trained = train(build_model(recipe), recipe, data["train"], data["val"], seed=1)
        assert trained.precision == precision
        told[precision] = [r for r in caplog.records if "emulated" in r.getMessage()]
        assert (trained.emulation is not None) == (precision == "fp16")
    assert len(told["fp16"]) == 1
    assert told["fp32"] == []
