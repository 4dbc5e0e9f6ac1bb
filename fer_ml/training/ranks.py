"""The processes of one training, as torch's own launcher starts them, and the device they use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed as dist

from fer_ml.base.errors import FerError


@dataclass(frozen=True)
class Ranks:
    """One of the ``world`` processes of a training: its number ``rank`` and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files, measures metrics and logs."""
        return self.rank == 0

    def highest(self, number: int) -> int:
        """Return the largest ``number`` over all processes, so that all decide alike."""
        if self.world == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value.item())

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``values`` over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes have called this (a barrier)."""
        if self.world > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device ``name``: ``cpu``, ``cuda``, or ``auto``, which prefers a GPU.

    TF32 is switched off: with it torch would round the inputs of fp32 convolutions to ten bits.
    ``FerError`` when ``cuda`` is asked for and absent: a slower device is never used unasked.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise FerError(
            f"unknown device {name!r}",
            code="unknown-device",
            allowed="auto, cpu, cuda (--device, FER_DEVICE)",
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise FerError(
            "no CUDA device here",
            code="missing-gpu",
            allowed="device: auto, cpu",
            fix="use --device cpu, or FER_DEVICE=cpu",
        )
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        return torch.device("cuda", local_rank)
    return torch.device(name)


@contextmanager
def join(device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, if any; yield this one's ``Ranks``."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Ranks(0, 1, local)
        return
    if local.type == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if local.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, local)
    finally:
        dist.destroy_process_group()
