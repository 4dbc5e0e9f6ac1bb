"""What a number of images costs on two cores, computed from rates that were measured.

python benchmarks/sizing.py [--rows 1000000000] [--memory-gib 16]

Every rate stands in docs/performance.md and was written by the benchmark named beside it. A stage
that was measured at 466,284 and at 4,662,840 rows grows by the exponent between the two; far above
them that is an extrapolation, and the table says by which factor.
"""

import argparse
import math
from dataclasses import dataclass

SMALL, LARGE = 466_284, 4_662_840
DAY = 86_400


@dataclass(frozen=True)
class Stage:
    """Seconds at ``LARGE`` rows, how many times those at ``SMALL``, and bytes held for each row."""

    name: str
    seconds: float
    times: float
    bytes_a_row: float
    source: str

    def at(self, rows: float) -> float:
        """Seconds for ``rows``."""
        return self.seconds * (rows / LARGE) ** math.log10(self.times)


STAGES = (
    # Measured at SMALL alone (12.3 s); each image is looked at once, so it is taken as linear.
    Stage("look at every image (48 px), and judge", 123.0, 10.0, 0.0, "validation.py"),
    Stage("unify", 40.1, 11.4, 1000, "growth.py"),
    Stage("curate", 13.6, 10.1, 800, "growth.py"),
    Stage("judge alone", 36.1, 14.3, 1300, "growth.py"),
    Stage("near-identical faces", 153.0, 153 / 5.4, 680e6 / LARGE, "near_duplicates.py"),
)
#: Images a second of a training step, 224 px, fp32 (training.py).
TRAINING = {"mobilenetv3_large_100": 35.15, "resnet18": 15.46, "convnext_tiny": 4.15}
#: Bytes on disk for each image: 3 P^2 of a packed face, 576 of a thumb.
DISK = {"packed faces of 48 px": 3 * 48**2, "packed faces of 224 px": 3 * 224**2, "thumbs": 576}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--memory-gib", type=float, default=16)
    given = parser.parse_args()
    rows = given.rows
    print(f"{rows:,.0f} images, {rows / LARGE:,.0f} times the largest number that was measured\n")
    memory = f"rows in {given.memory_gib:g} GiB"
    print(f"| stage | hours on two cores | memory | {memory} | exponent | measured by |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for stage in STAGES:
        held = f"{rows * stage.bytes_a_row / 2**30:,.0f} GiB" if stage.bytes_a_row else "see judge"
        most = given.memory_gib * 2**30 / stage.bytes_a_row / 1e6 if stage.bytes_a_row else math.inf
        fits = f"{most:,.0f} million" if math.isfinite(most) else "see judge"
        hours = stage.at(rows) / 3600
        exponent = math.log10(stage.times)
        print(
            f"| {stage.name} | {hours:,.1f} | {held} | {fits} | {exponent:.2f} | {stage.source} |"
        )
    print("\n| one epoch of | days on two cores |\n| --- | ---: |")
    for name, rate in TRAINING.items():
        print(f"| {name}, 224 px | {rows / rate / DAY:,.0f} |")
    print("\n| on disk | TB |\n| --- | ---: |")
    for name, size in DISK.items():
        print(f"| {name} | {rows * size / 1e12:,.1f} |")


if __name__ == "__main__":
    main()
