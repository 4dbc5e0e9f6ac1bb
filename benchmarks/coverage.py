"""Simulation: how often confidence intervals over runs and faces contain the true difference.

python benchmarks/coverage.py [--repeats 2000] [--docs FILE]

Two equally good methods are trained several times each and measured on the same faces, repeatedly;
the true difference of every metric is zero. Faces come in groups of near copies. Some are harder
than others, and some suit one method better. Runs of one method differ in bias, in sharpness, and
face by face. ``--docs`` writes the section ``coverage`` of that page.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_ml.figures.measurements import write_part
from fer_ml.metrics.resampling import group_sums, resampled_metrics
from fer_ml.metrics.runs import over_runs

METRICS = ("accuracy", "macro_f1", "nll", "ece")
RUNS = (3, 5, 10)
RESAMPLES = 150
#: Shares of the classes about as FER+ has them, its rare ones less so.
SHARES = (0.12, 0.05, 0.08, 0.27, 0.13, 0.12, 0.23)


@dataclass(frozen=True)
class World:
    """Simulation parameters: the number of groups of faces, and the spreads between runs."""

    groups: int = 400
    spread: float = 0.12

    def measured(self, rng: np.random.Generator, runs: int) -> np.ndarray:
        """Return sums ``[2 runs, G, COLUMNS]`` of ``runs`` trainings of two equal methods."""
        group = np.repeat(np.arange(self.groups), rng.choice((1, 1, 1, 2, 3), self.groups))
        y, rows = rng.choice(7, self.groups, p=SHARES)[group], len(group)
        easy = rng.normal(2.0, 1.2, self.groups)[group] + rng.normal(0, 0.3, rows)
        faces = rng.normal(size=(self.groups, 7))[group] + 0.3 * rng.normal(size=(rows, 7))
        found = []
        for _ in range(2):
            suits = 0.8 * rng.normal(size=(self.groups, 7))[group]
            for _ in range(runs):
                logits = faces + suits + 0.8 * rng.normal(size=(rows, 7))
                logits[np.arange(rows), y] += easy + self.spread * rng.normal()
                logits += self.spread * rng.normal(size=7)
                found.append(group_sums(y, logits * np.exp(0.1 * rng.normal()), group))
        return np.stack(found)


def covered(world: World, runs: int, repeats: int, seed: int) -> Iterator[dict[str, bool]]:
    """Yield, per repeat, whether each metric's 95% interval of the difference includes zero."""
    rng = np.random.default_rng([seed, runs])
    for repeat in range(repeats):
        models = resampled_metrics(world.measured(rng, runs), resamples=RESAMPLES, seed=repeat)
        found = over_runs(models, range(runs), range(runs, 2 * runs))
        yield {name: found[name].low <= 0 <= found[name].high for name in METRICS}


def shares(world: World, runs: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Return the share of repeats, by metric, in which the interval contains the truth (zero)."""
    held = list(covered(world, runs, repeats, seed))
    return {name: sum(each[name] for each in held) / repeats for name in METRICS}


def page(repeats: int) -> str:
    """Return the section of ``docs/evaluation.md`` about coverage."""
    lines = [
        f"Written by `python benchmarks/coverage.py --repeats {repeats} --docs "
        "docs/evaluation.md`:",
        "two equally good methods, trained several times and measured on the same simulated faces.",
        "The table gives the share of repeats whose 95% interval contains the true difference,",
        "which is zero. *Spread* is that of the runs, in logits; *sd* is that of their macro-F1.",
        "",
        "| groups | spread | sd | runs of each | accuracy | macro-F1 | NLL | ECE |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for world in (World(spread=0.05), World(), World(spread=0.3), World(groups=150)):
        sums = world.measured(np.random.default_rng(0), 40)[:40]
        deviation = resampled_metrics(sums, resamples=2).value["macro_f1"].std(ddof=1)
        for runs in RUNS:
            found = shares(world, runs, repeats)
            cells = " | ".join(f"{found[name]:.3f}" for name in METRICS)
            about = f"{world.groups} | {world.spread} | {deviation:.3f} | {runs}"
            lines.append(f"| {about} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    text = page(given.repeats)
    if given.docs:
        write_part(given.docs, "coverage", text)


if __name__ == "__main__":
    main()
