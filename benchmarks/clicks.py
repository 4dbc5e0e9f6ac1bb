"""Time of a click in the UI beside the command that makes the same artifacts.

python benchmarks/clicks.py [--rounds N] [--json FILE]

``fer ui`` runs on the sample, whose images exist already. Each round makes all manifests with their
gates in an empty artifact root, and then one of them again: by the command, from its start to its
end, and by a click, from the button's request until the run has ended.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.sample import ensure_sample
from tests.ui_server import Served, serving

ROOT = Path(__file__).parent.parent
FER = [sys.executable, "-W", "ignore", "-c", "from fer_assets.cli import main; main()"]
ASSET, SEED = "eval_only_manifest", 1337
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { id } } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def environment(home: Path) -> dict[str, str]:
    """Return environment variables for an artifact root and a Dagster folder in ``home``."""
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home / "dagster")
    return {
        "FER_HOME": str(home / "outputs"),
        "DAGSTER_HOME": str(home / "dagster"),
        "FER_PROJECT": str(ROOT),
        "PYTHONPATH": str(ROOT),
    }


def emptied(home: Path, drawn: Path) -> None:
    """Reset ``home`` to an artifact root with the sample's images and no artifacts."""
    shutil.rmtree(home / "outputs", ignore_errors=True)
    shutil.copytree(drawn, home / "outputs" / "sample" / "drawn")


def by_command(home: Path, *arguments: str) -> float:
    """Run ``fer materialize`` and return its time in s."""
    started = time.perf_counter()
    command = [*FER, "materialize", "-p", "sample", *arguments]
    settings = {**os.environ, **environment(home)}
    subprocess.run(command, env=settings, capture_output=True, check=True)
    return time.perf_counter() - started


def by_click(served: Served, job: str, **selector: Any) -> float:
    """Return the seconds from a button's request until its run has ended."""
    place = {"repositoryName": "sample", "repositoryLocationName": "fer"}
    asked = {"selector": {**place, "jobName": job, **selector}, "mode": "default"}
    started = time.perf_counter()
    told = served.ask(LAUNCH, p=asked)["launchRun"]
    if told["__typename"] != "LaunchRunSuccess":
        raise SystemExit(f"no run of {job}: {told['__typename']}")
    while (status := served.ask(STATUS, id=told["run"]["id"])["runOrError"]["status"]) != "SUCCESS":
        if status in ("FAILURE", "CANCELED"):
            raise SystemExit(f"the run of {job} ended as {status}")
        time.sleep(0.1)
    return time.perf_counter() - started


def measured(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    """Yield the name of each measurement and its seconds, round by round."""
    drawn = ensure_sample(folder / "drawn", SEED)
    homes = {way: folder / way for way in ("command", "click")}
    os.environ |= environment(homes["click"])
    emptied(homes["click"], drawn)
    with serving(folder / "ui.log", "-p", "sample") as served:
        for _ in range(rounds):
            for home in homes.values():
                emptied(home, drawn)
            yield "data, command", by_command(homes["command"], "--select", "manifests")
            yield "data, click", by_click(served, "data")
            one = ["--select", ASSET, "--force"]
            yield "one, command", by_command(homes["command"], *one)
            yield (
                "one, click",
                by_click(served, "data", assetSelection=[{"path": ["sample", ASSET]}]),
            )


def main() -> None:
    """Run the benchmark; print the figures, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in measured(Path(folder), given.rounds):
            found.setdefault(name, []).append(seconds)

    def figures(key: str, name: str) -> tuple[Figure, ...]:
        click, command = found[f"{key}, click"], found[f"{key}, command"]
        ratios = [a / b for a, b in zip(click, command, strict=True)]
        return (
            Figure.of(name, ratios, over="`fer materialize` of the same", at_most=1.5),
            Figure.of(f"{name}, in seconds", click, "s"),
        )

    publish(
        Benchmark(
            title="A click beside the command",
            data="The sample's manifests (synthetic faces, drawn before), in an empty root.",
            figures=(
                *figures("data", "the job `data`: 13 assets and their gates"),
                *figures("one", f"`{ASSET}` again"),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
