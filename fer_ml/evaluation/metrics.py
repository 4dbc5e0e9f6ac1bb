"""Classification and calibration metrics from logits, each by its definition. Needs only numpy.

``logits [N, C]`` are divided by a temperature before the softmax where one is given; ``y [N]``
holds class indices. scikit-learn and torchmetrics are the oracles of the tests.
"""

from typing import Any

import numpy as np

from fer_ml.errors import FerError
from fer_ml.labels import CLASSES

ECE_BINS = 15


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities ``[N, C] float64`` of ``logits / temperature``."""
    return np.exp(log_softmax(logits, temperature))


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities ``[N, C] float64`` of ``logits / temperature``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """``[C, C] int64``; rows are the truth, columns the prediction."""
    return np.bincount(y * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )


def f1_scores(matrix: np.ndarray) -> np.ndarray:
    """F1 of each class from a confusion matrix, ``[C]``; 0 where a class is never there."""
    hits = np.diag(matrix).astype(np.float64)
    size = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.divide(2 * hits, size, out=np.zeros_like(hits), where=size > 0)


def reliability_bins(
    y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS
) -> list[dict[str, float]]:
    """Equal-width bins of the top probability, right-closed ``(lo, hi]``.

    Each is ``{"confidence", "accuracy", "count"}`` with the means over its rows.
    """
    confidence = probs.max(axis=1)
    correct = probs.argmax(axis=1) == y
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    table = []
    for number in range(bins):
        rows = index == number
        count = int(rows.sum())
        table.append(
            {
                "confidence": float(confidence[rows].mean()) if count else 0.0,
                "accuracy": float(correct[rows].mean()) if count else 0.0,
                "count": count,
            }
        )
    return table


def expected_calibration_error(y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS) -> float:
    """Sum over bins of |B| / n * |accuracy - confidence|, in 0..1 (Guo et al. 2017)."""
    return float(
        sum(
            b["count"] * abs(b["accuracy"] - b["confidence"])
            for b in reliability_bins(y, probs, bins)
        )
        / len(y)
    )


def classification_metrics(
    y: np.ndarray, logits: np.ndarray, temperature: float = 1.0
) -> dict[str, Any]:
    """n, accuracy, macro_f1, per_class_f1, balanced_accuracy, nll, brier, ece.

    ``macro_f1`` is the mean over all seven classes; ``balanced_accuracy`` the mean recall over the
    classes present; ``brier`` the mean over rows of the summed squared error, in 0..2; ``nll`` in
    nats. ``FerError`` when there is no row or a logit is not finite.
    """
    if len(y) == 0 or len(y) != len(logits):
        raise FerError(f"metrics of {len(logits)} predictions for {len(y)} labels")
    if not np.isfinite(logits).all():
        raise FerError("predictions hold NaN or infinity", fix="train again with a lower lr")
    log_p = log_softmax(logits, temperature)
    probs = np.exp(log_p)
    classes = logits.shape[1]
    matrix = confusion_matrix(y, probs.argmax(axis=1), classes)
    scores = f1_scores(matrix)
    support = matrix.sum(axis=1)
    recall = np.diag(matrix)[support > 0] / support[support > 0]
    truth = np.eye(classes)[y]
    return {
        "n": len(y),
        "accuracy": float(np.trace(matrix) / len(y)),
        "macro_f1": float(scores.mean()),
        "per_class_f1": {name: float(score) for name, score in zip(CLASSES, scores, strict=True)},
        "balanced_accuracy": float(recall.mean()),
        "nll": float(-log_p[np.arange(len(y)), y].mean()),
        "brier": float(((probs - truth) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(y, probs),
    }
