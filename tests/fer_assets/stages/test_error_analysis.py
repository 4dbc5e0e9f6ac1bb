"""The analysis counts every mistake of the benchmark that it is of."""

from typing import Any

from fer_assets.stage import Limits, Recipe
from fer_assets.stages import benchmark, error_analysis
from fer_assets.stages.benchmark import BenchmarkRecipe
from fer_assets.stages.error_analysis import GATES


def test_the_gate_counts_the_mistakes_again(lineage: Any) -> None:
    job = lineage.job("benchmark", recipe=BenchmarkRecipe("temperature"))
    lineage.held["benchmark"] = lineage.made(benchmark.build, job)
    job = lineage.job("error_analysis", ["benchmark", "test_all_sources_manifest"], recipe=Recipe())
    analysed = lineage.made(error_analysis.build, job)

    def passed() -> bool:
        (outcome,) = error_analysis.judge(analysed, lineage.store, Limits())
        assert outcome.rule == GATES[0].rule == "every_mistake_counted"
        return bool(outcome.passed)

    assert passed()
    path = analysed.file("confusions.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert not passed()
