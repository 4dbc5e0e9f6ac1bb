"""Checkpoints: weights and plain facts, readable without executing code."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.base.labels import CLASSES
from fer_ml.base.versions import OtherVersion, upgraded
from fer_ml.recipes.preprocess import Preprocess, read_preprocess
from fer_ml.recipes.training import Training, read_recipe
from fer_ml.training.archive import first_line, read_archive
from fer_ml.training.models import State, fitted
from fer_ml.training.networks import Network

CHECKPOINT_FILE = "best.pt"
WEIGHTS_FILE = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of ``best.pt``: weights, recipe, preprocessing, class order and epoch."""

    model: State
    recipe: Training
    preprocess: Preprocess
    classes: tuple[str, ...]
    epoch: int

    def network(self) -> Network:
        """Build the network with these weights, in inference mode."""
        network = fitted(self.recipe, self.model)
        network.eval()
        return network.to(memory_format=torch.channels_last)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``best.pt``, and the same weights as ``best.safetensors`` beside it.

    Equal weights give equal bytes. This platform reads ``best.pt``; the safetensors file is for
    readers without torch and holds the other fields as text.
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
    """Copy a tensor to the contiguous memory layout, whatever layout the training used."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; ``FerError`` unless its classes are this platform's, in the same order."""
    checkpoint = read_checkpoint(path)
    if checkpoint.classes != CLASSES:
        raise FerError(
            f"class order of the checkpoint is {list(checkpoint.classes)}",
            code="wrong-class-order",
            where=path,
            allowed=list(CLASSES),
        )
    return checkpoint


def read_checkpoint(path: Path) -> Checkpoint:
    """Read ``best.pt`` as data; ``FerError`` if it holds code or is not a checkpoint."""
    try:
        content = upgraded("checkpoint", read_archive(path), path)
        return Checkpoint(
            model=content["model"],
            recipe=read_recipe(content["recipe"]),
            preprocess=read_preprocess(content["preprocess"]),
            classes=tuple(content["classes"]),
            epoch=content["epoch"],
        )
    except OtherVersion:
        raise
    except OSError as error:
        raise FerError(
            f"checkpoint cannot be read: {error.strerror}", code="unreadable-file", where=path
        ) from error
    # A fault of the file keeps its own advice; of its values nothing is known yet.
    except (FerError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = first_line(error)
        if isinstance(error, FerError):
            field = "" if error.where in (None, str(path)) else f"{error.where}: "
            reason = field + error.what
        raise FerError(
            f"not a checkpoint of this platform: {reason}",
            code="invalid-checkpoint",
            where=path,
            allowed="weights and plain values, as torch.save writes them",
            fix="a checkpoint of the first pipeline is converted by: fer convert FILE",
        ) from error
