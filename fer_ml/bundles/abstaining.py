"""When a model does not answer: limits from calib, on clean and on corrupted faces.

A face is not answered if it is too small, if the network's logits are unlike those of calib, or if
the confidence is below a threshold. Corrupted faces have a part in all three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fer_ml.bundles.bundle import Shares, Threshold, log_sum_exp
from fer_ml.images.corruptions import CORRUPTIONS, SETS, corrupted, key_of, resolved
from fer_ml.metrics.abstention import RISKS, Answered, answered_at, common_threshold, upper_bound
from fer_ml.metrics.classification import softmax
from fer_ml.packed.packing import drawn_faces, prepared, squares
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.runs.logits import labels_of
from fer_ml.training.views import FaceSet

#: The share of wrong answers at which the demo says 'unsure'.
RISK = 0.2
#: The share of clean faces whose logits are unlike those of the others (Liu et al. 2020).
UNLIKE = 0.05
#: Sides in px at which a face is tried; a smaller one is too small, whatever comes of it.
SIDES_PX = (12, 16, 20, 24, 32, 40, 48)
#: Faces of calib that are corrupted.
FACES = 2000
SEED = 0
#: Size has a limit of its own.
KINDS = tuple(kind for kind in CORRUPTIONS if kind != "small")


@dataclass(frozen=True)
class Limits:
    """Below which side in px, log-sum-exp of logits and confidence a face is not answered."""

    least_px: int
    least_log_sum_exp: float | None
    abstention: tuple[Threshold, ...]

    @property
    def unsure_below(self) -> float:
        """The threshold for ``RISK``; 1 where there is none, so that every answer is unsure."""
        return 1.0 if self._chosen.threshold is None else self._chosen.threshold

    @property
    def holds_corrupted(self) -> bool:
        """Whether that threshold holds on corrupted faces too."""
        return bool(self._chosen.holds_corrupted)

    @property
    def _chosen(self) -> Threshold:
        return next(threshold for threshold in self.abstention if threshold.wanted_risk == RISK)


@dataclass(frozen=True)
class _Rows:
    """``confidence [N]``, below 0 where logits are unlike calib's; ``correct [N]``; groups."""

    confidence: np.ndarray
    correct: np.ndarray
    groups: np.ndarray


def limits_of(
    calib: pl.DataFrame,
    logits: np.ndarray,
    temperature: float,
    answer: Callable[[FaceSet], np.ndarray],
    preprocess: Preprocess,
    root: Path,
    *,
    by_logits: bool = True,
) -> Limits:
    """Choose the limits of a network on rows ``calib``, whose clean ``logits [N, 7]`` are given.

    ``answer`` gives the logits of prepared faces; images lie below ``root``. Each face is corrupted
    once, by a kind and strength that its id draws, so that rows stay independent. A threshold keeps
    its risk on clean and on corrupted faces where one does both, or else on clean ones alone.
    ``by_logits=False`` is for logits that are log-probabilities, whose sum says nothing.
    """
    least = float(np.quantile(log_sum_exp(logits), UNLIKE)) if by_logits else None

    def seen(rows: pl.DataFrame, values: np.ndarray) -> _Rows:
        probs = softmax(values, temperature)
        unlike = log_sum_exp(values) < least if least is not None else np.zeros(len(values), bool)
        right = probs.argmax(axis=1) == labels_of(rows)
        confidence = np.where(unlike, -1.0, probs.max(axis=1))
        return _Rows(confidence, right, rows["group_id"].to_numpy())

    clean, drawn = seen(calib, logits), drawn_faces(calib, FACES, SEED)
    faces = squares(drawn, root, preprocess.frame)
    pairs = zip(faces, drawn["sample_id"], strict=True)
    corrupt = [spoilt(face, name) for face, name in pairs]
    hard = seen(drawn, answer(prepared(corrupt, preprocess)))
    abstention = tuple(_threshold(clean, hard, risk) for risk in RISKS)
    limits = Limits(0, least, abstention)
    smaller = {}
    for side in SIDES_PX:
        shrunk = [resolved(face, min(side, len(face))) for face in faces]
        smaller[side] = seen(drawn, answer(prepared(shrunk, preprocess)))
    return Limits(_least_px(smaller, limits), least, abstention)


def spoilt(face: np.ndarray, name: str) -> np.ndarray:
    """Return the face corrupted by one of ``KINDS``, each alike, at one of its strengths."""
    key = key_of("calib", name, SEED)
    kind = KINDS[key % len(KINDS)]
    strengths = [strength for of, strength in SETS if of == kind]
    return corrupted(face, kind, strengths[key // len(KINDS) % len(strengths)], name, SEED)


def _threshold(clean: _Rows, hard: _Rows, risk: float) -> Threshold:
    parts = [(rows.confidence, rows.correct) for rows in (clean, hard)]
    both = common_threshold(parts, risk)
    found = common_threshold(parts[:1], risk) if both is None else both
    if found is None:
        return Threshold(wanted_risk=risk, threshold=None, coverage=None, risk=None)
    shares = [
        _shares(answered_at(found, rows.confidence, rows.correct, rows.groups))
        for rows in (clean, hard)
    ]
    return Threshold(
        wanted_risk=risk,
        threshold=found,
        bound=shares[0].bound,
        coverage=shares[0].coverage,
        risk=shares[0].risk,
        corrupted=shares[1],
        holds_corrupted=both is not None,
    )


def _shares(answered: Answered) -> Shares:
    coverage, risk = answered.coverage, answered.risk
    return Shares(
        bound=answered.bound,
        coverage=(coverage.value, coverage.low, coverage.high),
        risk=None if risk is None else (risk.value, risk.low, risk.high),
    )


def _least_px(smaller: dict[int, _Rows], limits: Limits) -> int:
    """Return the least side from which on the bound of the risk is at most ``RISK``.

    The largest side that was tried if none is; 0 if nothing is answered at any size. A confidence
    that holds on clean faces alone leaves their bound no slack, so that the risk itself is asked.
    """
    least, threshold = max(smaller), limits.unsure_below
    for side in sorted(smaller, reverse=True):
        answered = smaller[side].confidence >= threshold
        wrong = answered & ~smaller[side].correct
        risk = wrong.sum() / max(1, answered.sum())
        if limits.holds_corrupted:
            risk = upper_bound(wrong.sum()[None], answered.sum()[None])[0]
        if answered.any() and risk > RISK:
            return least
        least = side
    return least if any((rows.confidence >= threshold).any() for rows in smaller.values()) else 0
