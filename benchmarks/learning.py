"""Does the sample learn on any machine, with any seed? Trains it over a grid of both.

python benchmarks/learning.py FOLDER [--few | --held] [--docs FILE] [--json FILE]

A point of the grid is a seed and a machine. The seed decides the synthetic faces, the splits and
the initial weights. The machine is this one as it is, or limited by the environment to another
instruction set or number of threads. Each point runs ``fer materialize`` up to the benchmark.
FOLDER stores each point's result, so an interrupted grid can be continued. ``--few`` runs three
points, for CI; ``--held`` trains nothing and uses the points in FOLDER.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ml.base.files import write_json
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish, write_part
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import STUDENTS
from fer_ml.storage.store import Store

ROOT = Path(__file__).parent.parent
FER = "from fer_assets.cli import main; main()"
SELECT = "manifests,teacher,teacher_logits,ensemble,softlabels,students,benchmark"
#: The machine as it is, then others that the environment makes of it.
MACHINES: dict[str, dict[str, str]] = {
    "as it is": {},
    "torch default": {"ATEN_CPU_CAPABILITY": "default"},
    "torch avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN AVX512_CORE": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4"},
}
SEEDS, OTHER_SEEDS = range(101, 121), range(101, 104)
FEW = (("as it is", 101), ("torch avx2", 102), ("oneDNN AVX2", 103))
TRAININGS = ("teacher_RN18", "teacher_B3", "teacher_CNXT", *(f"student_{s}" for s in STUDENTS))
MODELS = (*TRAININGS[:3], "ensemble", *TRAININGS[3:])
VAL, TEST = "hq_train_val", "test_all_sources"
INTRODUCTION = """\
Written by `python benchmarks/learning.py FOLDER --docs docs/performance.md`. A seed decides the
faces, the splits and the first weights. The machines are one processor that the environment
limits to other instruction sets and numbers of threads.
"""


@dataclass(frozen=True)
class Point:
    """A machine, a seed, and macro-F1 of every model on val and on the mixed test set."""

    machine: str
    seed: int
    scores: dict[str, dict[str, float]]

    @property
    def lowest(self) -> float:
        """Lowest val macro-F1 of the point's trainings."""
        return min(self.scores[name][VAL] for name in TRAININGS)

    @property
    def ensemble_gain(self) -> float:
        """The ensemble's macro-F1 on the mixed test set minus that of its best member."""
        return self.scores["ensemble"][TEST] - max(self.scores[n][TEST] for n in TRAININGS[:3])

    def gain(self, student: str) -> float:
        """Return a distilled student's macro-F1 on the mixed test set minus that of CE."""
        return self.scores[f"student_{student}"][TEST] - self.scores["student_ce"][TEST]


def grid() -> list[tuple[str, int]]:
    """Return all points: twenty seeds on the machine as it is, three on each other machine."""
    return [
        (machine, seed)
        for machine, changes in MACHINES.items()
        for seed in (OTHER_SEEDS if changes else SEEDS)
    ]


def measured(machine: str, seed: int, folder: Path) -> Point:
    """Train one point, unless ``folder`` contains its result."""
    file = kept(folder, machine, seed)
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as project:
            write_json(file, train(Path(project), MACHINES[machine], seed))
    return Point(machine, seed, json.loads(file.read_text(encoding="utf-8")))


def kept(folder: Path, machine: str, seed: int) -> Path:
    """Return the path of a point's result in ``folder``."""
    return folder / f"{machine.replace(' ', '_')}-{seed}.json"


def train(project: Path, environment: dict[str, str], seed: int) -> dict[str, Any]:
    """Run ``fer materialize`` up to the benchmark in a new project; return the models' scores."""
    shutil.copy(ROOT / "workspace.yaml", project)
    shutil.copytree(ROOT / "dagster_home", project / "dagster_home")
    name = f"seed_{seed}"
    config = f'[profiles.{name}]\nbase = "sample"\nseed = {seed}\n'
    (project / "fer.toml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FER, "materialize", "-p", name, "--select", SELECT],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))},
            **environment,
            "FER_PROJECT": str(project),
            "DAGSTER_HOME": str(project / "dagster_home"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    held = Store(project / "outputs" / name, name).current("benchmark")
    if done.returncode or held is None:
        raise SystemExit(f"seed {seed}, {environment}: failed\n{done.stdout}\n{done.stderr}")
    entries = held.read_json("benchmark.json")["entries"]
    return {
        model: {part: entries[model][part]["raw"]["macro_f1"] for part in (VAL, TEST)}
        for model in MODELS
    }


def figures(points: list[Point]) -> list[Figure]:
    """Return the figures that the grid has to show."""
    wanted = 2 * sample().floor_macro_f1
    own = [point for point in points if point.machine == "as it is"]
    many = len(own) == len(SEEDS)
    found = [
        Figure(
            name="points in which every training has twice the floor",
            measured=sum(point.lowest >= wanted for point in points) / len(points),
            unit="share",
            at_least=1.0,
            rounds=len(points),
            note=f"macro-F1 of at least {wanted:.3f} on val.",
        ),
        Figure.of("the weakest training's val macro-F1", [p.lowest for p in points], ""),
    ]
    gains = {
        "the ensemble is above its best member": [p.ensemble_gain for p in own],
        **{f"{name.upper()} is above CE": [p.gain(name) for p in own] for name in STUDENTS[1:]},
    }
    for name, values in gains.items() if own else ():
        found += [
            Figure(
                name=f"seeds in which {name}",
                measured=sum(value > 0 for value in values),
                unit=f"of {len(values)}",
                at_least=18 if many else None,
                note="macro-F1 on the mixed test set.",
            ),
            Figure.of(f"by how much {name}", values, ""),
        ]
    return found


def page(points: list[Point]) -> str:
    """Return the section of ``docs/performance.md`` about learning: every point of the grid."""
    rows = [
        f"| {p.machine} | {p.seed} | "
        + " | ".join(f"{p.scores[name][VAL]:.3f}" for name in TRAININGS)
        + " | "
        + " | ".join(f"{p.scores[name][TEST]:.3f}" for name in MODELS)
        + " |"
        for p in points
    ]
    heads = [name.removeprefix("teacher_").removeprefix("student_") for name in TRAININGS]
    tests = [name.removeprefix("teacher_").removeprefix("student_") for name in MODELS]
    summary = [
        f"| {f.name} | {f.measured:.4g} {f.unit}".rstrip()
        + f" | {'' if f.low is None else f'{f.low:.3f} to {f.high:.3f}'} | "
        + f"{'' if f.at_least is None else f'at least {f.at_least:.4g}'} |"
        for f in figures(points)
    ]
    heads_of = [*(f"{head}, val" for head in heads), *(f"{head}, test" for head in tests)]
    counts = f"{len(points)} of the {len(grid())} points of the grid are measured."
    return "\n".join(
        [
            INTRODUCTION,
            counts,
            "",
            "| what | measured (median) | range | target |",
            "| --- | ---: | --- | --- |",
            *summary,
            "",
            "Macro-F1 of each training on val, and of each model on the mixed test set:",
            "",
            f"| machine | seed | {' | '.join(heads_of)} |",
            "| --- | ---: |" + " ---: |" * len(heads_of),
            *rows,
            "",
        ]
    )


def run(chosen: Iterable[tuple[str, int]], folder: Path) -> list[Point]:
    """Measure the points one after the other, and print each."""
    points = []
    for machine, seed in chosen:
        points.append(measured(machine, seed, folder))
        last = points[-1]
        print(
            f"{machine}, seed {seed}: weakest {last.lowest:.3f}, ensemble {last.ensemble_gain:+.3f}"
            + "".join(f", {name} {last.gain(name):+.3f}" for name in STUDENTS[1:]),
            flush=True,
        )
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--few", action="store_true")
    some.add_argument("--held", action="store_true")
    parser.add_argument("--docs", type=Path, help="write the part `learning` of that page")
    json_option(parser)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    chosen = FEW if given.few else grid()
    if given.held:
        chosen = [point for point in chosen if kept(given.folder, *point).is_file()]
    points = run(chosen, given.folder)
    if given.docs is not None:
        write_part(given.docs, "learning", page(points))
    found = figures(points)
    publish(
        Benchmark(
            title="The sample's trainings on other machines",
            data=f"{len(points)} points: drawn (synthetic) faces, a seed and a machine each.",
            figures=tuple(found),
        ),
        given.json,
    )
    if not all(figure.met for figure in found if figure.met is not None):
        raise SystemExit("a target is missed")


if __name__ == "__main__":
    main()
