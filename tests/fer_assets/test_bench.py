"""``fer bench``: every script is in the suite, runs, and its figures are kept as an artifact."""

from pathlib import Path

import pytest

from fer_assets import bench
from fer_assets.commands.bench import bench as command
from fer_ml.base.settings import settings
from fer_ml.figures.measurements import Measurements
from tests.machine import LINUX
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
#: Scripts that look at a UI which is running already, that compute from what was measured, that
#: look for faults, and that say how well something learns or is measured: speed is not theirs.
BY_HAND = {
    *("ui.py", "sizing.py", "learning.py", "small_faces.py"),
    *("choices.py", "clahe.py", "coverage.py", "framing.py", "fuzzing.py", "mutation.py"),
    *("peer_faces.py", "successor.py"),
}


def test_every_script_is_in_the_suite() -> None:
    scripts = {
        path.name
        for path in (ROOT / bench.FOLDER).glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert {script.name for script in bench.SUITE} == scripts - BY_HAND


def run(names: list[str], places: dict[str, Path]) -> tuple[Measurements, list[str]]:
    told: list[str] = []
    found = bench.measure(ROOT, bench.scripts(names), places, trial=True, tell=told.append)
    return found, told


@LINUX
@pytest.mark.parametrize(
    "name", ["fusion", "bootstrap", "unify", "growth", "validation", "peers", "claims"]
)
def test_a_script_gives_its_figures(name: str, tmp_path: Path) -> None:
    found, told = run([name], {})
    assert told[0].startswith(f"run   python benchmarks/{name}.py")
    (only,) = found.runs
    assert only.benchmark is not None and len(only.benchmark.figures) >= 3
    artifact = bench.keep(found, tmp_path)
    assert artifact.damage() is None
    docs = tmp_path / "performance.md"
    docs.write_text("By hand.\n<!-- measured: bench -->\nold\n<!-- end of measured -->\nAfter.\n")
    bench.publish(artifact, docs)
    text = docs.read_text()
    assert f"## {only.benchmark.title}" in text and "\nold\n" not in text
    assert text.startswith("By hand.\n") and text.endswith("\nAfter.\n")
    docs.write_text("By hand.\n")
    with refused("missing-part", where=docs):
        bench.publish(artifact, docs)


@LINUX
def test_a_script_without_what_it_needs_is_told_and_not_run() -> None:
    found, told = run(["demo"], {})
    assert told == ["skip  demo.py: needs --clips"]
    assert found.runs[0].benchmark is None
    assert found.runs[0].skipped == "it needs `--clips`"


@LINUX
def test_a_script_that_fails_is_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "load_time.py").write_text("raise SystemExit('no floor today')")
    (tmp_path / "benchmarks" / "fusion.py").write_bytes(
        (ROOT / "benchmarks/fusion.py").read_bytes()
    )
    scripts, told = bench.scripts(["load_time", "fusion"]), []
    found = bench.measure(tmp_path, scripts, {}, trial=True, tell=told.append)
    assert [one.failed for one in found.runs] == [True, False]
    assert "      no floor today" in told

    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "dagster_home").mkdir()
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FER_PROJECT", str(tmp_path))
    docs = tmp_path / "performance.md"
    docs.write_text("<!-- measured: bench -->\n<!-- end of measured -->\n")
    settings.cache_clear()
    try:
        with refused("benchmark-failed"):
            command(["load_time"], docs=docs)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert "Not run: it failed." in docs.read_text()


def test_elsewhere_than_on_linux_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "on_linux", lambda: False)
    with refused("unsupported-system"):
        run(["fusion"], {})


def test_unknown_names_and_an_installed_package_are_refused(tmp_path: Path) -> None:
    with refused("unknown-benchmark"):
        bench.scripts(["fast"])
    with refused("missing-benchmarks"):
        bench.measure(tmp_path, bench.scripts([]), {}, trial=True, tell=lambda line: None)


@pytest.mark.proof
def test_every_script_runs(tmp_path: Path) -> None:
    """Minutes: every script of the suite that draws what it needs, at its smallest."""
    drawn = [script.name.removesuffix(".py") for script in bench.SUITE if not script.needed]
    found, _ = run(drawn, {})
    assert len(found.runs) == len(drawn)
    assert all(one.benchmark is not None and one.benchmark.figures for one in found.runs)
