"""How long the code location takes to load, as a ratio to ``import dagster`` in the same run.

python benchmarks/load_time.py [ROUNDS]
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs ``statement``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True, cwd=ROOT)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    pairs = [
        (seconds("import dagster"), seconds("import fer_assets.definitions"))
        for _ in range(rounds + 1)
    ][1:]  # The first round fills the file cache.
    ratios = [ours / floor for floor, ours in pairs]
    print(
        json.dumps(
            {
                "figure": "loading the code location / import dagster",
                "target": "at most 2",
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_min": round(min(ratios), 3),
                "ratio_max": round(max(ratios), 3),
                "rounds": rounds,
                "import_dagster_s": round(statistics.median(p[0] for p in pairs), 3),
                "load_s": round(statistics.median(p[1] for p in pairs), 3),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
