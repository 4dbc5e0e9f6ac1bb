"""Checkpoints: weights and plain facts, readable without executing code."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fer_ml.errors import FerError
from fer_ml.labels import CLASSES
from fer_ml.preprocess import Preprocess
from fer_ml.profiles import Training
from fer_ml.training.models import build_model

CHECKPOINT_FILE = "best.pt"


@dataclass(frozen=True)
class Checkpoint:
    """``best.pt``: the weights, the recipe that shaped the network, and how to feed it."""

    model: dict[str, torch.Tensor]
    recipe: Training
    preprocess: Preprocess
    classes: tuple[str, ...]
    epoch: int

    def network(self) -> torch.nn.Module:
        """The network with these weights, in inference mode."""
        network = build_model(self.recipe.model_copy(update={"init": "none"}))
        network.load_state_dict(self.model)
        return network.eval().to(memory_format=torch.channels_last)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``best.pt``. The same weights give the same bytes."""
    # Through a buffer, because torch.save writes the file's own name into the archive.
    buffer = io.BytesIO()
    torch.save(
        {
            "schema_version": 1,
            "model": {name: _packed(tensor) for name, tensor in checkpoint.model.items()},
            "recipe": checkpoint.recipe.model_dump(mode="json"),
            "preprocess": checkpoint.preprocess.model_dump(mode="json"),
            "classes": list(checkpoint.classes),
            "epoch": checkpoint.epoch,
        },
        buffer,
    )
    path.write_bytes(buffer.getvalue())


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the plain memory layout, so that the layout in training leaves no trace."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read ``best.pt`` with ``weights_only=True``; a file that would execute code is refused."""
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(
            model=held["model"],
            recipe=Training.model_validate(held["recipe"]),
            preprocess=Preprocess.model_validate(held["preprocess"]),
            classes=tuple(held["classes"]),
            epoch=held["epoch"],
        )
    except OSError as error:
        raise FerError(f"checkpoint cannot be read: {error.strerror}", where=path) from error
    # torch raises whatever the bytes lead it to: none of it is a reason to go on.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FerError(
            f"not a checkpoint of this platform: {reason}",
            where=path,
            allowed="weights and plain values, as torch.load(weights_only=True) reads them",
        ) from error
    if checkpoint.classes != CLASSES:
        raise FerError(
            f"class order of the checkpoint is {list(checkpoint.classes)}",
            where=path,
            allowed=list(CLASSES),
        )
    return checkpoint


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """sha256 over the names and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
