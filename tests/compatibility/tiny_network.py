"""A network of three thousand weights, so that an artifact root with models is a few kilobytes."""

from typing import Any

import torch
from timm.models import register_model
from torch import nn

NAME = "fer_tiny"


class Tiny(nn.Module):
    """What timm's networks offer of themselves, as far as the platform asks for it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.num_features = 16
        self.conv1 = nn.Conv2d(3, 12, 5, stride=4)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2)
        self.fc: nn.Module = nn.Linear(16, classes) if classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv2(torch.relu(self.bn1(self.conv1(images))))
        return torch.relu(maps)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else self.fc(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


@register_model
def fer_tiny(pretrained: bool = False, **options: Any) -> Tiny:
    return Tiny(options.get("num_classes", 1000))
