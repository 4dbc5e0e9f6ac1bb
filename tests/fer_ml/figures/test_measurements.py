"""Figures, their targets, and the page made of them."""

from pathlib import Path

import pytest

from fer_ml.figures.measurements import Benchmark, Figure, Measurements, Run, machine, page, publish


def test_a_figure_is_the_median_of_its_rounds_with_their_range() -> None:
    figure = Figure.of("f", [3.0, 1.0, 2.5], "s", at_most=2.5)
    assert (figure.measured, figure.low, figure.high, figure.rounds) == (2.5, 1.0, 3.0, 3)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        ({"at_most": 2.0}, True),
        ({"at_most": 1.9}, False),
        ({"at_least": 2.0}, True),
        ({"at_least": 2.1}, False),
        ({}, None),
    ],
)
def test_a_target_is_reached_missed_or_absent(target: dict[str, float], met: bool | None) -> None:
    assert Figure(name="f", measured=2.0, **target).met is met


def test_the_page_says_what_was_missed_and_what_was_not_run() -> None:
    figures = (
        Figure.of("slow", [1.2, 1.4, 1.3], over="the floor", at_most=1.1, note="It hashes too."),
        Figure(name="fast", measured=466_284, unit="rows a second", at_least=1000),
        Figure(name="told", measured=0.25, unit="GiB"),
    )
    text = page(
        Measurements(
            machine={"cores": "2"},
            runs=(
                Run(
                    command="python benchmarks/a.py",
                    seconds=12.4,
                    benchmark=Benchmark(title="A", data="Drawn faces.", figures=figures),
                ),
                Run(command="python b.py", seconds=0, benchmark=None, skipped="it needs `--clips`"),
            ),
        )
    )
    assert "2 figures have a target; 1 reach it.\n\n| missed | figure |" in text
    assert "| A | slow | at most 1.1 times | 1.3 times | It hashes too. |" in text
    slow = (
        "| slow (1) | the floor | at most 1.1 times | **1.3 times**, missed | 1.2 to 1.4, 3 rounds"
    )
    assert slow in text
    assert "| fast |  | at least 1,000 rows a second | 466,284 rows a second |  |" in text
    assert "| told |  |  | 0.25 GiB |  |" in text
    assert "1. It hashes too." in text
    assert "Not run: it needs `--clips`." in text
    assert "`python benchmarks/a.py`, 12 s. Drawn faces." in text


def test_what_is_published_is_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = Benchmark(title="A", data="d", figures=(Figure(name="f", measured=2.0),))
    publish(benchmark, tmp_path / "f.json")
    assert Benchmark.model_validate_json((tmp_path / "f.json").read_bytes()) == benchmark
    assert "| f |  |  | 2 times |  |" in capsys.readouterr().out


def test_the_machine_is_named() -> None:
    found = machine()
    assert {"processor", "cores", "memory", "load before", "Python", "torch"} <= found.keys()
    assert all(found.values())
