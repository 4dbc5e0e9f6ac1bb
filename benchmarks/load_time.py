"""How long the code location and the command take to load, as ratios to floors of the same run.

python benchmarks/load_time.py [--rounds 7] [--json FILE]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish

ROOT = Path(__file__).parent.parent
HELP = "import sys; sys.argv = ['fer', '--help']; from fer_assets.cli import main; main()"


def seconds(statement: str) -> float:
    """Return the wall time (s) of a new interpreter that runs ``statement``."""
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", statement]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    json_option(parser)
    given = parser.parse_args()
    statements = ("import dagster", "from fer_assets.definitions import sample", "pass", HELP)
    # The first round fills the file cache.
    rounds = [tuple(map(seconds, statements)) for _ in range(given.rounds + 1)][1:]
    publish(
        Benchmark(
            title="Loading",
            data="A fresh interpreter each time.",
            figures=(
                Figure.of(
                    "loading the code location",
                    [ours / floor for floor, ours, _, _ in rounds],
                    over="`import dagster`",
                    at_most=2,
                ),
                Figure.of("loading the code location, in seconds", [r[1] for r in rounds], "s"),
                Figure.of(
                    "`fer --help`",
                    [ours / floor for _, _, floor, ours in rounds],
                    over="`python -c pass`",
                ),
                Figure.of("`fer --help`, in seconds", [r[3] for r in rounds], "s", at_most=0.4),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
