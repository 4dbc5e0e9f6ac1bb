"""Time of verifying 1,000 claims over 100 artifacts, and of tracing one, as whole commands.

python benchmarks/claims.py [--rounds 5] [--megabytes 1] [--json FILE]

The artifacts are synthetic: ten layers of ten, each made from three of the layer below, and the
lowest from raw folders. Each has a JSON file, a csv and some megabytes of weights. The time of a
command stands beside the time in which Python starts and the time of hashing the same files in a
plain loop.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from fer_ml.base.reading import sha256_file
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.sources.raw import fingerprint
from fer_ml.storage.record import Input
from fer_ml.storage.store import Store

LAYERS, WIDTH, CLAIMS = 10, 10, 1000
COMMAND = "from fer_assets.cli import main; main()"


def make_store(folder: Path, megabytes: float) -> Store:
    """Make the artifacts ``step_<layer>_<place>``, with a raw folder below each of the lowest."""
    store, draw = Store(folder / "made", "made"), random.Random(0)
    below: list[Input] = []
    for place in range(WIDTH):
        root = folder / "raw" / str(place)
        root.mkdir(parents=True)
        for image in range(100):
            (root / f"{image}.png").write_bytes(draw.randbytes(100))
        below.append(Input(asset=f"raw/{place}", sha256=fingerprint(root), root=str(root)))
    for layer in range(LAYERS):
        made = []
        for place in range(WIDTH):
            name = f"step_{layer}_{place}"
            inputs = [below[(place + i) % WIDTH] for i in range(3)]
            with store.begin(name, inputs=inputs, run_id="r") as run:
                values = {str(i): draw.randrange(1000) / 1000 for i in range(CLAIMS // 10)}
                run.write_json("metrics.json", {"n": 1000, "split": "test", "values": values})
                rows = "".join(f"{i},{value}\n" for i, value in values.items())
                run.write_text("table.csv", f"row,value\n{rows}")
                run.path("best.pt").write_bytes(draw.randbytes(int(megabytes * 2**20)))
            artifact = store.current(name)
            assert artifact is not None
            made.append(artifact.as_input())
        below = made
    return store


def write_claims(store: Store, path: Path) -> None:
    """Write ten claims about each artifact: numbers, shares, and a mean of the csv."""
    claims = []
    for number in range(CLAIMS):
        layer, place = divmod(number % (LAYERS * WIDTH), WIDTH)
        claim = {
            "id": f"claim-{number}",
            "kind": ("number", "proportion", "number")[number % 3],
            "sentence": "The value made up is {value}.",
            "asset": f"step_{layer}_{place}",
            "file": ("metrics.json", "metrics.json", "table.csv")[number % 3],
        }
        if number % 3 == 2:
            claim |= {"take": "mean", "column": "value", "decimals": 3}
        else:
            claim |= {"pointer": f"/values/{number % 100}", "decimals": 3}
        if number % 3 == 1:
            claim["n"] = "/n"
        claims.append(claim)
    path.write_text(
        yaml.safe_dump({"version": 2, "title": "Made up", "claims": claims}), encoding="utf-8"
    )


def fer(folder: Path, *arguments: str) -> Callable[[], object]:
    """Return a function that runs one whole ``fer`` command in a project of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FER_")}
    environment |= {"FER_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parent.parent)}

    def run() -> object:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            capture_output=True,
            text=True,
            cwd=folder / "project",
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr or done.stdout)
        return done.stdout

    return run


def make_project(folder: Path, claims: Path) -> None:
    """Make a project whose profile has these claims, for ``fer trace``."""
    (folder / "project" / "dagster_home").mkdir(parents=True)
    (folder / "project" / "claims").mkdir()
    (folder / "project" / "workspace.yaml").touch()
    (folder / "project" / "fer.toml").write_text(
        'profile = "made"\n[profiles.made]\nbase = "ferplus"\n'
        + "[roots]\n"
        + "".join(f'"{p}" = "{folder / "raw" / str(p)}"\n' for p in range(WIDTH))
        + "[[profiles.made.sources]]\n".join(
            ["", *(f'name = "{p}"\nadapter = "class_folders"\n' for p in range(WIDTH))]
        )
        + "[profiles.made.hq_train]\nsources = ['0']\n[profiles.made.eval_only]\nsources = ['0']\n"
        + "[profiles.made.test_all_sources]\nsources = ['0']\n"
    )
    (folder / "project" / "claims" / "made.yaml").write_text(claims.read_text(encoding="utf-8"))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall time (s) of one call, and processor time (s) of it and its children."""
    wall, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=1.0)
    json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store, claims = make_store(folder, given.megabytes), folder / "claims.yaml"
        write_claims(store, claims)
        make_project(folder, claims)
        verify = fer(folder, "claims", "verify", str(store.root), "--claims", str(claims), "--json")
        told = json.loads(str(verify()))
        if told["counts"]["grounded"] != CLAIMS or len(told["lineage"]) != (LAYERS + 1) * WIDTH:
            raise SystemExit(told["counts"])
        files = [path for path in store.root.rglob("*") if path.is_file()]
        top = f"claim-{LAYERS * WIDTH - 10}"
        ways: dict[str, Callable[[], object]] = {
            f"fer claims verify, {CLAIMS:,} claims": verify,
            "fer trace CLAIM": fer(folder, "trace", top, "--json"),
            "fer trace CLAIM --html": fer(folder, "trace", top, "--html", str(folder / "t.html")),
            "fer --help": fer(folder, "--help"),
            "hash all files": lambda: [sha256_file(path) for path in files],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, work in ways.items():
                found[name].append(seconds(work))
        size = sum(path.stat().st_size for path in files) / 2**20
    hashed, start = (
        [wall for wall, _ in found.pop(name)] for name in ("hash all files", "fer --help")
    )
    limits = {"fer trace CLAIM": 1.0, f"fer claims verify, {CLAIMS:,} claims": 3.0}
    figures = [
        Figure.of(f"`{name}`", [wall for wall, _ in times], "s", at_most=limits.get(name))
        for name, times in found.items()
    ]
    publish(
        Benchmark(
            title="Claims",
            data=f"Made-up claims over {LAYERS * WIDTH} artifacts in ten layers: {len(files):,} "
            f"files, {size:.0f} MiB; whole commands, the start of Python included.",
            figures=(
                *figures,
                Figure.of("`fer --help`, the start alone", start, "s"),
                Figure.of("hashing the same files in a bare loop", hashed, "s"),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
