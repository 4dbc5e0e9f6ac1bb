"""The soft labels for students, made from the teachers' logits. Needs only numpy.

Used by the assets ``ensemble`` and ``softlabels``, and by a packed training that goes from the
teachers to the students in one job.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.distillation.fusion import (
    Fusion,
    WeightSearch,
    fuse,
    score_weights,
    search_weights,
)
from fer_ml.distillation.logits import Taught
from fer_ml.distillation.sharpness import derive_temperature

#: What a student may learn from, see ``Training.soft_labels``.
STANDARD, CENTRE, IN_SAMPLE, RAW = "standard", "centre", "in_sample", "raw"


@dataclass(frozen=True)
class Soft:
    """Soft labels: fused logits of the training rows ``[T, V, C] float32``, with a temperature."""

    logits: np.ndarray
    kd_temperature: float


def choose_weights(
    members: Sequence[Taught],
    calib_ids: Sequence[str],
    y: np.ndarray,
    fusion: Fusion,
    weights: Sequence[float] | None,
    grid: float,
) -> WeightSearch:
    """Return the members' weights, searched on calib (labels ``y [N]``) unless they are given."""
    on_calib = [member.centre.of(calib_ids) for member in members]
    temperatures = [member.temperature for member in members]
    if weights is None:
        return search_weights(on_calib, y, fusion, temperatures, grid)
    return score_weights(weights, on_calib, y, fusion, temperatures)


def soften(
    members: Sequence[Taught], weights: Sequence[float], fusion: Fusion, target_entropy: float
) -> dict[str, Soft]:
    """Return each kind of soft labels by name, in the order of the members' training rows.

    The KD temperature is the one that gives them a mean entropy of ``target_entropy`` nats. The
    kind ``raw`` fuses the in-sample logits as the interim report did: a weighted sum, uncalibrated.
    """
    first = members[0]
    for member in members[1:]:
        if member.train_ids != first.train_ids or member.train.shape != first.train.shape:
            raise FerError(
                "the teachers labelled different training rows or views",
                code="teacher-rows-differ",
                fix="materialize teacher_logits of all teachers again",
            )
        if (member.fold != first.fold).any():
            raise FerError(
                "the teachers were trained with different folds",
                code="teacher-folds-differ",
                fix="materialize teacher_logits of all teachers again",
            )
    rows = len(first.train)
    by_kind = {
        STANDARD: [member.train for member in members],
        CENTRE: [member.centre.values[:rows, None] for member in members],
        IN_SAMPLE: [member.in_sample[:, None] for member in members],
    }
    temperatures = [member.temperature for member in members]
    kinds = {
        kind: _soft(values, weights, fusion, temperatures, target_entropy)
        for kind, values in by_kind.items()
    }
    return {
        **kinds,
        RAW: _soft(by_kind[IN_SAMPLE], weights, "logits", temperatures, target_entropy),
    }


def _soft(
    values: list[np.ndarray],
    weights: Sequence[float],
    fusion: Fusion,
    temperatures: Sequence[float],
    target_entropy: float,
) -> Soft:
    shape = values[0].shape
    flat = [value.reshape(-1, shape[-1]) for value in values]
    # Half precision is what the files hold, so the temperature is derived from that.
    fused = fuse(flat, weights, fusion, temperatures).astype(np.float16).astype(np.float32)
    return Soft(fused.reshape(shape), derive_temperature(fused, target_entropy))
