"""Write the generated parts of the pages in docs/ from the code: python docs/reference.py

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end of generated -->``; what stands
outside is written by hand. A test compares the pages with what this writes.
"""

import ast
import importlib
import inspect
import json
import re
import runpy
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, asdict, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import typer
from pydantic import BaseModel, SecretStr

from fer_assets.cli import app
from fer_assets.columns import COLUMNS, MANIFEST_COLUMNS
from fer_assets.stage import Given, Stage, in_order
from fer_assets.stages import all_stages, stages_of_all_profiles
from fer_ml.base.settings import Environment, UserConfig
from fer_ml.base.versions import VERSIONS
from fer_ml.bundles.bundle import Card
from fer_ml.bundles.provenance import Chain
from fer_ml.claims.formulas import FORMULAS
from fer_ml.claims.model import Claim, Measured
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node
from fer_ml.privacy.log import Log
from fer_ml.recipes.builtin import PROFILES
from fer_ml.recipes.profile import Profile
from fer_ml.recipes.training import Within
from fer_ml.report.references import References
from fer_ml.storage.gates import Gate
from fer_ml.storage.looks import Look
from fer_ml.storage.pointer import Pointer
from fer_ml.storage.record import Receipt, Record, is_volatile
from fer_ml.validation.gates import MANIFEST_GATES

DOCS = Path(__file__).parent
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


# -- settings ----------------------------------------------------------------------------------


def settings() -> str:
    """The variables of the environment, and the keys of ``fer.toml``."""
    return f"{_fields(Environment)}\n\nKeys of `fer.toml`:\n\n{_fields(UserConfig)}"


# -- recipes -----------------------------------------------------------------------------------


def recipes() -> str:
    """Every table of a profile, with its fields."""
    found = [Profile]
    for kind in found:
        found += dict.fromkeys(part for part in _parts(kind) if part not in found)
    return "\n\n".join(
        f"### {_heading(kind)}\n\n{_said(kind)}\n\n{_fields(kind)}" for kind in found
    )


def _heading(kind: type) -> str:
    return f"{kind.__name__} fields"


def _parts(kind: type) -> Iterator[type]:
    """The tables that a recipe's fields take."""
    for hint in typing.get_type_hints(kind).values():
        yield from _parts_of(hint)


def _parts_of(hint: Any) -> Iterator[type]:
    left = [hint]
    while left:
        hint = left.pop(0)
        left = [*typing.get_args(hint), *left]
        if _is_recipe(hint):
            yield hint


def _is_recipe(hint: Any) -> bool:
    return isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel))


def _fields(kind: type) -> str:
    """The fields of a model or dataclass: below each in its source stands what it means."""
    said, hints = {}, typing.get_type_hints(kind, include_extras=True)
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("fer_"):
            (body,) = ast.parse(inspect.getsource(each)).body
            said |= _below(body.body)
    rows = [
        (f"`{name}`", takes(hint), _default(kind, name), _range(kind, name, hint), said[name])
        for name, hint in hints.items()
        if typing.get_origin(hint) is not ClassVar
    ]
    ranged = any(row[3] for row in rows)
    head = ("name", "takes", "default", *("range",) * ranged, "meaning")
    return table(head, (row if ranged else (*row[:3], row[4]) for row in rows))


def _below(body: list[ast.stmt]) -> dict[str, str]:
    """The text below each field."""
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _default(kind: type, name: str) -> str:
    if issubclass(kind, BaseModel):
        field = kind.model_fields[name]
        value = MISSING if field.is_required() else field.default
    else:
        value = kind.__dataclass_fields__[name].default
    if value is MISSING:
        return "required"
    if value in (None, "", {}, ()) or (is_dataclass(value) or isinstance(value, BaseModel)):
        return ""
    return f"`{json.dumps(value, default=asdict)}`"


#: Limits of a number, as pydantic and ``Within`` name them.
LIMITS = {
    "ge": "at least",
    "low": "at least",
    "gt": "above",
    "le": "at most",
    "high": "at most",
    "lt": "below",
}


def _range(kind: type, name: str, hint: Any) -> str:
    of_model = issubclass(kind, BaseModel)
    held = kind.model_fields[name].metadata if of_model else getattr(hint, "__metadata__", ())
    found = (
        (words, getattr(each, limit, None)) for each in held for limit, words in LIMITS.items()
    )
    return ", ".join(
        f"{words} {value}" for words, value in found if value not in (None, Within(0).high)
    )


#: What stands in a table for a type.
KINDS = {
    bool: "true or false",
    str: "text",
    SecretStr: "text",
    int: "whole number",
    float: "number",
    Path: "path",
    Any: "value",
}


def takes(hint: Any) -> str:
    """What a field of this type takes, in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return takes(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(takes(part) for part in parts if part is not type(None))
    if origin is dict:
        return f"table of {takes(parts[1])}"
    if origin is tuple:
        several = "" if parts[-1] is Ellipsis else f"{len(parts)} times "
        return f"list of {several}{takes(parts[0])}"
    if _is_recipe(hint):
        return f"[{hint.__name__}](#{_heading(hint).lower().replace(' ', '-')})"
    return KINDS[hint]


# -- artifacts ---------------------------------------------------------------------------------


def artifacts() -> str:
    """Each asset: what it is, what it is made of, and what the files of its run folder hold."""
    modules: dict[str, list[Stage]] = {}
    for stage in in_order(stages_of_all_profiles().values()):
        modules.setdefault(stage.module, []).append(stage)
    same_files: dict[int, str] = {}
    parts = []
    for name, found in modules.items():
        held = id(found[0].holds)
        parts.append(_asset(name, found, same_files.get(held)))
        same_files.setdefault(held, found[0].asset)
    return "\n\n".join(parts)


def _asset(module: str, stages: list[Stage], alike: str | None) -> str:
    first = stages[0]
    names = list(dict.fromkeys(_named(stage.asset) for stage in stages))
    parts = f", a partition for each of `{first.partitions}`" if first.partitions else ""
    needed = dict.fromkeys(_named(need.asset) for stage in stages for need in stage.needs)
    made = ", ".join(f"`{name}`" for name in (["raw/<source>"] if first.raw else list(needed)))
    said = first.describe if len(stages) == 1 else _said(importlib.import_module(module))
    files = ((f"`{name}`" + "\\*" * is_volatile(name), text) for name, text in first.holds.items())
    held = f"Files: as of [{alike}](#{alike})." if alike else table(("file", "holds"), files)
    else_of = "its claims" if first.group == "report" else "`fer adopt`"
    return "\n\n".join(
        (
            f"### {', '.join(names).replace('<', '&lt;').replace('>', '&gt;')}",
            said,
            f"Group `{first.group}`{parts}. Made of {made or else_of}, by `{module}`.",
            held,
        )
    )


def _named(asset: str) -> str:
    return re.sub("^(manifest|comparison)/.*", lambda kind: f"{kind[1]}/<name>", asset)


def schemas() -> str:
    """The files that a type or a function declares."""
    return "\n\n".join(f"### {name}\n\n{_schema(held)}" for name, held in SCHEMAS.items())


def _schema(held: Any) -> str:
    return f"{_said(held)}{f' Fields: {_keys(held)}.' if _is_recipe(held) else ''}"


def _keys(kind: type) -> str:
    hints = typing.get_type_hints(kind)
    return ", ".join(
        f"`{name}`" + "".join(f" ({_keys(part)})" for part in _parts_of(hint))
        for name, hint in hints.items()
        if typing.get_origin(hint) is not ClassVar
    )


#: Files beside those of the assets, and what declares them.
SCHEMAS: dict[str, Any] = {
    "record.json": Record,
    "receipts/&lt;rule&gt;.json": Receipt,
    "current.json": Pointer,
    "purged.json": Log,
    "looks.jsonl": Look,
    "card.json": Card,
    "lineage.json": Chain,
    "Entries of claims.json": Resolved.to_json,
    "Lineage of claims.json": Node.to_json,
}


# -- columns -----------------------------------------------------------------------------------


def columns() -> str:
    """What the columns of tables mean."""
    parts = []
    for name, held in {"a manifest": MANIFEST_COLUMNS, **COLUMNS}.items():
        rows = ((f"`{column}`", text.replace("<", "&lt;")) for column, text in held.items())
        parts.append(f"Of {name}:\n\n{table(('column', 'meaning'), rows)}")
    return "\n\n".join(parts)


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
    return "*_manifest" if stage.gates == MANIFEST_GATES else _named(stage.asset)


# -- errors ------------------------------------------------------------------------------------


def errors() -> str:
    """Every code of an error: its message where it stands first, and the modules that raise it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for package in ("fer_ml", "fer_assets", "demo_app"):
        for path in sorted((DOCS.parent / package).rglob("*.py")):
            module = ".".join(path.relative_to(DOCS.parent).with_suffix("").parts)
            for code, message in _raised(ast.parse(path.read_text("utf-8"))):
                found.setdefault(code, (message, []))[1].append(f"`{module}`")
    rows = (
        (f"`{code}`", message.replace("<", "&lt;"), ", ".join(dict.fromkeys(modules)))
        for code, (message, modules) in sorted(found.items())
    )
    return table(("code", "such as", "raised by"), rows)


def _raised(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            codes = [word.value for word in node.keywords if word.arg == "code"]
            for code in codes:
                if isinstance(code, ast.Constant):
                    yield code.value, _message(node.args[0])


def _message(node: ast.expr) -> str:
    """A message as it is written, with ``...`` for what is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_message, node.values))
    if isinstance(node, ast.BinOp):
        return _message(node.left) + _message(node.right)
    return " ".join(str(node.value).split("\n")) if isinstance(node, ast.Constant) else "..."


# -- claims ------------------------------------------------------------------------------------


def kinds() -> str:
    """Every kind of claim: the fields that it alone has, and when it is grounded."""
    union, _ = typing.get_args(Claim)
    return table(("kind", "fields", "grounded when"), map(_kind, typing.get_args(union)))


def _kind(kind: type[BaseModel]) -> tuple[str, str, str]:
    shared = Measured if issubclass(kind, Measured) else Measured.__base__
    own = [name for name in kind.model_fields if name not in shared.model_fields]
    own.remove("kind")
    (name,) = typing.get_args(kind.model_fields["kind"].annotation)
    return f"`{name}`", ", ".join(f"`{each}`" for each in own), _said(kind)


def formulas() -> str:
    """Every formula that a text may state, with its terms."""
    rows = (
        (
            f"`{name}`",
            f"`{held.expression}`",
            "; ".join(f"`{k}`: {v}" for k, v in held.terms.items()),
        )
        for name, held in FORMULAS.items()
    )
    return table(("name", "what the code computes", "terms"), rows)


def helpers() -> str:
    """Every function that a template may call."""
    held = inspect.getmembers(References, inspect.isfunction)
    named = [(name, each) for name, each in held if not name.startswith("_") and name != "helpers"]
    rows = ((f"`{name}{_call(each)}`", _said(each)) for name, each in named)
    return table(("in a template", "prints"), rows)


def _call(function: Callable[..., object]) -> str:
    """``(asset, file, decimals=)``."""
    _, *given = inspect.signature(function).parameters.values()
    return f"({', '.join(each.name + '=' * (each.kind is each.KEYWORD_ONLY) for each in given)})"


def _said(held: object) -> str:
    """A docstring in one line of a table."""
    text = re.sub(r"\n+- ", "<br>", inspect.getdoc(held) or "")
    return " ".join(text.split()).replace("``", "`")


# -- tests -------------------------------------------------------------------------------------


def threats() -> str:
    """Every threat, what stops it, and the tests that show it."""
    return _table_of_tests("threat", "what stops it")


def faults() -> str:
    """Every fault of a machine or a process, what it leads to, and the tests that show it."""
    return _table_of_tests("fault", "what happens")


def _table_of_tests(marker: str, outcome: str) -> str:
    rows = (
        (what, " ".join(outcomes), "<br>".join(f"`{test}`" for test in tests))
        for what, outcomes, tests in shown_by_tests(marker)
    )
    return table((marker, outcome, "tests"), rows)


def shown_by_tests(marker: str) -> list[tuple[str, list[str], list[str]]]:
    """What tests show by ``@pytest.mark.<marker>(what, outcome)``, with outcomes and tests.

    Only the first test of each has an ``outcome``.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for path in sorted((DOCS.parent / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            for call in getattr(node, "decorator_list", ()):
                if ast.unparse(call).startswith(f"pytest.mark.{marker}("):
                    what, *outcome = map(ast.literal_eval, call.args)
                    outcomes, tests = found.setdefault(what, ([], []))
                    outcomes += outcome
                    tests.append(f"{path.relative_to(DOCS.parent).as_posix()}::{node.name}")
    return sorted((what, *held) for what, held in found.items())


# -- rooms and stages --------------------------------------------------------------------------


def rooms() -> str:
    """Every room of the code in the order of its imports, by the first line of its docstring."""
    structure = runpy.run_path(str(DOCS.parent / "tests" / "test_structure.py"))
    rows = []
    for room in structure["STREAM"]:
        name = room if room.partition(".")[0] in structure["FORBIDDEN"] else f"fer_ml.{room}"
        said = importlib.import_module(name).__doc__ or ""
        rows.append((f"`{name}`", said.partition("\n")[0].replace("``", "`")))
    return table(("room", "contents"), rows)


def stages() -> str:
    """Every stage of the built-in profiles: its inputs, and the module that declares it."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for profile in PROFILES.values():
        for stage in in_order(all_stages(Given(profile())).values()):
            _, inputs = rows.setdefault(_named(stage.asset), (stage.module, []))
            named = ["`raw/<source>`"] if stage.raw else []
            named += [
                f"`{_named(need.asset)}`" + f" [{need.partition}]" * (need.partition != "one")
                for need in stage.needs
            ]
            inputs += [name for name in dict.fromkeys(named) if name not in inputs]
    return table(
        ("asset", "inputs", "module"),
        (
            (f"`{name}`", ", ".join(inputs), f"`{module.rpartition('.')[2]}`")
            for name, (module, inputs) in rows.items()
        ),
    )


def _named(asset: str) -> str:
    """One name for the manifests of all sources, and one for all comparisons."""
    for start, name in (("manifest/", "source"), ("comparison/", "name")):
        if asset.startswith(start):
            return f"{start}<{name}>"
    return asset


# -- versions ----------------------------------------------------------------------------------


def versions() -> str:
    """Every kind of file that has had more than one version."""
    rows = (
        (
            f"`{kind}`" if "." in kind else kind,
            str(held.written),
            f"{held.oldest} to {held.written}",
        )
        for kind, held in sorted(VERSIONS.items())
    )
    return table(("file", "written", "read"), rows)


# -- the pages ---------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "recipes": recipes,
    "artifacts": artifacts,
    "schemas": schemas,
    "columns": columns,
    "gates": gates,
    "errors": errors,
    "kinds": kinds,
    "formulas": formulas,
    "helpers": helpers,
    "threats": threats,
    "faults": faults,
    "versions": versions,
    "rooms": rooms,
    "stages": stages,
}


def written(page: str) -> str:
    """A page with its generated parts as the code has them now."""
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", page)


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        text = path.read_text("utf-8")
        if PART.search(text):
            path.write_text(written(text), "utf-8")
