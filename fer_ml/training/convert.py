"""Checkpoints of the first pipeline, turned into this platform's without running their code.

They are pickles that name classes (paths, argument lists), which ``torch.load(weights_only=True)``
refuses. Here every class that is not one of torch's own tensor builders becomes an inert
placeholder, in a process of its own: ``python -m fer_ml.training.convert OLD NEW ...``.
"""

import argparse
import collections
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.checkpoint import Checkpoint, save_checkpoint
from fer_ml.training.models import ArcFaceNet, Network, State, build_model

#: What a state dict of tensors is built from.
BUILDERS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class Inert:
    """Stands for whatever a pickle names: built with any arguments, it does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        """A placeholder, whatever the arguments are."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any, **named: Any) -> "Inert":
        """What a called placeholder builds: another one."""
        return Inert(*arguments)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in BUILDERS:
            return BUILDERS[module, name]
        kind = getattr(torch, name, None) if module == "torch" else None
        if isinstance(kind, torch.dtype) or (isinstance(kind, type) and name.endswith("Storage")):
            return kind
        return Inert


_PICKLE = SimpleNamespace(
    Unpickler=_Unpickler, load=lambda file, **named: _Unpickler(file, **named).load(), __name__="x"
)


def read_old(path: Path) -> dict[str, Any]:
    """The contents of a first-pipeline checkpoint; its classes are inert placeholders."""
    try:
        held = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except Exception as error:  # Foreign bytes: torch raises whatever they lead it to.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FerError(f"checkpoint cannot be read: {reason}", where=path) from error
    if not isinstance(held, dict) or not isinstance(held.get("model"), dict):
        raise FerError("no checkpoint of the first pipeline: it has no 'model'", where=path)
    return held


def to_network(state: State, network: Network, where: Path) -> State:
    """The tensors of ``state`` under this platform's names.

    The backbone's names are timm's, behind any prefix; the layers of the teacher's head are known
    by their shapes. ``FerError`` when a tensor is missing, left over, or not finite.
    """
    own = network.state_dict()
    backbone = {name for name in own if name.startswith("backbone.")}
    prefix = _prefix(state, {name.removeprefix("backbone.") for name in backbone}, where)
    found: dict[str, Any] = {
        name: state.get(prefix + name.removeprefix("backbone.")) for name in backbone
    }
    used = {prefix + name.removeprefix("backbone.") for name in backbone}
    rest = {name: tensor for name, tensor in state.items() if name not in used}
    if isinstance(network, ArcFaceNet):
        found.update(_head(rest, where))
        found["arc_in_use"] = torch.tensor(True)
        rest = {}
    wrong = sorted(
        name
        for name, tensor in own.items()
        if not isinstance(found.get(name), torch.Tensor) or found[name].shape != tensor.shape
    )
    if wrong or rest:
        raise FerError(
            f"the weights do not fit: {len(wrong)} missing or of another shape "
            f"({', '.join(wrong[:3])}), {len(rest)} left over ({', '.join(sorted(rest)[:3])})",
            where=where,
            fix="name the --architecture that it was trained with",
        )
    return {name: found[name] for name in own}


def _prefix(state: State, names: set[str], where: Path) -> str:
    some = min(names)
    ends = [name.removesuffix(some) for name in state if name.endswith(some)]
    fitting = [p for p in ends if sum(p + name in state for name in names) > len(names) // 2]
    if not fitting:
        raise FerError(
            "no backbone of this architecture among its tensors",
            where=where,
            fix="name the --architecture that it was trained with",
        )
    return fitting[0]


def _head(rest: State, where: Path) -> dict[str, torch.Tensor]:
    """The teacher's head: Linear, BatchNorm, plain Linear, ArcFace matrix."""
    stems: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in rest.items():
        stem, _, part = name.rpartition(".")
        stems.setdefault(stem, {})[part] = tensor
    found: dict[str, torch.Tensor] = {}
    for parts in stems.values():
        weight = parts.get("weight", next(iter(parts.values())))
        if "running_mean" in parts:
            target = "embed.1."
        elif weight.ndim == 2 and weight.shape[0] != len(CLASSES):
            target = "embed.0."
        elif "bias" in parts:
            target = "plain."
        else:
            found["arc"] = weight
            continue
        found.update({target + part: tensor for part, tensor in parts.items()})
    if "arc" not in found:
        raise FerError("no ArcFace matrix among its tensors", where=where)
    return found


def convert(
    old: Path, new: Path, *, architecture: str, teacher: bool, size: int, clahe_clip: float
) -> None:
    """Write ``new`` with the weights of ``old``."""
    held = read_old(old)
    recipe = Training(
        architecture=architecture, task=ArcFace() if teacher else CE(), init="none", epochs=1
    )
    state = to_network(held["model"], build_model(recipe), old)
    epoch = held.get("epoch")
    preprocess = Preprocess(size=size, oversize=1.15, clahe_clip=clahe_clip)
    save_checkpoint(
        new,
        Checkpoint(state, recipe, preprocess, CLASSES, epoch if isinstance(epoch, int) else 0),
    )


def convert_apart(old: Path, new: Path, *options: str) -> None:
    """``convert`` in a process of its own; ``FerError`` with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "fer_ml.training.convert", str(old), str(new), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FerError(
            (done.stderr.strip() or f"it ended with code {done.returncode}").removeprefix("error: ")
        )


def main() -> int:
    """Convert the checkpoint that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fer_ml.training.convert", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--architecture", required=True, help="timm's name, such as resnet18")
    parser.add_argument("--teacher", action="store_true", help="it has the ArcFace head")
    parser.add_argument("--size", type=int, default=224, help="side of its input in px")
    parser.add_argument("--clahe-clip", type=float, default=2.0, help="0: trained without CLAHE")
    given = vars(parser.parse_args())
    try:
        convert(given.pop("old"), given.pop("new"), **given)
    except FerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
