"""The command ``fer`` as a whole."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fer_assets.cli import app
from fer_assets.pipeline import Pipeline


def commands_of(group: Any, *above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, *above, name)
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(commands_of(typer.main.get_command(app), "fer"))


def test_the_commands() -> None:
    assert [name.removeprefix("fer ") for name in COMMANDS] == [
        *(
            "materialize",
            "ui",
            "validate",
            "digest",
            "trace",
            "evidence",
            "pack",
            "adopt",
            "export-lineage",
        ),
        *("convert", "purge", "bench", "doctor", "card", "migrate"),
        *("demo play", "demo camera", "demo web", "demo photo", "demo score", "demo buffer"),
        *("report check", "claims verify", "claims export", "claims values"),
        "claims schema",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_shows_an_example_of_it(name: str) -> None:
    examples = re.findall(r"Example: (.+)", COMMANDS[name].help)
    assert examples
    for example in examples:
        assert example == name or example.startswith(f"{name} ")


@pytest.mark.parametrize("words", [(), ("demo",), ("report",), ("claims",)])
def test_the_help_of_a_group_says_all_of_each_command(words: tuple[str, ...]) -> None:
    group: Any = typer.main.get_command(app)
    for word in words:
        group = group.commands[word]
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    said = " ".join(shown.split())
    for command in group.commands.values():
        first = " ".join(command.help.split("\n\n")[0].split())
        assert first.partition(". ")[0].rstrip(".") + "." in said


def test_the_version_is_that_of_the_package() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"fer-platform {version('fer-platform')}\n")


def test_help_loads_nothing_that_a_command_alone_needs() -> None:
    script = (
        "import sys, fer_assets.cli\n"
        "heavy = {'rich', 'dagster', 'numpy', 'pydantic', 'torch', 'cv2', 'demo_app'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_pipeline_of_the_project_is_found_from_below(
    project: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fer_ml.base.settings import find_project

    pipeline = project("tiny")
    monkeypatch.delenv("FER_PROJECT")
    monkeypatch.chdir(pipeline.settings.project / "claims")
    assert find_project() == pipeline.settings.project
