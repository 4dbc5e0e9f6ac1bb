"""How long the code location takes to load, as a ratio to ``import dagster`` in the same run.

python benchmarks/load_time.py [--rounds 7] [--json FILE]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from fer_ml.measured import Benchmark, Figure, json_option, publish

ROOT = Path(__file__).parent.parent


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs ``statement``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True, cwd=ROOT)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    json_option(parser)
    given = parser.parse_args()
    pairs = [
        (seconds("import dagster"), seconds("import fer_assets.definitions"))
        for _ in range(given.rounds + 1)
    ][1:]  # The first round fills the file cache.
    publish(
        Benchmark(
            title="Loading",
            data="A fresh interpreter each time.",
            figures=(
                Figure.of(
                    "loading the code location",
                    [ours / floor for floor, ours in pairs],
                    over="`import dagster`",
                    at_most=2,
                ),
                Figure.of("loading the code location, in seconds", [p[1] for p in pairs], "s"),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
