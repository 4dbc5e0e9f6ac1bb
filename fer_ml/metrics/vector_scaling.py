"""Vector scaling: a weight and a bias for each class, fitted on the calib split."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.calibration import fit_temperature
from fer_ml.metrics.classification import log_softmax

#: Smallest curvature of the mean NLL, per unit of temperature-scaled logit, that fixes a parameter.
MIN_CURVATURE = 1e-7
_FIX = "give the calib split more rows, or scale by temperature alone"


@dataclass(frozen=True)
class VectorScaling:
    """``scaled[n, c] = weights[c] * logits[n, c] + bias[c]``; ``bias`` sums to zero."""

    weights: np.ndarray
    bias: np.ndarray

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return scaled logits ``[N, C] float64``; their softmax (T = 1) is calibrated."""
        return np.asarray(logits, dtype=np.float64) * self.weights + self.bias


def fit_vector_scaling(logits: np.ndarray, y: np.ndarray) -> VectorScaling:
    """Fit the vector scaling of least NLL (Guo et al. 2017, section 4.2) to ``logits [N, C]``.

    The NLL is convex in weights and bias: scaled logits are linear in them. Newton's method in a
    trust region starts from the temperature fit, so the result is never worse than that on these
    rows. ``FerError`` if the rows do not determine the fit: a class has no row, or is separated
    perfectly.

    >>> noise, y = np.random.default_rng(0).normal(size=(2000, 2)), np.arange(2000) % 2
    >>> fit_vector_scaling(noise + 3 * np.eye(2)[y], y).weights.round().tolist()  # 3 apart
    [3.0, 3.0]
    """
    temperature = fit_temperature(logits, y)
    rows, classes = logits.shape
    absent = [CLASSES[label] for label in np.flatnonzero(np.bincount(y, minlength=classes) == 0)]
    if absent:
        what = f"no row of {', '.join(absent)} determines a vector scaling"
        raise FerError(what, code="class-without-rows", fix=_FIX)
    # In units of T all parameters are of a size: weights near 1.
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    truth = np.eye(classes)[y]

    def parts(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p = log_softmax(parameters[:classes] * scaled + parameters[classes:])
        return log_p, np.exp(log_p)

    def loss(parameters: np.ndarray) -> float:
        return float(-(parts(parameters)[0] * truth).sum() / rows)

    def gradient(parameters: np.ndarray) -> np.ndarray:
        residual = parts(parameters)[1] - truth
        return np.concatenate([(residual * scaled).sum(axis=0), residual.sum(axis=0)]) / rows

    def hessian(parameters: np.ndarray) -> np.ndarray:
        probs = parts(parameters)[1]
        # d scaled_c / d (w_c, b_c), so the covariance of p times these, block by block.
        both = np.concatenate([probs * scaled, probs], axis=1)
        diagonals = [probs * scaled * scaled, probs * scaled, probs]
        ww, wb, bb = (np.diag(value.sum(axis=0)) for value in diagonals)
        return (np.block([[ww, wb], [wb, bb]]) - both.T @ both) / rows

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    optimum = minimize(
        loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}
    )
    # The one direction without curvature is a bias that is the same for all classes.
    curvature = np.linalg.eigvalsh(hessian(optimum.x))[1]
    if curvature < MIN_CURVATURE:
        what = f"the rows leave a direction of a vector scaling open: curvature {curvature:.1e}"
        raise FerError(what, code="undetermined-fit", fix=_FIX)
    if np.abs(optimum.jac).max() > 1e-6:
        what = f"the vector scaling did not converge: {optimum.message}"
        raise FerError(what, code="fit-not-converged")
    bias = optimum.x[classes:]
    return VectorScaling(optimum.x[:classes] / temperature, bias - bias.mean())
