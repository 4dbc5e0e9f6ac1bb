"""Estimate the cost of a number of images from the figures of a measured machine.

python benchmarks/sizing.py MEASUREMENTS [--rows 1000000000] [--memory-gib 16] [--docs FILE]

MEASUREMENTS is the ``measurements.json`` of ``fer bench``. A stage grows by the exponent between
the two largest numbers of rows that it was measured at; far above that is an extrapolation.
``--docs`` writes the tables into the section ``sizing`` of that page.
"""

import argparse
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_ml.figures.measurements import Measurements, write_part

DAY = 86_400
#: Rows of ``validation.py``.
LOOKED_AT = 466_284
#: Bytes on disk for each image: 3 P^2 of a packed face, 576 of a thumb.
DISK = {"packed faces of 48 px": 3 * 48**2, "packed faces of 224 px": 3 * 224**2, "thumbs": 576}
NETWORKS = {"mobilenetv3_large_100": 16, "resnet18": 16, "convnext_tiny": 8}


@dataclass(frozen=True)
class Stage:
    """``seconds`` by number of rows, two at least, and bytes per row (None: those of judge)."""

    name: str
    seconds: dict[int, float]
    bytes_a_row: float | None

    @property
    def largest(self) -> int:
        return max(self.seconds)

    @property
    def exponent(self) -> float:
        small, large = sorted(self.seconds)[-2:]
        return math.log(self.seconds[large] / self.seconds[small]) / math.log(large / small)

    def hours(self, rows: float) -> float:
        return self.seconds[self.largest] * (rows / self.largest) ** self.exponent / 3600


class Figures:
    """Measured figures by benchmark title and figure name; the first with the unit counts."""

    def __init__(self, file: Path) -> None:
        held = Measurements.model_validate_json(file.read_bytes())
        self._held = [run.benchmark for run in held.runs if run.benchmark is not None]

    def of(self, title: str, name: str, unit: str) -> float:
        for benchmark in self._held:
            for figure in benchmark.figures:
                if (benchmark.title, figure.name, figure.unit) == (title, name, unit):
                    return figure.measured
        raise SystemExit(f"not measured: {title}: {name} ({unit})")

    def by_rows(self, title: str, name: str) -> dict[int, float]:
        """Return the seconds of the figures ``<name>, <n> rows`` by their number of rows."""
        named = re.compile(re.escape(name) + r", ([\d,]+) rows")
        found = {
            int(match[1].replace(",", "")): figure.measured
            for benchmark in self._held
            for figure in benchmark.figures
            if benchmark.title == title
            and figure.unit == "s"
            and (match := named.fullmatch(figure.name))
        }
        if len(found) < 2:
            raise SystemExit(f"not measured at two numbers of rows: {title}: {name}")
        return found


def stages(figures: Figures) -> Iterator[Stage]:
    look = figures.of("Validating a manifest", "the same in full, in seconds", "s")
    # Measured at one number; each image is looked at once, so it is taken as linear.
    looked = {LOOKED_AT // 10: look / 10, LOOKED_AT: look}
    yield Stage("look at every image (48 px), and judge", looked, None)
    growth = "Growth of the data stages"
    for name in (
        "unify: groups, splits, twins, csv",
        "curate",
        "judge: read the csv, all rules",
    ):
        held = figures.of(growth, f"{name}: memory that a row adds over the last step", "B")
        yield Stage(name, figures.by_rows(growth, name), held)
    near = "Near-identical faces"
    seconds = figures.by_rows(near, "the search")
    largest = max(seconds)
    held = figures.of(near, f"memory that it adds, {largest:,} rows", "MB") * 1e6 / largest
    yield Stage("near-identical faces", seconds, held)


def tables(figures: Figures, rows: float, memory_gib: float) -> Iterator[str]:
    yield (
        f"{rows:,.0f} images, on such a machine; each stage was measured at no more than the rows "
        "that its line names:"
    )
    yield ""
    within = f"rows in {memory_gib:g} GiB"
    yield f"| stage | measured at | hours | memory | {within} | exponent of time |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for stage in stages(figures):
        held, fits = "see judge", "see judge"
        if stage.bytes_a_row is not None:
            held = f"{rows * stage.bytes_a_row / 2**30:,.0f} GiB more"
            most = memory_gib * 2**30 / stage.bytes_a_row / 1e6 if stage.bytes_a_row else None
            fits = "any number" if most is None else f"{most:,.0f} million"
        figures_of = f"{stage.largest:,} | {stage.hours(rows):,.1f} | {held} | {fits}"
        yield f"| {stage.name} | {figures_of} | {stage.exponent:.2f} |"
    yield ""
    yield "| one epoch of, at 224 px | days |"
    yield "| --- | ---: |"
    for name, batch in NETWORKS.items():
        title, row = "The training loop", f"{name}, {batch} rows a step"
        rate = figures.of(title, row, "images a second")
        yield f"| {name} | {rows / rate / DAY:,.0f} |"
    yield ""
    yield "| on disk | TB |"
    yield "| --- | ---: |"
    for name, size in DISK.items():
        yield f"| {name} | {rows * size / 1e12:,.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--memory-gib", type=float, default=16)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    text = "\n".join(tables(Figures(given.measurements), given.rows, given.memory_gib)) + "\n"
    print(text)
    if given.docs:
        write_part(given.docs, "sizing", text)


if __name__ == "__main__":
    main()
