"""Classification and calibration metrics from logits, each by its definition. Needs only numpy.

``logits [N, C]`` are divided by a temperature before the softmax where one is given; ``y [N]``
holds class indices. scikit-learn and torchmetrics are the oracles of the tests.
"""

from typing import Any

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.risk import augrc, aurc, coverage_at_risk, risk_coverage

ECE_BINS = 15
#: Rows of all draws that are held at a time.
_CHANCE_BLOCK = 500_000
#: Risks at which the coverage is reported.
RISKS = (0.01, 0.05, 0.1)


def require_predictions(y: np.ndarray, logits: np.ndarray) -> None:
    """Raise ``FerError`` if there is no row, a row has no label, or a logit is not finite.

    >>> require_predictions(np.array([0]), np.array([[1.0, 0.0]]))
    """
    if len(y) == 0 and len(logits) == 0:
        raise FerError("there are no predictions to measure", code="no-rows")
    if len(y) != len(logits):
        raise FerError(
            f"{len(logits)} predictions do not match {len(y)} labels",
            code="length-mismatch",
            allowed="one prediction for each label",
        )
    if not np.isfinite(logits).all():
        raise FerError(
            "the predictions contain NaN or infinity",
            code="non-finite-predictions",
            fix="train again with a lower lr",
        )
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise FerError(
            f"the labels reach from {y.min()} to {y.max()}",
            code="label-out-of-range",
            allowed=f"class indices below {logits.shape[1]}",
        )


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities ``[N, C] float64`` of ``logits / temperature``.

    >>> softmax(np.log([[9.0, 1.0]]), temperature=2.0).round(6).tolist()
    [[0.75, 0.25]]
    """
    return np.exp(log_softmax(logits, temperature))


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the log-probabilities ``[N, C] float64`` of ``logits / temperature``.

    >>> np.exp(log_softmax(np.log([[3.0, 1.0]]))).round(6).tolist()
    [[0.75, 0.25]]
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix ``[C, C] int64``; rows are the truth, columns the prediction.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(y * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )


def f1_scores(matrix: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, ``[..., C]``, from confusion matrices ``[..., C, C]``.

    F1 is 0 for a class that occurs neither in the truth nor in the predictions.

    >>> f1_scores(np.array([[1, 1], [0, 2]])).round(4).tolist()  # 2/3 and 4/5
    [0.6667, 0.8]
    """
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    size = matrix.sum(axis=-2) + matrix.sum(axis=-1)
    return np.divide(2 * hits, size, out=np.zeros_like(hits), where=size > 0)


def balanced_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Return the mean recall ``[...]`` over the classes present in matrices ``[..., C, C]``.

    >>> float(balanced_accuracy(np.array([[1, 1], [0, 2]])))  # of 1/2 and 1
    0.75
    """
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    support = matrix.sum(axis=-1)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    return recall.sum(axis=-1) / (support > 0).sum(axis=-1)


def equal_width_bins(probability: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Return each probability's bin ``0..bins-1``: equal width, ``(lo, hi]``, and 0 in bin 0.

    >>> equal_width_bins(np.array([0.0, 0.5, 0.51, 1.0]), bins=2).tolist()
    [0, 0, 1, 1]
    """
    return np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)


def equal_mass_bins(probability: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Return each probability's bin ``0..bins-1``, ``[N]``: as equally many rows as possible.

    The bin is floor(bins x rows strictly below / N), so equal probabilities share one.

    >>> equal_mass_bins(np.array([0.9, 0.91, 0.92, 0.93]), bins=2).tolist()
    [0, 0, 1, 1]
    """
    below = np.searchsorted(np.sort(probability), probability, side="left")
    return below * bins // len(probability)


def reliability_bins(
    y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS
) -> list[dict[str, float]]:
    """Return the equal-width bins ``(lo, hi]`` of the top probability, for a reliability plot.

    Each bin is ``{"confidence", "accuracy", "count"}``: two means over its rows, and their number.

    >>> probs = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> reliability_bins(np.array([0, 0]), probs, bins=1)
    [{'confidence': 0.75, 'accuracy': 0.5, 'count': 2}]
    """
    confidence = probs.max(axis=1)
    index = equal_width_bins(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    filled = np.maximum(counts, 1)
    confidences = np.bincount(index, confidence, bins) / filled
    accuracies = np.bincount(index, probs.argmax(axis=1) == y, bins) / filled
    return [
        {"confidence": float(confidence), "accuracy": float(accuracy), "count": int(count)}
        for confidence, accuracy, count in zip(confidences, accuracies, counts, strict=True)
    ]


def _top(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's largest probability and its class, the first one of a tie.

    Class by class over all rows: numpy takes several times as long for many rows of seven.
    """
    columns = np.ascontiguousarray(probs.T)
    top, predicted = columns[0].copy(), np.zeros(len(probs), np.int64)
    for label, column in enumerate(columns[1:], 1):
        predicted[column > top] = label
        np.maximum(top, column, out=top)
    return top, predicted


def _calibration_error(probability: np.ndarray, hit: np.ndarray, index: np.ndarray) -> float:
    """Sum over bins of |B| / n * |share of hits - mean probability|, in 0..1."""
    return float(np.abs(np.bincount(index, hit - probability)).sum() / len(index))


def expected_calibration_error(y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the ECE of the top probability in equal-width bins, in 0..1 (Guo et al. 2017).

    >>> probs = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> expected_calibration_error(np.array([0, 0]), probs)  # |1/2 - 3/4|
    0.25
    """
    top, predicted = _top(probs)
    return _calibration_error(top, predicted == y, equal_width_bins(top, bins))


def calibration_error_by_chance(
    probs: np.ndarray, bins: int = ECE_BINS, draws: int = 500, seed: int = 0
) -> dict[str, float]:
    """Return the ECE that sampling noise alone gives on these rows: ``mean`` and ``high``, 0..1.

    In each draw every row is correct with its stated top probability (consistency resampling,
    Broecker and Smith 2007). ``high`` is the 95th percentile: an ECE at or below it is consistent
    with a perfectly calibrated model.

    >>> calibration_error_by_chance(np.array([[0.75, 0.25]]))["high"]  # one row: right or wrong
    0.75
    """
    rng = np.random.default_rng(seed)
    top = probs.max(axis=1)
    index = equal_width_bins(top, bins)
    drawn: list[float] = []
    block = max(1, _CHANCE_BLOCK // len(top))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        gaps = (rng.random((size, len(top))) < top) - top
        place = index + bins * np.arange(size)[:, None]
        by_bin = np.bincount(place.ravel(), gaps.ravel(), minlength=size * bins)
        drawn += list(np.abs(by_bin.reshape(size, bins)).sum(axis=1) / len(top))
    return {"mean": float(np.mean(drawn)), "high": float(np.quantile(drawn, 0.95))}


def adaptive_calibration_error(y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the ECE of the top probability in equal-mass bins, 0..1 (Nguyen, O'Connor 2015).

    >>> probs = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> adaptive_calibration_error(np.array([0, 0]), probs, bins=1)  # |1/2 - 3/4|
    0.25
    """
    top = probs.max(axis=1)
    return _calibration_error(top, probs.argmax(axis=1) == y, equal_mass_bins(top, bins))


def classwise_calibration_error(y: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the equal-width ECE of each class's probability, averaged (Kull et al. 2019).

    >>> probs = np.array([[0.75, 0.25]])
    >>> classwise_calibration_error(np.array([0]), probs)  # |1 - 3/4| and |0 - 1/4|
    0.25
    """
    index = equal_width_bins(probs, bins)
    return float(
        np.mean(
            [
                _calibration_error(probs[:, label], y == label, index[:, label])
                for label in range(probs.shape[1])
            ]
        )
    )


def classification_metrics(
    y: np.ndarray, logits: np.ndarray, temperature: float = 1.0
) -> dict[str, Any]:
    """Return every metric of one set of predictions, by name; docs/evaluation.md defines each.

    ``macro_f1`` is the mean over all seven classes; ``balanced_accuracy`` the mean recall over the
    classes present; ``brier`` the mean over rows of the summed squared error, in 0..2; ``nll`` in
    nats; ``aurc``, ``augrc`` and ``coverage_at_risk`` rank rows by their top probability.
    ``FerError`` when there is no row or a logit is not finite.

    >>> held = classification_metrics(np.array([0, 1]), np.eye(7)[[0, 0]])
    >>> held["n"], held["accuracy"], held["balanced_accuracy"]
    (2, 0.5, 0.5)
    """
    require_predictions(y, logits)
    log_p = log_softmax(logits, temperature)
    probs = np.exp(log_p)
    predicted = probs.argmax(axis=1)
    classes = logits.shape[1]
    matrix = confusion_matrix(y, predicted, classes)
    scores = f1_scores(matrix)
    curve = risk_coverage(probs.max(axis=1), predicted == y)
    return {
        "n": len(y),
        "accuracy": float(np.trace(matrix) / len(y)),
        "macro_f1": float(scores.mean()),
        "per_class_f1": {name: float(score) for name, score in zip(CLASSES, scores, strict=True)},
        "balanced_accuracy": float(balanced_accuracy(matrix)),
        "nll": float(-log_p[np.arange(len(y)), y].mean()),
        "brier": float(((probs - np.eye(classes)[y]) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(y, probs),
        "adaptive_ece": adaptive_calibration_error(y, probs),
        "classwise_ece": classwise_calibration_error(y, probs),
        "aurc": aurc(curve),
        "augrc": augrc(curve),
        "coverage_at_risk": {str(risk): coverage_at_risk(curve, risk) for risk in RISKS},
    }
