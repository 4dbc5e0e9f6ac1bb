"""The sample's whole run in a fresh artifact root: time, memory, the second run, the students.

python benchmarks/sample_run.py
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FER = [sys.executable, "-W", "ignore", "-c", "from fer_assets.cli import main; main()"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "dagster").mkdir()
        shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home / "dagster")
        environment = {
            **os.environ,
            "FER_HOME": str(home / "outputs"),
            "DAGSTER_HOME": str(home / "dagster"),
            "FER_PROJECT": str(ROOT),
        }
        times = []
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(
                [*FER, "materialize", "-p", "sample"],
                check=True,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        (benchmark,) = (home / "outputs/sample/benchmark").glob("*/benchmark.json")
        entries = json.loads(benchmark.read_text())["entries"]
    print(
        json.dumps(
            {
                "figure": "fer materialize on the sample (drawn faces: synthetic)",
                "target": "under 300 s, under 4 GiB; the second run in seconds",
                "first_run_s": round(times[0], 1),
                "second_run_s": round(times[1], 1),
                "peak_memory_gib": round(peak, 2),
                "test_macro_f1_synthetic": {
                    name: round(sets["test_all_sources"]["raw"]["macro_f1"], 3)
                    for name, sets in entries.items()
                },
                "chance": round(1 / 7, 3),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
