"""Networks: timm backbones, the ArcFace head, and where their first weights come from."""

from typing import cast

import timm
import torch
from torch import nn

from fer_ml.errors import FerError
from fer_ml.labels import CLASSES
from fer_ml.profiles import ArcFace, Training


class Plain(nn.Module):
    """A timm classifier: ``[N, 3, S, S]`` to ``logits [N, C]``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)


class ArcFaceNet(nn.Module):
    """Backbone, embedding (Linear, BN, SiLU, dropout), a plain head and an ArcFace head.

    ``forward`` gives the inference logits ``scale * cos(theta) [N, C]``, without margin, as soon as
    the ArcFace head is in use (``arc_in_use``, stored with the weights), before that the
    plain ones.
    """

    arc_in_use: torch.Tensor

    def __init__(self, backbone: nn.Module, features: int, task: ArcFace) -> None:
        super().__init__()
        self.backbone = backbone
        self.embed = nn.Sequential(
            nn.Linear(features, task.embedding),
            nn.BatchNorm1d(task.embedding),
            nn.SiLU(),
            nn.Dropout(task.dropout),
        )
        self.plain = nn.Linear(task.embedding, len(CLASSES))
        self.arc = nn.Parameter(torch.empty(len(CLASSES), task.embedding))
        nn.init.xavier_uniform_(self.arc)
        self.scale = task.scale
        self.register_buffer("arc_in_use", torch.tensor(False))

    def heads(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(plain logits [N, C], cosines [N, C])``."""
        embedding = self.embed(self.backbone(images))
        cosine = nn.functional.linear(
            nn.functional.normalize(embedding, dim=1), nn.functional.normalize(self.arc, dim=1)
        )
        return self.plain(embedding), cosine

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        plain, cosine = self.heads(images)
        return self.scale * cosine if bool(self.arc_in_use) else plain


def build_model(recipe: Training) -> nn.Module:
    """A network for ``recipe``, with random or ImageNet weights as it says.

    ``init='previous'`` starts random here; the caller loads the previous student over it. An
    ImageNet start that cannot be downloaded is an error, never a random start.
    """
    pretrained = recipe.init == "imagenet"
    arcface = recipe.task if isinstance(recipe.task, ArcFace) else None
    try:
        backbone = timm.create_model(
            recipe.architecture,
            pretrained=pretrained,
            num_classes=0 if arcface else len(CLASSES),
        )
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise FerError(
            f"timm has no model {recipe.architecture!r}",
            allowed=", ".join(timm.list_models(f"*{recipe.architecture[:6]}*")[:8]),
        ) from error
    except Exception as error:
        if not pretrained:
            raise
        raise FerError(
            f"ImageNet weights of {recipe.architecture} could not be fetched: {error}",
            allowed="init: none, imagenet (needs a network once), previous",
            fix="connect to the network, or set init = 'none' in the profile",
        ) from error
    if recipe.stem_stride == 1:
        _keep_resolution(backbone, recipe.architecture)
    if arcface is None:
        _calm_head(backbone)
        return Plain(backbone)
    return ArcFaceNet(backbone, cast(int, backbone.num_features), arcface)


def _calm_head(backbone: nn.Module) -> None:
    """Start the classifier near zero, so that the first loss is ln C.

    timm draws MobileNet's classifier by its fan-out; with seven classes that gives logits of tens,
    and the first epochs are spent on shrinking them.
    """
    head = backbone.get_classifier()  # type: ignore[operator]
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)


def _keep_resolution(backbone: nn.Module, architecture: str) -> None:
    """Give the first convolution stride 1: an ImageNet stem throws away a 48 px face."""
    stem = getattr(backbone, "conv_stem", None) or getattr(backbone, "conv1", None)
    if not isinstance(stem, nn.Conv2d):
        raise FerError(
            f"stem_stride = 1 is not known for {architecture}",
            allowed="networks with conv_stem or conv1 (MobileNet, EfficientNet, ResNet)",
        )
    stem.stride = (1, 1)
