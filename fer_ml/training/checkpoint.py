"""Checkpoints: weights and plain facts, readable without executing code."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.base.labels import CLASSES
from fer_ml.base.versions import OtherVersion, upgraded
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import Training, read_plain, read_recipe
from fer_ml.training.models import Network, State, build_model

CHECKPOINT_FILE = "best.pt"
WEIGHTS_FILE = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """``best.pt``: the weights, the recipe that shaped the network, and how to feed it."""

    model: State
    recipe: Training
    preprocess: Preprocess
    classes: tuple[str, ...]
    epoch: int

    def network(self) -> Network:
        """The network with these weights, in inference mode."""
        network = build_model(self.recipe)
        network.load_state_dict(self.model)
        network.eval()
        return network.to(memory_format=torch.channels_last)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``best.pt``, and the same weights as ``best.safetensors`` beside it.

    The same weights give the same bytes. ``best.pt`` is what this platform reads; the safetensors
    file is for readers without torch and carries the facts as text.
    """
    # Through a buffer, because torch.save writes the file's own name into the archive.
    buffer = io.BytesIO()
    weights = {name: _packed(tensor) for name, tensor in checkpoint.model.items()}
    facts = {
        "schema_version": 2,
        "recipe": json.loads(json.dumps(asdict(checkpoint.recipe))),
        "preprocess": checkpoint.preprocess.plain(),
        "classes": list(checkpoint.classes),
        "epoch": checkpoint.epoch,
    }
    torch.save({"model": weights, **facts}, buffer)
    write_atomic(path, buffer.getvalue())
    # One entry, because safetensors writes several in an order of chance.
    text = json.dumps(facts, sort_keys=True)
    write_atomic(path.with_suffix(".safetensors"), safetensors_bytes(weights, {"fer": text}))


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the plain memory layout, so that the layout in training leaves no trace."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read ``best.pt`` with ``weights_only=True``; a file that would execute code is refused."""
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        held = upgraded("checkpoint", held, path)
        checkpoint = Checkpoint(
            model=held["model"],
            recipe=read_recipe(held["recipe"]),
            preprocess=read_plain(Preprocess, held["preprocess"], "preprocess"),
            classes=tuple(held["classes"]),
            epoch=held["epoch"],
        )
    except OtherVersion:
        raise
    except OSError as error:
        raise FerError(f"checkpoint cannot be read: {error.strerror}", where=path) from error
    # torch raises whatever the bytes lead it to: none of it is a reason to go on.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FerError(
            f"not a checkpoint of this platform: {reason}",
            where=path,
            allowed="weights and plain values, as torch.load(weights_only=True) reads them",
            fix="a checkpoint of the first pipeline is converted by: fer convert FILE",
        ) from error
    if checkpoint.classes != CLASSES:
        raise FerError(
            f"class order of the checkpoint is {list(checkpoint.classes)}",
            where=path,
            allowed=list(CLASSES),
        )
    return checkpoint
