"""Measured speed, memory and growth: the files that benchmarks write, and the page made of them.

Wherever possible a figure is a ratio to a floor or a peer of the same run: seconds depend on the
machine, ratios hardly do.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic, write_json
from fer_ml.base.plain import Plain
from fer_ml.base.processes import processor_name, total_memory
from fer_ml.base.reading import read_text

TIMES = "times"
#: What the figures depend on besides the project's own code.
_LIBRARIES = ("dagster", "torch", "timm", "numpy", "polars", "opencv-python", "onnxruntime")


class Figure(Plain):
    """One figure: ``measured`` in ``unit``, the median of ``rounds`` that lie in ``low..high``.

    With the unit ``times`` it is a ratio to ``over``. ``at_most`` or ``at_least`` is the target.
    ``note`` states what a reader needs to judge it, and why a target is missed.
    """

    name: str
    measured: float
    unit: str = TIMES
    over: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    note: str = ""

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str = TIMES, **more: Any) -> "Figure":
        """Return the figure with the median and range of the rounds' ``values``."""
        return cls(
            name=name,
            measured=statistics.median(values),
            unit=unit,
            low=min(values),
            high=max(values),
            rounds=len(values),
            **more,
        )

    @property
    def met(self) -> bool | None:
        """Return whether the target is reached; ``None`` without one."""
        if self.at_most is not None:
            return self.measured <= self.at_most
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None


class Benchmark(Plain):
    """The figures of one script, and the ``data`` on which they were measured."""

    title: str
    data: str
    figures: tuple[Figure, ...]


class Run(Plain):
    """One script of a suite: the command, its seconds, and its figures or why there are none."""

    command: str
    seconds: float
    benchmark: Benchmark | None
    skipped: str = ""
    failed: bool = False


class Measurements(Plain):
    """The results of a whole suite on one machine."""

    schema_version: int = 1
    machine: dict[str, str]
    runs: tuple[Run, ...]


def machine() -> dict[str, str]:
    """Return the machine, its load and the versions, for the head of a table."""
    memory, load = total_memory(), getattr(os, "getloadavg", None)
    return {
        "processor": f"{processor_name()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB" if memory else "unknown",
        "load before": f"{load()[0]:.1f}" if load else "unknown",
        "threads": os.environ.get("OMP_NUM_THREADS") or "as the libraries choose",
        "Python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of every script for the file of its ``Benchmark``."""
    parser.add_argument("--json", type=Path, help="write the figures there")


def publish(benchmark: Benchmark, file: Path | None) -> None:
    """Print the figures as a table, and write them to ``file`` if given."""
    print("\n".join(table(benchmark)))
    if file is not None:
        write_json(file, benchmark.model_dump())


def part(benchmark: Benchmark, script: str) -> str:
    """Return one benchmark as a part of a page: command, day, machine, data and figures."""
    facts = machine()
    head = (
        f"`python benchmarks/{script} --docs docs/performance.md`, on "
        f"{datetime.now(UTC):%d %B %Y}: {facts['processor']}, {facts['cores']} cores. "
        f"{benchmark.data}"
    )
    return "\n".join([head, "", *table(benchmark), ""])


def page(measurements: Measurements) -> str:
    """Return the part on speed of ``docs/performance.md``: figures, targets, and the machine."""
    benchmarks = [run.benchmark for run in measurements.runs if run.benchmark]
    judged = [(b.title, f) for b in benchmarks for f in b.figures if f.met is not None]
    missed = [(title, figure) for title, figure in judged if not figure.met]
    lines = [
        "Written by `fer bench`, all in one run on one machine. A ratio is to a floor or a peer",
        "that was measured in the same rounds.",
        "",
        f"{len(judged)} figures have a target; {len(judged) - len(missed)} reach it.",
        *_missed(missed),
        "",
        "| machine | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in measurements.machine.items()),
    ]
    for run in measurements.runs:
        if run.benchmark is None:
            lines += ["", f"## `{run.command}`", "", f"Not run: {run.skipped}."]
            continue
        lines += [
            "",
            f"## {run.benchmark.title}",
            "",
            f"`{run.command}`, {run.seconds:.0f} s. {run.benchmark.data}",
            "",
            *table(run.benchmark),
        ]
    return "\n".join(lines) + "\n"


def write_part(file: Path, name: str, text: str) -> None:
    """Replace the measured part ``name`` of a page by ``text``; the rest stays."""
    begin, end = f"<!-- measured: {name} -->\n", "<!-- end of measured -->"
    before, mark, rest = read_text(file).partition(begin)
    _, close, after = rest.partition(end)
    if not mark or not close:
        raise FerError(
            f"the page has no measured part {name}",
            code="missing-part",
            where=file,
            fix=f"put the lines {begin.strip()} and {end} where it belongs",
        )
    write_atomic(file, f"{before}{begin}{text}{end}{after}".encode())


def _missed(missed: list[tuple[str, Figure]]) -> list[str]:
    if not missed:
        return []
    head = ["", "| missed | figure | target | measured | why |", "| --- | --- | --- | ---: | --- |"]
    rows = (
        f"| {title} | {figure.name} | {_target(figure)} | "
        f"{_number(figure.measured, figure.unit)} | {figure.note} |"
        for title, figure in missed
    )
    return [*head, *rows]


def table(benchmark: Benchmark) -> list[str]:
    """Return the lines of a table of the figures, with their notes below it."""
    lines = ["| figure | of | target | measured | range |", "| --- | --- | --- | ---: | --- |"]
    notes: list[str] = []
    for figure in benchmark.figures:
        measured = _number(figure.measured, figure.unit)
        shown = f"**{measured}**, missed" if figure.met is False else measured
        name = figure.name
        if figure.note:
            if figure.note not in notes:
                notes.append(figure.note)
            name += f" ({notes.index(figure.note) + 1})"
        lines.append(
            f"| {name} | {figure.over or ''} | {_target(figure)} | {shown} | {_range(figure)} |"
        )
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return [*lines, *(["", *numbered] if numbered else [])]


def _target(figure: Figure) -> str:
    if figure.at_most is not None:
        return f"at most {_number(figure.at_most, figure.unit)}"
    if figure.at_least is not None:
        return f"at least {_number(figure.at_least, figure.unit)}"
    return ""


def _range(figure: Figure) -> str:
    if figure.low is None or figure.high is None or figure.rounds < 2:
        return ""
    low, high = _number(figure.low, ""), _number(figure.high, "")
    return f"{low} to {high}, {figure.rounds} rounds"


def _number(value: float, unit: str) -> str:
    if abs(value) >= 1000 or (value == round(value) and abs(value) >= 1):
        text = f"{value:,.0f}"
    elif abs(value) >= 100:
        text = f"{value:.1f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".strip()
