"""Auxiliary losses, added to a task's own: negative learning, and prototypes of the classes.

Both return one value per row, ``[N]``, and 0 for a row that a gate leaves out. The caller averages
over all rows, so a rarely open gate has little weight, and several processes average as one would.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fer_ml.recipes.training import Negative, Prototype
from fer_ml.training.losses import is_class, negative_rows, normalised_entropy, widened

#: Below this length of a projection the pull on it stops growing.
SHORT = 1e-3


def negative_learning(
    logits: Tensor,
    shown: Tensor,
    settings: Negative,
    given: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -log(1 - p) of a class that each face does not show, ``[N]``, and a mask ``[N] bool``.

    ``logits [N, C]``; ``shown [N, C] bool`` marks the classes that a face may show: its label,
    every class with a vote, and those of a face mixed into it. The wrong class is drawn uniformly
    from the others (Kim et al.: NLNL, ICCV 2019), or it is ``given [N]``: a class index, -1 for
    none. The mask marks rows that count: a row has a wrong class that it does not show, is drawn
    (with probability ``ratio``), and its prediction has a normalised entropy of at least
    ``entropy_gate``. The gate carries no gradient.

    ``generator`` draws on its own device; both draws are always made, so equal generators give
    equal draws. ``None`` uses torch's global generator.

    >>> logits, shown = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[True, False]])
    >>> negative_learning(logits, shown, Negative())[0].exp()  # of the only other class: 1 / (3/4)
    tensor([1.3333])
    """
    device = "cpu" if generator is None else generator.device
    uniform, place = torch.rand(2, len(logits), generator=generator, device=device).to(
        logits.device
    )
    wrong = _drawn_class(~shown, place) if given is None else given
    unsure = normalised_entropy(logits.detach()) >= settings.entropy_gate
    absent = (is_class(wrong, logits.shape[1]) & ~shown).any(dim=1)
    applied = absent & (uniform < settings.ratio) & unsure
    rows = negative_rows(logits, wrong.clamp(min=0))
    return rows.masked_fill(~applied, 0.0), applied


def _drawn_class(among: Tensor, place: Tensor) -> Tensor:
    """A class of each row of ``among [N, C] bool`` by ``place [N]`` in 0..1; -1 for none."""
    number = among.sum(dim=1)
    nth = (place * number).long().clamp(max=number - 1)
    chosen = among & (among.cumsum(dim=1) == nth[:, None] + 1)
    return torch.where(number > 0, chosen.int().argmax(dim=1), -1)


class PrototypeMemory(nn.Module):
    """A prototype for each class: the moving average of its faces' projected features.

    ``features`` is the length D of the features. The projection ``[D, dim]`` is random, fixed and
    equal for equal sizes; it preserves cosines in expectation (Johnson, Lindenstrauss, 1984).
    All state is in buffers. ``forward`` reads the memory, ``update`` writes it; after an update
    the loss of before may still be differentiated. Both take all rows of a step at once.
    """

    projection: Tensor
    prototypes: Tensor
    seen: Tensor

    def __init__(self, features: int, classes: int, settings: Prototype) -> None:
        super().__init__()
        self.settings = settings
        drawn = torch.randn(features, settings.dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("projection", drawn / settings.dim**0.5)
        self.register_buffer("prototypes", torch.zeros(classes, settings.dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def forward(self, features: Tensor, y: Tensor) -> Tensor:
        """Return 1 - cos(projected row, its class's prototype), ``[N]``; 0 where the gate is shut.

        ``features [N, D]``, ``y [N]``. Rows of a class without a prototype yet give 0.
        """
        prototypes = self.prototypes[y]
        distance = 1 - cosine_similarity(self._project(features), prototypes, dim=1, eps=SHORT)
        return distance.masked_fill(~self._gate(distance.detach(), self.seen[y]), 0.0)

    @torch.no_grad()
    def update(self, features: Tensor, y: Tensor) -> None:
        """Update the prototype of each class in ``y``: m * prototype + (1 - m) * mean of its rows.

        The first mean of a class becomes its prototype unchanged.
        """
        member = is_class(y, len(self.prototypes)).to(self.prototypes.dtype)
        number = member.sum(dim=0)
        with torch.autocast(features.device.type, enabled=False):
            mean = member.T @ self._project(features) / number.clamp(min=1)[:, None]
        present = number > 0
        moved = torch.lerp(mean, self.prototypes, self.settings.momentum)
        moved = torch.where(self.seen[:, None], moved, mean)
        self.prototypes.copy_(torch.where(present[:, None], moved, self.prototypes))
        self.seen.logical_or_(present)

    def _project(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return widened(features) @ self.projection

    def _gate(self, distance: Tensor, known: Tensor) -> Tensor:
        if self.settings.gate == "threshold":
            return known & (distance > self.settings.value)
        number = min(len(distance), max(1, round(self.settings.value * len(distance))))
        furthest = distance.masked_fill(~known, -torch.inf).topk(number).indices
        return known & torch.zeros_like(known).index_fill(0, furthest, True)
