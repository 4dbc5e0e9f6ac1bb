"""The number format of a training (fp32, bf16, fp16), and its cost where it is emulated."""

import copy
import logging
import time

import torch
from torch import nn

from fer_ml.base.processor import computes_bf16
from fer_ml.recipes.training import Training

log = logging.getLogger(__name__)

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: Faces in the steps that measure what an emulated precision costs.
MEASURED_ROWS = 16


def precision_of(recipe: Training, device: torch.device, network: nn.Module) -> str:
    """Return the recipe's precision, with ``auto`` resolved for ``network`` on ``device``.

    ``auto`` is bf16 on a GPU that computes in it, else fp16. On a processor with bf16 instructions
    it is bf16, but fp32 for depthwise convolutions, where oneDNN's bf16 takes up to three times as
    long. On other processors it is fp32, since bf16 would be emulated.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if computes_bf16() and not _has_depthwise(network) else "fp32"


def is_emulated(precision: str, device: torch.device) -> bool:
    """Whether ``device`` has no hardware arithmetic for ``precision``."""
    if precision == "fp32":
        return False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return precision == "bf16" and not native
    return precision == "fp16" or not computes_bf16()


def emulation_factor(network: nn.Module, precision: str, size: int, device: torch.device) -> float:
    """Return a step's duration relative to fp32, measured on a copy of ``network``."""
    copied = copy.deepcopy(network).to(device).train()
    images = torch.zeros(MEASURED_ROWS, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        seconds = {kind: _step_seconds(copied, kind, images) for kind in ("fp32", precision)}
    return seconds[precision] / seconds["fp32"]


def _step_seconds(network: nn.Module, precision: str, images: torch.Tensor) -> float:
    """Return the seconds of a forward and a backward pass, after one warm-up pass."""
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(images.device.type, TYPES[precision], enabled=precision != "fp32"):
            loss = network.outputs(images).logits.float().square().mean()  # type: ignore[operator]
        loss.backward()
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds


def _has_depthwise(network: nn.Module) -> bool:
    return any(
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        for module in network.modules()
    )
