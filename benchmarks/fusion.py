"""Time of fusing three teachers and searching their weights on logits, against a plain loop.

python benchmarks/fusion.py [--rows 48928] [--step 0.1] [--rounds 3] [--json FILE]

Ours: the grid, the convex fit, the fused logits, and (timed separately) a bootstrap interval of
each weight from 1,000 resamples. Plain: for every weight vector of the grid, fuse the logits and
minimise the NLL over 1/T with scipy's bounded search; no fit and no interval. Both must find the
same NLL and T for every candidate. Logits are random, in float32 as they are read.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar

from fer_ml.distillation.fusion import Fusion, fuse, search_weights, simplex, weight_intervals
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.metrics.calibration import T_BOUNDS, fit_temperature, nll

#: Skill and sharpness of the members: noise on the true class's logit, and a factor.
MEMBERS = ((1.6, 8.0), (1.8, 1.0), (2.2, 3.0))
FUSIONS: tuple[Fusion, ...] = ("logits", "probabilities", "calibrated")


def draw(rows: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, rows)
    truth = 2 * np.eye(7)[y]
    logits = [
        ((truth + rng.normal(size=(rows, 7)) * noise) * scale).astype(np.float32)
        for noise, scale in MEMBERS
    ]
    return logits, y, np.arange(rows) // 2


def plain(
    logits: list[np.ndarray],
    y: np.ndarray,
    fusion: Fusion,
    temperatures: list[float],
    grid: list[tuple[float, ...]],
) -> list[tuple[float, float]]:
    found = []
    for weights in grid:
        fused = fuse(logits, weights, fusion, temperatures)
        result = minimize_scalar(
            lambda beta, fused=fused: nll(fused, y, 1 / beta),
            bounds=(1 / T_BOUNDS[1], 1 / T_BOUNDS[0]),
            method="bounded",
            options={"xatol": 1e-6},
        )
        found.append((float(result.fun), float(1 / result.x)))
    return found


def measure(fusion: Fusion, rows: int, step: float, rounds: int) -> Iterator[Figure]:
    logits, y, groups = draw(rows)
    temperatures = [fit_temperature(values, y) for values in logits]
    grid = simplex(len(logits), step)
    # The loop is slow: a few candidates stand for all.
    some = grid[:: max(1, len(grid) // 6)]
    times: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        started = time.perf_counter()
        theirs = plain(logits, y, fusion, temperatures, some)
        looped = time.perf_counter()
        search = search_weights(logits, y, fusion, temperatures, step)
        fuse(logits, search.weights, fusion, temperatures)
        searched = time.perf_counter()
        weight_intervals(search, logits, y, groups, fusion, temperatures)
        ended = time.perf_counter()
        scale = len(grid) / len(some)
        times.append(((looped - started) * scale, searched - looped, ended - searched))
    for weights, (loss, temperature) in zip(some, theirs, strict=True):
        index = grid.index(weights)
        np.testing.assert_allclose(search.candidate_nll[index], loss, rtol=1e-6)
        np.testing.assert_allclose(search.candidate_temperature[index], temperature, rtol=1e-2)
    name = f"{fusion} ({search.method})"
    yield Figure.of(
        f"{name}: how many times as fast as a plain loop",
        [theirs / ours for theirs, ours, _ in times],
        over="ours",
    )
    yield Figure.of(f"{name}: fusion and the whole search", [t[1] for t in times], "s", at_most=2)
    yield Figure.of(f"{name}: intervals of the weights", [t[2] for t in times], "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=48_928)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    publish(
        Benchmark(
            title="Fusion and the search for its weights",
            data=f"Synthetic logits of {len(MEMBERS)} teachers for {given.rows:,} rows, "
            f"{len(simplex(len(MEMBERS), given.step))} candidates. The plain loop runs some of "
            "them and is scaled.",
            figures=tuple(
                figure
                for fusion in FUSIONS
                for figure in measure(fusion, given.rows, given.step, given.rounds)
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
