"""The fusion of several teachers' logits, and the search for its weights. Needs only numpy.

Three ways, of K members' logits ``[N, C]`` each and weights that sum to 1:

- ``logits``: sum of w_k z_k, as in the interim report; the sharpest member dominates
- ``probabilities``: log of the sum of w_k softmax(z_k / T_k)
- ``calibrated``: sum of w_k log softmax(z_k / T_k)

The last two first divide each member's logits by its own temperature, since an overconfident
member would outvote the others.

Weights are scored by the mean NLL in nats after a temperature fit of the fused logits, so that
sharpness alone has no advantage. For ``logits`` and ``calibrated`` the fused logits over T are
linear in u = w / T: the NLL is convex in u >= 0, and its one minimum gives weights and T at once.
For ``probabilities`` the NLL is convex in w at T = 1 alone, and not once T is fitted too: there
only the grid is searched.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fer_ml.base.errors import FerError
from fer_ml.metrics.calibration import T_BOUNDS, margins, on_bound, search_inverse
from fer_ml.metrics.classification import log_softmax, require_predictions
from fer_ml.metrics.resampling import LEVEL, RESAMPLES, Interval, group_codes, interval, resample

Fusion = Literal["logits", "probabilities", "calibrated"]

#: Weights that can be asked for by name, by member.
NAMED_WEIGHTS: dict[str, dict[str, float]] = {
    "interim_report": {"RN18": 0.4, "B3": 0.4, "CNXT": 0.2}
}


def fuse(
    logits: Sequence[np.ndarray],
    weights: Sequence[float],
    fusion: Fusion,
    temperatures: Sequence[float],
) -> np.ndarray:
    """Fuse the logits ``[N, C]`` of K members into one array ``[N, C] float64``.

    >>> both = [np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]])]
    >>> fuse(both, (0.5, 0.5), "logits", (1.0, 1.0)).tolist()
    [[1.0, 2.0]]
    """
    return _mix(_terms(logits, fusion, temperatures), np.asarray(weights, np.float64), fusion)


def _terms(
    logits: Sequence[np.ndarray], fusion: Fusion, temperatures: Sequence[float]
) -> np.ndarray:
    """What is mixed by weight, ``[K, N, C] float64``."""
    if fusion == "logits":
        return np.stack(logits).astype(np.float64)
    return np.stack([log_softmax(z, t) for z, t in zip(logits, temperatures, strict=True)])


def _mix(terms: np.ndarray, weights: np.ndarray, fusion: Fusion) -> np.ndarray:
    """Fused logits from ``terms [K, ...]``, of any shape behind the members."""
    if fusion != "probabilities":
        return np.tensordot(weights, terms, 1)
    if len(weights) != len(terms):
        raise ValueError(f"weights of shape {weights.shape} for {len(terms)} members")
    # In logs from the largest term on, so that a sharp member's small probabilities stay exact.
    used = terms[weights > 0]
    top = used.max(axis=0)
    return top + np.log(np.tensordot(weights[weights > 0], np.exp(used - top), 1))


def named_weights(name: str, members: Sequence[str]) -> tuple[float, ...]:
    """Return the weights ``NAMED_WEIGHTS[name]`` in the order of ``members``.

    ``FerError`` if ``members`` are not the teachers that these weights are for.

    >>> named_weights("interim_report", ["CNXT", "B3", "RN18"])
    (0.2, 0.4, 0.4)
    """
    if name not in NAMED_WEIGHTS:
        raise FerError(
            f"unknown weights {name!r}", code="unknown-weights", allowed=", ".join(NAMED_WEIGHTS)
        )
    weights = NAMED_WEIGHTS[name]
    if sorted(members) != sorted(weights):
        raise FerError(
            f"the weights {name!r} do not fit the members {', '.join(members)}",
            code="weights-mismatch",
            allowed=", ".join(weights),
        )
    return tuple(weights[member] for member in members)


def simplex(members: int, step: float) -> list[tuple[float, ...]]:
    """Return every vector of ``members`` weights that are multiples of ``step`` and sum to 1.

    >>> simplex(2, 0.5)
    [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    """
    parts = round(1 / step)
    grid = []
    for cuts in itertools.combinations_with_replacement(range(parts + 1), members - 1):
        edges = (0, *cuts, parts)
        grid.append(tuple(round((b - a) / parts, 10) for a, b in itertools.pairwise(edges)))
    return grid


@dataclass(frozen=True)
class WeightSearch:
    """The chosen weights, with all candidates of the search.

    ``chosen`` is the row of the best candidate. ``weights``, ``temperature`` and ``nll`` are the
    result of ``method``: the best candidate of the grid, or the convex fit, which is never worse.
    Weights that were given are the only candidate.
    """

    weights: tuple[float, ...]
    temperature: float
    nll: float
    method: Literal["grid", "convex fit", "given"]
    chosen: int
    #: ``[S, K]``, ``[S]`` in nats, ``[S]``.
    candidates: np.ndarray
    candidate_nll: np.ndarray
    candidate_temperature: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """What fusion needs of one set: ``terms [K, C, N]``, ``y [N]``.

    Where fusion is linear the terms are margins to the true class already.
    """

    terms: np.ndarray
    y: np.ndarray
    fusion: Fusion

    @property
    def linear(self) -> bool:
        return self.fusion != "probabilities"

    def margin(self, weights: np.ndarray) -> np.ndarray:
        """Fused logits less the true class's, ``[C, N]``."""
        mixed = _mix(self.terms, weights, self.fusion)
        return mixed if self.linear else mixed - mixed[self.y, np.arange(len(self.y))]


def _rows(
    logits: Sequence[np.ndarray],
    y: np.ndarray,
    fusion: Fusion,
    temperatures: Sequence[float],
) -> _Rows:
    for values in logits:
        require_predictions(y, values)
    terms = _terms(logits, fusion, temperatures)
    if fusion == "probabilities":
        return _Rows(np.ascontiguousarray(terms.transpose(0, 2, 1)), y, fusion)
    return _Rows(np.stack([margins(term, y) for term in terms]), y, fusion)


def search_weights(
    logits: Sequence[np.ndarray],
    y: np.ndarray,
    fusion: Fusion,
    temperatures: Sequence[float],
    step: float,
) -> WeightSearch:
    """Search the weights of least NLL: on the grid of ``simplex``, then by a convex fit if any.

    ``logits`` are K members' ``[N, C]`` on the rows of calib, with labels ``y [N]``; the fusion
    ``logits`` ignores ``temperatures [K]``. A candidate without a finite T is scored at the bound
    (the table shows it); ``FerError`` if the best one is such a candidate.

    >>> good, y = np.log([[3.0, 1.0]] * 4), np.array([0, 0, 0, 1])
    >>> search_weights([good, -good], y, "probabilities", (1.0, 1.0), 0.5).weights
    (1.0, 0.0)
    """
    rows = _rows(logits, y, fusion, temperatures)
    candidates = np.array(simplex(len(logits), step))
    losses, betas = np.empty(len(candidates)), np.empty(len(candidates))
    inside = np.empty(len(candidates), dtype=bool)
    beta = 1.0
    for index, weights in enumerate(candidates):
        margin = rows.margin(weights)
        # Neighbours on the grid have nearly the same T.
        beta, inside[index] = search_inverse(margin, beta)
        losses[index], betas[index] = _losses(margin, beta).mean(), beta
    chosen = int(losses.argmin())
    weights, beta, loss = candidates[chosen], betas[chosen], losses[chosen]
    if not inside[chosen]:
        raise on_bound(1 / beta)
    if rows.linear:
        scaled = _fit(rows.terms, beta * weights)
        weights = scaled / scaled.sum()
        margin = rows.margin(weights)
        beta, unbound = search_inverse(margin, scaled.sum())
        if not unbound:
            raise on_bound(1 / beta)
        loss = _losses(margin, beta).mean()
    return WeightSearch(
        weights=tuple(float(weight) for weight in weights),
        temperature=float(1 / beta),
        nll=float(loss),
        method="convex fit" if rows.linear else "grid",
        chosen=chosen,
        candidates=candidates,
        candidate_nll=losses,
        candidate_temperature=1 / betas,
    )


def score_weights(
    weights: Sequence[float],
    logits: Sequence[np.ndarray],
    y: np.ndarray,
    fusion: Fusion,
    temperatures: Sequence[float],
) -> WeightSearch:
    """Score given weights: return their T and NLL on these rows, as a search of one candidate.

    >>> good, y = np.log([[3.0, 1.0]] * 4), np.array([0, 0, 0, 1])
    >>> round(score_weights((1.0,), [good], y, "logits", (1.0,)).temperature, 6)
    1.0
    """
    candidate = np.array([weights], dtype=np.float64)
    margin = _rows(logits, y, fusion, temperatures).margin(candidate[0])
    beta, inside = search_inverse(margin)
    if not inside:
        raise on_bound(1 / beta)
    loss = float(_losses(margin, beta).mean())
    return WeightSearch(
        weights=tuple(float(weight) for weight in weights),
        temperature=1 / beta,
        nll=loss,
        method="given",
        chosen=0,
        candidates=candidate,
        candidate_nll=np.array([loss]),
        candidate_temperature=np.array([1 / beta]),
    )


def _losses(margin: np.ndarray, beta: float) -> np.ndarray:
    """NLL of each row in nats, ``[N]``, from margins ``[C, N]``."""
    top = margin.max(axis=0)
    return beta * top + np.log(np.exp(beta * (margin - top)).sum(axis=0))


def _fit(terms: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The u >= 0 ``[K]`` that minimises the mean NLL of margins ``u . terms [K, C, N]``.

    Newton's method: each step goes towards the minimum over u >= 0 of the quadratic model, and is
    halved until the NLL falls (Armijo's rule).
    """
    u = start
    while True:
        loss, gradient, hessian = _derivatives(terms, u)
        towards = _nonnegative_minimum(hessian[None], (hessian @ u - gradient)[None])[0] - u
        descent = float(gradient @ towards)
        if descent > -1e-14:
            return u + towards
        length = 1.0
        while _mean_loss(terms, u + length * towards) > loss + 1e-4 * length * descent:
            length /= 2
        u = u + length * towards
        if u.sum() > 1 / T_BOUNDS[0]:
            raise on_bound(1 / u.sum())


def _mean_loss(terms: np.ndarray, u: np.ndarray) -> float:
    return float(_losses(np.tensordot(u, terms, 1), 1.0).mean())


def _derivatives(terms: np.ndarray, u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean NLL, its gradient ``[K]`` and its Hessian ``[K, K]``.

    By row they are the expectation and the covariance of the members' margins under the fused
    softmax.
    """
    members, _, rows = terms.shape
    probs = _probs(terms, u)
    mean = np.einsum("cn,kcn->kn", probs, terms)
    weighted = (probs * terms).reshape(members, -1)
    hessian = (weighted @ terms.reshape(members, -1).T - mean @ mean.T) / rows
    return _mean_loss(terms, u), mean.mean(axis=1), _ridged(hessian)


def _probs(terms: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Fused probabilities ``[C, N]``."""
    margin = np.tensordot(u, terms, 1)
    weight = np.exp(margin - margin.max(axis=0))
    return weight / weight.sum(axis=0)


def _ridged(hessian: np.ndarray) -> np.ndarray:
    """``[..., K, K]`` that can be inverted also where two members are one."""
    size = np.trace(hessian, axis1=-2, axis2=-1)[..., None, None]
    return hessian + 1e-10 * size * np.eye(hessian.shape[-1])


def _nonnegative_minimum(hessian: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """The x >= 0 ``[B, K]`` that minimises x'Hx/2 - c'x, for ``H [B, K, K]`` and ``c [B, K]``.

    Members are few, so every support is tried: the minimum is the best of those stationary points
    that are not negative.
    """
    batch, members = linear.shape
    best, argmin = np.zeros(batch), np.zeros((batch, members))
    for size in range(1, members + 1):
        for support in map(list, itertools.combinations(range(members), size)):
            part = hessian[:, support][:, :, support]
            x = np.linalg.solve(part, linear[:, support][..., None])[..., 0]
            value = -(linear[:, support] * x).sum(axis=1) / 2
            better = (x >= 0).all(axis=1) & (value < best)
            best[better] = value[better]
            argmin[better] = 0.0
            argmin[np.ix_(better, support)] = x[better]
    return argmin


def weight_intervals(
    search: WeightSearch,
    logits: Sequence[np.ndarray],
    y: np.ndarray,
    groups: np.ndarray,
    fusion: Fusion,
    temperatures: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Interval, ...]:
    """Return a bootstrap interval of each weight; rows of one id in ``groups [N]`` stay together.

    The other arguments are those that gave ``search``. A convex fit is repeated on each
    resample by one Newton step from the fit on all rows (one-step bootstrap; Schucany and Wang
    1991), a grid by choosing again among its candidates at the T that each has on all rows.

    >>> good, y = np.log([[3.0, 1.0]] * 40), np.arange(40) % 4 // 3
    >>> held = ([good, -good], y, "probabilities", (1.0, 1.0))
    >>> search = search_weights(*held, 0.5)
    >>> weight_intervals(search, *held[:2], np.arange(40), *held[2:])[1].value
    0.0
    """
    rows = _rows(logits, y, fusion, temperatures)
    codes, count = group_codes(groups)
    if search.method == "grid":
        loss = [
            _losses(rows.margin(weights), 1 / temperature)
            for weights, temperature in zip(
                search.candidates, search.candidate_temperature, strict=True
            )
        ]
        again = resample(_by_group(loss, codes, count), resamples, seed).argmin(axis=1)
        weights = search.candidates[again]
    else:
        u = np.array(search.weights) / search.temperature
        scaled = _one_step(rows.terms, u, codes, count, resamples, seed)
        total = scaled.sum(axis=1, keepdims=True)
        # A step to 0 answers alike whatever the members say: their weights may be anything.
        weights = np.divide(scaled, total, out=np.full_like(scaled, np.nan), where=total > 0)
    return tuple(
        _interval(value, weights[:, member], level) for member, value in enumerate(search.weights)
    )


def _interval(value: float, resampled: np.ndarray, level: float) -> Interval:
    """The percentile interval of a weight in 0..1; where it is unknown (NaN), the widest one."""
    low = interval(value, np.nan_to_num(resampled, nan=0.0), level).low
    return Interval(value, low, interval(value, np.nan_to_num(resampled, nan=1.0), level).high)


def _one_step(
    terms: np.ndarray, u: np.ndarray, codes: np.ndarray, count: int, resamples: int, seed: int
) -> np.ndarray:
    """The weights u ``[resamples, K]`` after one Newton step on each resample."""
    members = len(terms)
    probs = _probs(terms, u)
    mean = np.einsum("cn,kcn->kn", probs, terms)
    pairs = itertools.product(range(members), repeat=2)
    covariance = [
        np.einsum("cn,cn,cn->n", probs, terms[k], terms[m]) - mean[k] * mean[m] for k, m in pairs
    ]
    sums = resample(_by_group([*mean, *covariance], codes, count), resamples, seed)
    gradient = sums[:, :members]
    hessian = _ridged(sums[:, members:].reshape(-1, members, members))
    return _nonnegative_minimum(hessian, (hessian @ u) - gradient)


def _by_group(columns: Sequence[np.ndarray], codes: np.ndarray, count: int) -> np.ndarray:
    """Sums of per-row columns ``[N]`` by group, ``[G, len(columns)]``."""
    return np.stack([np.bincount(codes, column, count) for column in columns], axis=1)
