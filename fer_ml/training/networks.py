"""Networks: a timm backbone with its own head or an ArcFace head, and their inference logits."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.training import ArcFace


@dataclass(frozen=True)
class Outputs:
    """The results of a forward pass that losses use.

    ``logits [N, C]`` of the linear head, its input ``features [N, D]``, and the ArcFace head's
    ``cosine [N, C]`` (``None`` without such a head).
    """

    logits: torch.Tensor
    features: torch.Tensor
    cosine: torch.Tensor | None = None


class Classifier(nn.Module):
    """A network whose inference logits are the ``answer`` among its ``outputs``.

    ``resize`` has no weights. It gives the backbone the side that suits it, so that teachers and
    students of several sides see the same pixels. With ``average_flip`` the logits in inference
    are the mean of those of each image and of its mirror image.
    """

    average_flip = False

    def __init__(self, resize: nn.Module | None = None) -> None:
        super().__init__()
        self.resize = resize or nn.Identity()

    def outputs(self, images: torch.Tensor) -> Outputs:
        """Return what losses use, of the images as they are."""
        raise NotImplementedError

    def answer(self, outputs: Outputs) -> torch.Tensor:
        """Return the inference logits ``[N, C]`` among ``outputs``."""
        return outputs.logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inference logits ``[N, C]``."""
        if self.training or not self.average_flip:
            return self.answer(self.outputs(images))
        both = self.answer(self.outputs(torch.cat([images, images.flip(-1)])))
        return both.view(2, -1, both.shape[-1]).mean(0)


class Plain(Classifier):
    """A timm classifier: images ``[N, 3, S, S]`` to ``logits [N, C]``."""

    def __init__(self, backbone: nn.Module, resize: nn.Module | None = None) -> None:
        super().__init__(resize)
        self.backbone = backbone

    def outputs(self, images: torch.Tensor) -> Outputs:
        """Return the logits, and the features that they are computed from."""
        backbone = cast(Any, self.backbone)
        seen = backbone.forward_features(self.resize(images))
        features = backbone.forward_head(seen, pre_logits=True)
        return Outputs(backbone.get_classifier()(features), features)


class ArcFaceNet(Classifier):
    """Backbone, embedding (Linear, BN, SiLU, dropout), a plain head and an ArcFace head.

    ``forward`` returns the inference logits ``scale * cos(theta) [N, C]``, without margin, once the
    ArcFace head is in use (``arc_in_use``, stored with the weights), and those of the plain head
    before.
    """

    arc_in_use: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        task: ArcFace,
        resize: nn.Module | None = None,
    ) -> None:
        super().__init__(resize)
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

    def outputs(self, images: torch.Tensor) -> Outputs:
        """Return the plain logits, the embedding, and the cosines to the class centres."""
        embedding = self.embed(self.backbone(self.resize(images)))
        cosine = nn.functional.linear(
            nn.functional.normalize(embedding, dim=1), nn.functional.normalize(self.arc, dim=1)
        )
        return Outputs(self.plain(embedding), embedding, cosine)

    def answer(self, outputs: Outputs) -> torch.Tensor:
        """Return the inference logits ``[N, C]`` among ``outputs``."""
        assert outputs.cosine is not None
        return self.scale * outputs.cosine if bool(self.arc_in_use) else outputs.logits


Network = Plain | ArcFaceNet
