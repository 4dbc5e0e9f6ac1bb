"""Estimate the cost of a number of images from the figures of a measured machine.

python benchmarks/sizing.py MEASUREMENTS [--rows 1000000000] [--memory-gib 16] [--docs FILE]

MEASUREMENTS is the ``measurements.json`` of ``fer bench``. A stage measured at 466,284 and at
4,662,840 rows grows by the exponent between the two; far above them that is an extrapolation.
``--docs`` writes the tables into the section ``sizing`` of that page.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_ml.figures.measurements import Measurements, write_part

SMALL, LARGE = 466_284, 4_662_840
DAY = 86_400
#: Bytes on disk for each image: 3 P^2 of a packed face, 576 of a thumb.
DISK = {"packed faces of 48 px": 3 * 48**2, "packed faces of 224 px": 3 * 224**2, "thumbs": 576}
NETWORKS = {"mobilenetv3_large_100": 16, "resnet18": 16, "convnext_tiny": 8}


@dataclass(frozen=True)
class Stage:
    """Seconds at ``SMALL`` and ``LARGE`` rows, and bytes per row (0: counted in another stage)."""

    name: str
    small: float
    large: float
    bytes_a_row: float

    @property
    def exponent(self) -> float:
        return math.log10(self.large / self.small)

    def hours(self, rows: float) -> float:
        return self.large * (rows / LARGE) ** self.exponent / 3600


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


def stages(figures: Figures) -> Iterator[Stage]:
    look = figures.of("Validating a manifest", "the same in full, in seconds", "s")
    # Measured at SMALL alone; each image is looked at once, so it is taken as linear.
    yield Stage("look at every image (48 px), and judge", look, 10 * look, 0)
    growth = "Growth of the data stages"
    for name in (
        "unify: groups, splits, twins, csv",
        "curate",
        "judge: read the csv, all rules",
    ):
        small, large = (figures.of(growth, f"{name}, {n:,} rows", "s") for n in (SMALL, LARGE))
        held = figures.of(growth, f"{name}: memory that a row adds over the last step", "B")
        yield Stage(name, small, large, held)
    near = "Near-identical faces"
    small, large = (figures.of(near, f"the search, {n:,} rows", "s") for n in (SMALL, LARGE))
    held = figures.of(near, f"memory that it adds, {LARGE:,} rows", "MB") * 1e6 / LARGE
    yield Stage("near-identical faces", small, large, held)


def tables(figures: Figures, rows: float, memory_gib: float) -> Iterator[str]:
    yield (
        f"{rows:,.0f} images, {rows / LARGE:,.0f} times the largest number that was measured, on "
        "such a machine:"
    )
    yield ""
    yield f"| stage | hours | memory | rows in {memory_gib:g} GiB | exponent of time |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for stage in stages(figures):
        held, fits = "see judge", "see judge"
        if stage.bytes_a_row:
            held = f"{rows * stage.bytes_a_row / 2**30:,.0f} GiB"
            fits = f"{memory_gib * 2**30 / stage.bytes_a_row / 1e6:,.0f} million"
        hours = stage.hours(rows)
        yield f"| {stage.name} | {hours:,.1f} | {held} | {fits} | {stage.exponent:.2f} |"
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
