"""The estimate for a number of images grows each stage as its two largest measurements say."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fer_ml.figures.measurements import Benchmark, Figure, Measurements, Run

TITLE = "Growth of the data stages"


def measured(folder: Path, seconds: dict[int, float]) -> Path:
    figures = (Figure(name=f"curate, {n:,} rows", measured=s, unit="s") for n, s in seconds.items())
    benchmark = Benchmark(title=TITLE, data="synthetic", figures=tuple(figures))
    run = Run(command="python benchmarks/growth.py", seconds=1.0, benchmark=benchmark)
    file = folder / "measurements.json"
    file.write_text(Measurements(machine={}, runs=(run,)).model_dump_json())
    return file


def test_a_stage_grows_by_the_exponent_between_its_two_largest_numbers(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    sizing = script("sizing")
    file = measured(tmp_path, {1_000: 500.0, 10_000: 10.0, 1_000_000: 100_000.0})
    stage = sizing.Stage("curate", sizing.Figures(file).by_rows(TITLE, "curate"), 30.0)
    assert stage.largest == 1_000_000
    assert stage.exponent == pytest.approx(2)
    # A tenfold number takes a hundredfold time.
    assert stage.hours(10_000_000) == pytest.approx(100 * 100_000 / 3600)


def test_one_number_of_rows_says_nothing_of_growth(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    file = measured(tmp_path, {1_000: 1.0})
    with pytest.raises(SystemExit):
        script("sizing").Figures(file).by_rows(TITLE, "curate")
