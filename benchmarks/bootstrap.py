"""Intervals of every metric of a whole benchmark matrix, against resampling rows in a loop.

python benchmarks/bootstrap.py [--models 10] [--rows 18000] [--resamples 1000] [--rounds 3]
                               [--json FILE]

Ours: sums by group of each model, then one product for each block of resamples, and intervals of
13 metrics. Plain: for each resample and model the drawn rows' metrics by
``classification_metrics``. Both see the same draws and must agree on every value; the loop is timed
on a few resamples and scaled. Predictions are drawn; groups hold one to three rows.
"""

import argparse
import itertools
import time

import numpy as np

from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.resampling import (
    draws,
    group_codes,
    group_sums,
    metric_intervals,
    metrics_of_sums,
    paired_difference,
    resample,
    resampled_metrics,
)

LOOPED = 3
COMPARED = ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "ece")


def draw(models: int, rows: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, rows)
    truth = 2 * np.eye(7)[y]
    logits = [(truth + rng.normal(size=(rows, 7)) * 1.6).astype(np.float32) for _ in range(models)]
    groups = np.repeat(np.arange(rows), rng.integers(1, 4, rows))[:rows]
    return y, logits, np.char.mod("%032x", groups)


def plain(y: np.ndarray, logits: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Return the metrics ``[LOOPED, models, metrics]`` by resampling rows in a loop."""
    codes, count = group_codes(groups)
    order, edges = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]
    rows_of = np.split(order, edges)
    found = []
    for drawn in itertools.islice(draws(count, LOOPED, seed=0), LOOPED):
        rows = np.concatenate([rows_of[group] for group in drawn])
        metrics = [classification_metrics(y[rows], values[rows]) for values in logits]
        found.append([[entry[name] for name in COMPARED] for entry in metrics])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--rows", type=int, default=18_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    y, logits, groups = draw(given.models, given.rows)
    times: list[tuple[float, float, float, float]] = []
    # Draws are kept for the next call with the same seed: each round has its own.
    for seed in range(given.rounds):
        started = time.perf_counter()
        theirs = plain(y, logits, groups)
        looped = time.perf_counter()
        sums = np.stack([group_sums(y, values, groups) for values in logits])
        summed = time.perf_counter()
        metric_intervals(sums, resamples=given.resamples, seed=seed)
        ended = time.perf_counter()
        both = resampled_metrics(sums, resamples=given.resamples, seed=seed)
        for one, other in itertools.combinations(range(given.models), 2):
            paired_difference(both, one, other)
        paired = time.perf_counter()
        scale = given.resamples / LOOPED
        times.append(((looped - started) * scale, summed - looped, ended - summed, paired - ended))
    ours = metrics_of_sums(resample(sums, LOOPED))
    for index, name in enumerate(COMPARED):
        np.testing.assert_allclose(ours[name].T, theirs[..., index], rtol=1e-9)
    publish(
        Benchmark(
            title="Bootstrap intervals of a benchmark matrix",
            data=f"{given.models} models, {given.rows:,} synthetic rows in {sums.shape[1]:,} "
            f"groups, {given.resamples:,} resamples of groups. The plain loop agrees.",
            figures=(
                Figure.of(
                    "how many times as fast as a plain loop",
                    [loop / (summed + intervals) for loop, summed, intervals, _ in times],
                    over="ours",
                    note=f"The loop is run for {LOOPED} resamples and scaled.",
                ),
                Figure.of("sums and all intervals", [t[1] + t[2] for t in times], "s", at_most=10),
                Figure.of("paired differences of all pairs", [t[3] for t in times], "s"),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
