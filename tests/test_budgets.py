"""No function and no module of the packages is longer than a reader takes in at once."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION_LINES, MODULE_LINES = 60, 500
#: Longer functions, each with its reason.
LONG_FUNCTIONS = dict.fromkeys(
    (
        "fer_ml/recipes/builtin.py:sample",
        "fer_ml/recipes/builtin.py:ferplus",
        "fer_ml/recipes/builtin.py:paper",
    ),
    "a profile is data: one expression, read from top to bottom",
)
#: Longer modules, each with its reason.
LONG_MODULES: dict[str, str] = {}


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, int]]:
    """Each function by its qualified name, and how many lines it has."""
    for node in ast.iter_child_nodes(tree):
        named = within
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            named = f"{within}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield named, (node.end_lineno or 0) - node.lineno + 1
            named += "."
        yield from functions(node, named)


def lengths() -> tuple[dict[str, int], dict[str, int]]:
    """Lines of each function and of each module of the packages."""
    by_function: dict[str, int] = {}
    by_module: dict[str, int] = {}
    for package in ("fer_ml", "fer_assets", "demo_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            by_module[name] = len(text.splitlines())
            for function, lines in functions(ast.parse(text)):
                key = f"{name}:{function}"
                by_function[key] = max(lines, by_function.get(key, 0))  # A property has several.
    return by_function, by_module


@pytest.mark.parametrize("what", ["functions", "modules"])
def test_what_is_longer_than_its_budget_has_a_reason(what: str) -> None:
    """And a reason that is not needed any more is taken out."""
    by_function, by_module = lengths()
    found, budget, reasons = {
        "functions": (by_function, FUNCTION_LINES, LONG_FUNCTIONS),
        "modules": (by_module, MODULE_LINES, LONG_MODULES),
    }[what]
    assert len(found) > 100
    assert all(reasons.values())
    assert_within(found, budget, reasons)


def assert_within(found: Mapping[str, int], budget: int, reasons: Mapping[str, str]) -> None:
    over = {name: lines for name, lines in found.items() if lines > budget}
    assert {n: lines for n, lines in over.items() if n not in reasons} == {}, f"over {budget} lines"
    assert sorted(set(reasons) - set(over)) == [], "within its budget, or gone"


def test_functions_are_found_wherever_they_stand() -> None:
    tree = ast.parse(
        "class A:\n    @property\n    def b(self):\n        async def c():\n            pass\n"
        "if True:\n    def d():\n        pass\n"
    )
    assert dict(functions(tree)) == {"A.b": 3, "A.b.c": 2, "d": 2}
