"""The converter of the first pipeline's checkpoints, which does not run their code.

They are pickles that name classes (paths, argument lists). Each becomes an inert placeholder, in a
separate process: ``python -m fer_ml.training.convert OLD NEW ...``.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.archive import read_archive
from fer_ml.training.checkpoint import Checkpoint, save_checkpoint
from fer_ml.training.models import State, fitted, shape_of
from fer_ml.training.networks import ArcFaceNet, Network

#: Where programs keep the weights in what they save.
KEYS = ("model", "state_dict", "model_state_dict")


def read_old(path: Path) -> tuple[State, int]:
    """Return a foreign checkpoint's tensors by name, and its epoch (0 if it does not say).

    The tensors are under one of ``KEYS``, or the file is a state dict itself.
    """
    try:
        content = read_archive(path, inert=True)
    except OSError as error:
        raise FerError(
            f"checkpoint cannot be read: {error.strerror}", code="unreadable-file", where=path
        ) from error
    content = content if isinstance(content, dict) else {}
    state = next((content[key] for key in KEYS if isinstance(content.get(key), dict)), content)
    tensors = {n: t for n, t in state.items() if isinstance(n, str) and isinstance(t, torch.Tensor)}
    if not tensors:
        raise FerError(
            "the file has no tensors by name",
            code="no-weights",
            where=path,
            allowed=f"a state dict, or a table with one under {', '.join(KEYS)}",
            fix="save the network's state_dict() with torch.save",
        )
    epoch = content.get("epoch")
    return tensors, epoch if type(epoch) is int and 0 <= epoch < 1 << 31 else 0


def to_network(state: State, network: Network, where: Path) -> State:
    """Rename the tensors of ``state``, a foreign checkpoint, to those of ``network``.

    The backbone's names are timm's, behind any prefix; the layers of the teacher's head are known
    by their shapes. ``FerError`` when a tensor is missing, left over, or not finite.
    """
    template = network.state_dict()
    backbone = {name for name in template if name.startswith("backbone.")}
    prefix = _prefix(state, {name.removeprefix("backbone.") for name in backbone}, where)
    tensors: dict[str, Any] = {
        name: state.get(prefix + name.removeprefix("backbone.")) for name in backbone
    }
    used = {prefix + name.removeprefix("backbone.") for name in backbone}
    rest = {name: tensor for name, tensor in state.items() if name not in used}
    if isinstance(network, ArcFaceNet):
        tensors.update(_head(rest, template, where))
        tensors["arc_in_use"] = torch.tensor(True)
        rest = {}
    wrong = sorted(
        name
        for name, tensor in template.items()
        if not isinstance(tensors.get(name), torch.Tensor) or tensors[name].shape != tensor.shape
    )
    if wrong or rest:
        _misfit(network, tensors, template, wrong, rest, where)
    return {name: tensors[name] for name in template}


def _misfit(
    network: Network, tensors: State, template: State, wrong: list[str], rest: State, where: Path
) -> NoReturn:
    """Raise the ``FerError`` with the reason: other classes, or another architecture."""
    head = [
        name
        for name in wrong
        if isinstance(given := tensors.get(name), torch.Tensor)
        and given.shape[1:] == template[name].shape[1:]
        and len(template[name]) == len(CLASSES)
    ]
    if wrong and wrong == sorted(head) and not rest:
        raise FerError(
            f"the network of the file has {len(tensors[wrong[0]])} classes, not {len(CLASSES)}",
            code="wrong-class-count",
            where=where,
            allowed=f"a head for {', '.join(CLASSES)}, in this order",
            fix="keep the rows of these classes in its last layer, in this order, or train again",
        )
    raise FerError(
        f"the weights do not fit: {len(wrong)} missing or of another shape "
        f"({', '.join(wrong[:3])}), {len(rest)} left over ({', '.join(sorted(rest)[:3])})",
        code="weights-do-not-fit",
        where=where,
        fix="name the --architecture that it was trained with"
        + ("" if isinstance(network, ArcFaceNet) else ", and --teacher if it has the ArcFace head"),
    )


def _prefix(state: State, names: set[str], where: Path) -> str:
    some = min(names)
    ends = [name.removesuffix(some) for name in state if name.endswith(some)]
    fitting = [p for p in ends[:100] if sum(p + name in state for name in names) > len(names) // 2]
    if not fitting:
        raise FerError(
            "the tensors of the file have no backbone of this architecture",
            code="weights-do-not-fit",
            where=where,
            fix="name the --architecture that it was trained with",
        )
    return fitting[0]


def _head(rest: State, template: State, where: Path) -> dict[str, torch.Tensor]:
    """Rename the tensors of a teacher's head: Linear, BatchNorm, plain Linear, ArcFace matrix."""
    stems: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in rest.items():
        stem, _, part = name.rpartition(".")
        stems.setdefault(stem, {})[part] = tensor
    tensors: dict[str, torch.Tensor] = {}
    for parts in stems.values():
        weight = parts.get("weight", next(iter(parts.values())))
        if "running_mean" in parts:
            target = "embed.1."
        elif weight.shape == template["embed.0.weight"].shape:
            target = "embed.0."
        elif "bias" in parts:
            target = "plain."
        else:
            tensors["arc"] = weight
            continue
        tensors.update({target + part: tensor for part, tensor in parts.items()})
    if "arc" not in tensors:
        raise FerError(
            "the tensors of the file have no ArcFace matrix",
            code="missing-arcface-head",
            where=where,
            fix="leave out --teacher, unless the network has an ArcFace head",
        )
    return tensors


def convert(
    old: Path, new: Path, *, architecture: str, teacher: bool, size: int, clahe_clip: float
) -> None:
    """Convert the first pipeline's checkpoint ``old`` to this platform's checkpoint ``new``."""
    state, epoch = read_old(old)
    recipe = Training(
        architecture=architecture, task=ArcFace() if teacher else CE(), init="none", epochs=1
    )
    state = to_network(state, shape_of(recipe), old)
    fitted(recipe, state)
    preprocess = Preprocess(size=size, oversize=1.15, clahe_clip=clahe_clip)
    save_checkpoint(new, Checkpoint(state, recipe, preprocess, CLASSES, epoch))


def convert_apart(old: Path, new: Path, *options: str) -> None:
    """Run ``convert`` in a separate process; ``FerError`` with its message if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "fer_ml.training.convert", str(old), str(new), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FerError(
            (done.stderr.strip() or f"it ended with code {done.returncode}").removeprefix(
                "error: "
            ),
            code="conversion-failed",
        )


def main() -> int:
    """Convert the checkpoint named on the command line; return the exit code."""
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
