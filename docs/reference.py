"""Write the generated parts of docs/reference.md from the code: python docs/reference.py

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end of generated -->``; what stands
outside is written by hand. A test compares the page with what this writes.
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from fer_assets.cli import app
from fer_assets.stage import Stage, in_order
from fer_assets.stages import stages_of_all_profiles
from fer_ml.storage.gates import Gate
from fer_ml.validation.gates import MANIFEST_GATES

PAGE = Path(__file__).parent / "reference.md"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines
    )


# -- commands ----------------------------------------------------------------------------------


def commands() -> str:
    """Every command of ``fer``: what it does, an example, its arguments and options."""
    found = _commands_below(typer.main.get_command(app), "fer")
    return "\n\n".join(_command(name, command) for name, command in found)


def _commands_below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for below, held in getattr(command, "commands", {}).items():
        yield from _commands_below(held, f"{name} {below}")


def _command(name: str, command: Any) -> str:
    said, *examples = re.split(r"\s*Example: ", inspect.cleandoc(command.help))
    rows = [_parameter(each) for each in command.params]
    parts = [
        f"### {name}",
        said,
        "```console\n" + "".join(f"$ {example}\n" for example in examples) + "```",
        table(("option", "takes", "default", "meaning"), rows) if rows else "",
    ]
    return "\n\n".join(filter(None, parts))


def _parameter(held: Any) -> tuple[str, str, str, str]:
    named = held.param_type_name == "option"
    name = ", ".join(f"`{each}`" for each in held.opts) if named else f"`{held.name.upper()}`"
    kind = held.type_descriptor.annotation
    (kind,) = typing.get_args(kind) or (kind,)
    takes = {bool: "", str: "text", Path: "path", int: "whole number", float: "number"}[kind]
    several = held.nargs == -1 or getattr(held, "multiple", False)
    default = "required" if held.required else ""
    if held.default not in (None, False):
        default = f"`{held.default}`"
    return name, takes + ", several" * several, default, held.help


# -- gates -------------------------------------------------------------------------------------


def gates() -> str:
    """Every gate of every built-in profile; one table for assets that are asked the same."""
    holders: dict[Gate, list[str]] = {}
    stages = in_order(stages_of_all_profiles().values())
    for stage in stages:
        family = _family(stage)
        for gate in stage.gates:
            if family != "hq_train_manifest" or gate not in MANIFEST_GATES:
                assets = holders.setdefault(gate, [])
                assets += [f"`{family}`"] * (f"`{family}`" not in assets)
    tables: dict[str, list[tuple[str, ...]]] = {}
    for gate, assets in holders.items():
        blocks = "yes" if gate.blocking else "warns"
        if gate.blocks_with:
            blocks += f"; yes where `{gate.blocks_with}` is set"
        tables.setdefault(", ".join(assets), []).append(
            (f"`{gate.rule}`", gate.asks, blocks, gate.fix)
        )
    head = ("gate", "what it asks", "blocks", "when it fails")
    return "\n\n".join(f"Of {assets}:\n\n{table(head, rows)}" for assets, rows in tables.items())


def _family(stage: Stage) -> str:
    """The name of all assets that one declaration makes."""
    for start, name in (("manifest/", "source"), ("comparison/", "name")):
        if stage.asset.startswith(start):
            return f"{start}<{name}>"
    return "*_manifest" if stage.gates == MANIFEST_GATES else stage.asset


# -- the page ----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {"commands": commands, "gates": gates}


def written(page: str) -> str:
    """The page with its generated parts as the code has them now."""
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
