"""A check that a network gives the same answers in inference as in training.

BatchNorm uses a batch's statistics in training and stored ones in inference. If the stored ones lag
behind fast-moving weights, or layers multiply the error, the saved network behaves differently from
the trained one: its loss is low in training and in the hundreds on val.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from fer_ml.training.networks import Network

#: Training faces that are answered both ways after each epoch.
COMPARED_ROWS = 128
#: Nats by which the NLL with stored statistics may exceed that with a batch's own.
GAP_LIMIT = 0.5
#: How many times the median face's feature norm a face may have.
RANGE_LIMIT = 20.0


@dataclass(frozen=True)
class InferenceFit:
    """The fit of a network's inference mode to its training mode, measured on training faces.

    ``nll_stored`` and ``nll_batch`` are mean NLL in nats with BatchNorm's stored statistics and
    with those of the faces themselves; equal without BatchNorm. ``feature_range`` is the largest
    norm of a face's features, in inference, over the median one.
    """

    nll_stored: float
    nll_batch: float
    feature_range: float

    @property
    def gap(self) -> float:
        """Return how much higher the mean NLL is in inference, in nats."""
        return self.nll_stored - self.nll_batch

    @property
    def fault(self) -> str | None:
        """Return a one-line description of the misfit, or ``None`` if there is none."""
        if not self.gap <= GAP_LIMIT:
            return (
                f"BatchNorm's stored statistics do not fit the weights: NLL {self.nll_stored:.3g} "
                f"with them, {self.nll_batch:.3g} with those of the faces (precise_bn mends it)"
            )
        if not self.feature_range <= RANGE_LIMIT:
            return (
                f"the features of a face are {self.feature_range:.3g} times as large as the "
                "median face's: activations run away"
            )
        return None


def inference_fit(network: Network, images: torch.Tensor, y: torch.Tensor) -> InferenceFit:
    """Compare both modes on ``images [N, 3, S, S]`` of classes ``y [N]``; change nothing."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        outputs = network.outputs(images)
        norms = outputs.features.flatten(1).float().norm(dim=1)
        stored = _nll(network.answer(outputs), y)
        with _statistics_of_the_batch(network):
            batch = _nll(network(images), y)
    network.train(was_training)
    spread = norms.max() / norms.median().clamp(min=1e-12)
    return InferenceFit(float(stored), float(batch), float(spread))


def measure_statistics(network: Network, batches: Iterable[torch.Tensor]) -> None:
    """Replace BatchNorm's stored statistics by those of ``batches`` (images ``[N, 3, S, S]``).

    Each batch has the same weight, so they should be equally large.
    """
    with torch.inference_mode():
        update_bn(batches, network)


def _nll(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.float(), y)


@contextmanager
def _statistics_of_the_batch(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm alone behave as in training, without changing its stored statistics."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = [(m.track_running_stats, m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        # Without stored statistics a layer normalises by its batch's, in either mode.
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (tracks, mean, var) in zip(layers, statistics, strict=True):
            layer.track_running_stats, layer.running_mean, layer.running_var = tracks, mean, var
