"""``fer bench``: measure every performance figure that this project claims, in one run.

Each benchmark is a script in ``benchmarks/`` and runs in a process of its own, so that none
inherits memory or threads of another. Their figures become one artifact, from which the docs page
is written.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fer_ml.base.errors import FerError
from fer_ml.base.processes import on_linux
from fer_ml.base.reading import read_file, read_text
from fer_ml.figures.measurements import Benchmark, Measurements, Run, machine, page, write_part
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

FOLDER = "benchmarks"
ASSET = "measurements"
PAGE = "performance.md"


@dataclass(frozen=True)
class Script:
    """One benchmark script: its arguments, those of a short trial, and the folders that it needs.

    ``places`` maps an option to the name of a folder. If an optional folder is missing, the script
    generates its data; if a required one is missing, the script is skipped.
    """

    name: str
    arguments: tuple[str, ...] = ()
    trial: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()


SUITE = (
    Script("load_time.py", trial=("--rounds", "1")),
    Script("sample_run.py", trial=("--trial",)),
    Script("clicks.py", trial=("--rounds", "1")),
    Script("validation.py", trial=("--rows", "2000", "--rounds", "1"), places={"--data": "faces"}),
    Script(
        "near_duplicates.py",
        arguments=("--rows", "36000", "155428", "466284", "--rounds", "1"),
        trial=("--rows", "2000", "--rounds", "1"),
        places={"--data": "faces"},
    ),
    Script(
        "peers.py",
        arguments=("--rows", "4000", "--rounds", "2"),
        trial=("--rows", "400", "--rounds", "1"),
        places={"--data": "faces"},
    ),
    Script("unify.py", trial=("--scale", "0.01", "--rounds", "1")),
    Script("growth.py", trial=("--rows", "2000", "20000")),
    Script("training.py", trial=("--size", "64", "--rows", "16", "--rounds", "1")),
    Script(
        "labelling.py",
        arguments=("--rows", "1024"),
        trial=("--rows", "256", "--views", "1", "--rounds", "1"),
    ),
    Script("fusion.py", trial=("--rows", "2000", "--rounds", "1")),
    Script("bootstrap.py", trial=("--models", "2", "--rows", "500", "--resamples", "100")),
    Script("claims.py", trial=("--rounds", "1", "--megabytes", "0.01")),
    Script("evidence.py", trial=("--rows", "500", "--large", "5000", "--rounds", "1")),
    Script("storage.py", trial=("--rounds", "1")),
    Script(
        "ray_engine.py",
        arguments=("--rounds", "2"),
        trial=("--rows", "400", "--rounds", "1"),
        places={"--data": "faces"},
    ),
    Script(
        "demo.py",
        trial=("--frames", "40", "--rounds", "1"),
        places={"--clips": "clips"},
        needed=("clips",),
    ),
    Script(
        "demo_web.py",
        arguments=("--minutes", "1.5"),
        trial=("--minutes", "0.15"),
        places={"--clips": "clips"},
        needed=("clips",),
    ),
)


def scripts(names: Sequence[str]) -> tuple[Script, ...]:
    """Return the scripts with these names (without ``.py``), or all; ``FerError`` if unknown."""
    known = {script.name.removesuffix(".py"): script for script in SUITE}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FerError(
            f"unknown benchmark {', '.join(unknown)}",
            code="unknown-benchmark",
            allowed=", ".join(known),
        )
    return tuple(known[name] for name in names or known)


def measure(
    project: Path,
    chosen: Sequence[Script],
    places: dict[str, Path],
    *,
    trial: bool,
    tell: Callable[[str], None],
) -> Measurements:
    """Run the scripts one after the other; the output of one that fails is told, and others run."""
    folder = project / FOLDER
    if not folder.is_dir():
        raise FerError(
            "the folder of the benchmarks is missing: it is in the checkout, not in the package",
            code="missing-benchmarks",
            where=folder,
            fix="clone the project and run fer bench inside it",
        )
    if not on_linux():
        raise FerError(
            "the benchmarks read memory from /proc", code="unsupported-system", allowed="Linux"
        )
    facts = machine()
    return Measurements(
        machine=facts,
        runs=tuple(_run(folder, script, places, trial=trial, tell=tell) for script in chosen),
    )


def _run(
    folder: Path,
    script: Script,
    places: dict[str, Path],
    *,
    trial: bool,
    tell: Callable[[str], None],
) -> Run:
    arguments = list(script.trial if trial else script.arguments)
    shown = " ".join(["python", f"{FOLDER}/{script.name}", *arguments])
    absent = [name for name in script.needed if name not in places]
    if absent:
        tell(f"skip  {script.name}: needs --{' and --'.join(absent)}")
        needs = " and ".join(f"`--{name}`" for name in absent)
        return Run(command=shown, seconds=0.0, benchmark=None, skipped=f"it needs {needs}")
    for option, name in script.places.items():
        if name in places:
            arguments += [option, str(places[name])]
            shown += f" {option} {name.upper()}"
    tell(f"run   {shown}")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "figures.json"
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(folder / script.name), *arguments, "--json", out],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(folder.parent)},
        )
        seconds = time.monotonic() - started
        if done.returncode != 0 or not out.is_file():
            for line in (done.stderr or done.stdout).strip().splitlines()[-15:]:
                tell(f"      {line}")
            tell(f"FAIL  {script.name}")
            return Run(
                command=shown, seconds=seconds, benchmark=None, skipped="it failed", failed=True
            )
        benchmark = Benchmark.model_validate_json(read_file(out))
    for figure in benchmark.figures:
        verdict = {True: "reached", False: "MISSED", None: ""}[figure.met]
        tell(f"      {figure.name}: {figure.measured:.4g} {figure.unit} {verdict}".rstrip())
    return Run(command=shown, seconds=seconds, benchmark=benchmark)


def keep(measured: Measurements, home: Path) -> Artifact:
    """Write the figures and their page as a hashed artifact into ``home``, and return it."""
    store = Store(home / FOLDER, FOLDER)
    with store.begin(ASSET) as run:
        run.write_json("measurements.json", measured.model_dump())
        run.write_text(PAGE, page(measured))
    artifact = store.current(ASSET)
    assert artifact is not None
    return artifact


def publish(artifact: Artifact, file: Path) -> None:
    """Write the figures of ``artifact`` into the section ``bench`` of the page ``file``."""
    write_part(file, "bench", read_text(artifact.file(PAGE)))
