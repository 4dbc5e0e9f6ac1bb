"""The sample's complete run in a new artifact root: time, memory, and Dagster's share.

python benchmarks/sample_run.py [--trial] [--json FILE]

``fer materialize`` is compared with the same stages and gates called in sequence without Dagster
(``Pipeline.make`` and ``Pipeline.judge``), each in a process and an artifact root of its own. It is
also compared with itself while other programs keep every processor busy. ``--trial`` makes the
manifests only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from validation import pss_bytes

from fer_ml.base.processes import processors
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.storage.store import Store

ROOT = Path(__file__).parent.parent
FER = "from fer_assets.cli import main; main()"
DIRECT = """
from fer_assets.pipeline import Pipeline
pipeline = Pipeline.open("sample")
for target in pipeline.targets():
    if {chosen}:
        pipeline.make(target)
        pipeline.judge(target)
"""


def command(home: Path, code: str, *arguments: str) -> tuple[float, float]:
    """Run a new interpreter; return seconds, and peak memory (GiB) of it and its children."""
    environment = {
        **os.environ,
        "FER_HOME": str(home / "outputs"),
        "DAGSTER_HOME": str(home / "dagster"),
        "FER_PROJECT": str(ROOT),
        "PYTHONPATH": str(ROOT),
    }
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home / "dagster")
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while process.returncode is None:
        peak = max(peak, pss_bytes(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
    if process.returncode:
        raise SystemExit(f"{code.strip().splitlines()[-1]} failed")
    return time.perf_counter() - started, peak / 2**30


@contextmanager
def busy() -> Iterator[None]:
    """Context manager: other programs keep every processor busy inside."""
    spinning = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spinning) for _ in range(processors())]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def stage_seconds(store: Store) -> dict[str, float]:
    """Return the seconds to make each artifact, by asset, as its record states."""
    found: dict[str, float] = {}
    for artifact in store.every():
        record = artifact.record
        name = record.asset.partition("/")[0]
        found[name] = found.get(name, 0.0) + record.seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trial", action="store_true")
    json_option(parser)
    given = parser.parse_args()
    chosen = (
        'pipeline.stage(target.asset).group == "manifests"'
        if given.trial
        else ("pipeline.standard(target)")
    )
    select = ["--select", "manifests"] if given.trial else []
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["materialize", "-p", "sample", *select]
        first, peak = command(Path(folder, "dagster_way"), FER, *arguments)
        again = [command(Path(folder, "dagster_way"), FER, *arguments)[0] for _ in range(3)]
        direct, _ = command(Path(folder, "direct"), DIRECT.format(chosen=chosen))
        with busy():
            beside, _ = command(Path(folder, "beside"), FER, *arguments)
        store = Store(Path(folder, "dagster_way", "outputs", "sample"), "sample")
        held = store.current("benchmark")
        entries = {} if held is None else held.read_json("benchmark.json")["entries"]
        stages = stage_seconds(store)
    figures = [
        Figure(
            name="`fer materialize`",
            measured=first / direct,
            over="its stages and gates without Dagster",
            at_most=1.15,
            note="One process does all of it, so what is imported is imported once.",
        ),
        Figure(name="`fer materialize`, in seconds", measured=first, unit="s", at_most=150),
        Figure(
            name="while other programs keep every processor busy",
            measured=beside / first,
            over="alone",
            at_most=3,
        ),
        Figure(name="its peak memory", measured=peak, unit="GiB", at_most=3),
        Figure.of("the second run, nothing to do", again, "s", at_most=3),
        *(
            Figure(name=f"of it: {name}", measured=seconds, unit="s")
            for name, seconds in sorted(stages.items(), key=lambda item: -item[1])
            if seconds >= 0.02 * first
        ),
        *(
            Figure(
                name=f"macro-F1 of {name} (synthetic faces)",
                measured=sets["test_all_sources"]["raw"]["macro_f1"],
                unit="",
                at_least=2 / 7,
                note="Twice the chance of 1/7: it says that the machinery learns, and no more.",
            )
            for name, sets in entries.items()
            if name == "student_dkd"
        ),
    ]
    publish(
        Benchmark(
            title="The sample, whole",
            data="Drawn (synthetic) faces, seven sources, three teachers, three students.",
            figures=tuple(figures),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
