"""Foreign weights, read as this platform's checkpoints."""

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fer_ml.base.errors import FerError
from fer_ml.base.reading import parse_json, regular
from fer_ml.recipes.preprocess import read_preprocess
from fer_ml.recipes.training import read_recipe
from fer_ml.training.checkpoint import Checkpoint
from fer_ml.training.models import fitted


def in_network_order(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return the checkpoint, tensors in the network's order; ``FerError`` if they do not fit.

    In this order equal weights give equal bytes, whichever file they were read from.
    """
    try:
        state_dict = fitted(checkpoint.recipe, checkpoint.model).state_dict()
    except FerError as error:
        raise FerError(
            f"{path.name}: {error.what}",
            code=error.code,
            where=path,
            allowed=error.allowed,
            fix="convert or copy the checkpoint again",
        ) from error
    return replace(checkpoint, model={name: checkpoint.model[name] for name in state_dict})


def read_weights(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file of this platform as a checkpoint; it cannot contain code."""
    try:
        with safe_open(regular(path), framework="pt") as tensor_file:
            metadata = tensor_file.metadata() or {}
            state = {name: tensor_file.get_tensor(name) for name in tensor_file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FerError(
            f"{path.name} is damaged: {error}",
            code="damaged-checkpoint",
            where=path,
            fix="copy the checkpoint again",
        ) from error
    try:
        facts = parse_json(metadata["fer"], path)
        checkpoint = Checkpoint(
            model=state,
            recipe=read_recipe(facts["recipe"]),
            preprocess=read_preprocess(facts["preprocess"]),
            classes=tuple(facts["classes"]),
            epoch=facts["epoch"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise FerError(
            f"{path.name} does not say which network it holds",
            code="unknown-network",
            where=path,
            allowed="safetensors with this platform's facts under 'fer' in the metadata",
            fix="convert the run's .pt instead: fer convert --help",
        ) from error
    return in_network_order(checkpoint, path)
